"""Settings of a DuckDB connection, and a look at what it holds: DuckDB SQL. A `?` is a bind parameter."""

from __future__ import annotations

HIDE_PROGRESS_BAR = "SET enable_progress_bar = false"
IGNORE_STATISTICS = "SET disabled_optimizers = 'statistics_propagation,filter_pushdown'"
"""Read every value, even where the statistics of its file make that seem needless."""
SHOW_INSTANTS_IN_UTC = "SET TimeZone = 'UTC'"
"""Text of instants is the same on every machine."""
SET_MEMORY_LIMIT = "SET memory_limit = ?"
SET_TEMP_DIRECTORY = "SET temp_directory = ?"
FIND_RELATION = "FROM information_schema.tables WHERE table_name = ?"


def set_threads(threads: int) -> str:
    """Limit the number of threads."""
    return f"SET threads = {threads:d}"


def count_rows(relation: str) -> str:
    """Count the rows of a table or view."""
    return f"SELECT count(*) FROM {relation}"


def create_temp_table(name: str, query: str) -> str:
    """Keep the rows of a query in a temporary table that must not exist yet."""
    return f"CREATE TEMP TABLE {name} AS {query}"


def replace_temp_table(name: str, query: str) -> str:
    """Keep the rows of a query in a temporary table, in place of one of the same name."""
    return f"CREATE OR REPLACE TEMP TABLE {name} AS {query}"
