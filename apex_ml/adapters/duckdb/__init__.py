"""DuckDB: connections, row checks, profiles."""
