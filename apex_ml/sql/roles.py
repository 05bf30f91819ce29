"""Names of roles, for programs without the contract: Airflow's image has no Arrow."""

from __future__ import annotations


def reader_role(pipeline: str) -> str:
    """The role that reads the views of a pipeline alone.

    >>> reader_role("visits")
    'visits_reader'
    """
    return f"{pipeline}_reader"
