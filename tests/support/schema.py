"""The schema of the pipeline that most tests use."""

SCHEMA = "orders"
