"""Everything outside the process: files, Postgres, MLflow, Great Expectations, DuckDB, alert channels."""
