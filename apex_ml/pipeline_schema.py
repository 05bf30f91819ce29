"""The Postgres schema of the pipeline, for callers that do not load one: Airflow's image cannot read a contract."""

from __future__ import annotations

SCHEMA = "orders"
"""The schema of the only pipeline."""
