"""Postgres: ledgers, scores, monitoring."""
