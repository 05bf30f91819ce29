"""Names of roles, for callers without the contract: Airflow's image has no Arrow."""

from __future__ import annotations


def reader_role(pipeline: str) -> str:
    """The role that reads the views of a pipeline alone.

    >>> reader_role("orders")
    'orders_reader'
    """
    return f"{pipeline}_reader"
