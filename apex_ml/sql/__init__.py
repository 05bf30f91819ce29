"""SQL text: all of DuckDB, and of Postgres what depends on the contract. Modules return text and run nothing."""
