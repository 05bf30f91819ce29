"""Operators: one Airflow task is one `apex` command."""
