"""Outcomes of scored rows, in a drop itself and in accepted raw rows: DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.sql.features import class_sql
from apex_ml.sql.parquet import scan_parquet_files
from apex_ml.sql.quote import identifiers, literals
from apex_ml.sql.session import create_temp_table

PART = "part"
"""Relation of one part of the current scores."""
CREATE_SCORES = create_temp_table("scores", f"SELECT * FROM {PART}")
INSERT_SCORES = f"INSERT INTO scores SELECT * FROM {PART}"
COUNT_MATCHES = "SELECT kind, count(*) FROM matches WHERE kind IS NOT NULL GROUP BY 1"
SELECT_MATCHED = f"SELECT run_id, {ROW_NR}, observed, 'raw' AS source FROM matches WHERE kind = 'matched'"
SELECT_MATCHED_RUNS = "SELECT DISTINCT run_id FROM matches WHERE kind = 'matched' ORDER BY 1"


def select_observed(contract: Contract, accepted: str, run_id: int) -> str:
    """The outcomes that a drop itself holds. `accepted` is SQL of its rows."""
    target = class_sql(contract)
    return (
        f"SELECT {run_id:d}::BIGINT AS run_id, {ROW_NR}::BIGINT AS {ROW_NR}, {target} AS observed, 'drop' AS source"
        f" FROM ({accepted}) WHERE {target} IN ({literals(contract.classes)})"
    )


def create_score_keys(contract: Contract) -> str:
    """Keep the number of scores of each key, or each entity and timestamp, in the table `score_keys`."""
    key = _key(contract)
    return create_temp_table("score_keys", f"SELECT {key}, count(*) AS scores FROM scores GROUP BY {key}")


def create_raw_keys(contract: Contract, files: Iterable[Path]) -> str:
    """Keep the raw rows and targets of each scored entity and timestamp in the table `raw_keys`.

    Only rows of scored entities and timestamps are compared as a whole, to count a repeated one once.
    """
    key, columns, target = _key(contract), identifiers(contract.columns), class_sql(contract)
    distinct = f"SELECT DISTINCT {columns} FROM {scan_parquet_files(files)} SEMI JOIN score_keys USING ({key})"
    return create_temp_table(
        "raw_keys",
        f"SELECT {key}, count(*) AS raw_rows, min({target}) AS observed,"
        f" coalesce(list(DISTINCT {target}) FILTER ({target} IS NOT NULL), []) AS outcomes"
        f" FROM ({distinct}) GROUP BY {key}",
    )


def create_matches(contract: Contract) -> str:
    """Keep the scores whose entity and timestamp are in raw, with their outcomes and kind, in the table `matches`.

    The kind is null where raw has the one row but not its target.
    """
    key = _key(contract)
    # of one key all scores are of the same row
    ambiguous = "raw_rows > 1" if contract.named("key") else "scores > 1 OR raw_rows > 1"
    return create_temp_table(
        "matches",
        f"""
            SELECT run_id, {ROW_NR}, known, observed, outcomes,
                   CASE WHEN known IS NOT NULL
                        THEN CASE WHEN NOT list_contains(outcomes, known) OR source = 'raw' AND len(outcomes) > 1
                                  THEN 'contradicted' ELSE 'already_known' END
                        WHEN {ambiguous} THEN 'ambiguous'
                        WHEN observed IN ({literals(contract.classes)}) THEN 'matched' END AS kind
            FROM scores JOIN score_keys USING ({key}) JOIN raw_keys USING ({key})""",
    )


def select_contradictions(limit: int) -> str:
    """Examples of scores whose known outcome the raw rows contradict."""
    return (
        f"SELECT run_id, {ROW_NR}, known, list_sort(outcomes) FROM matches WHERE kind = 'contradicted'"
        f" ORDER BY 1, 2 LIMIT {limit:d}"
    )


def match_columns(contract: Contract) -> tuple[str, ...]:
    """The columns by which raw rows are matched with scores: the key, or entity and timestamp; empty without these."""
    if keys := contract.named("key"):
        return keys
    both = contract.named("entity", "timestamp")
    return both if len(both) == 2 else ()


def _key(contract: Contract) -> str:
    return identifiers(match_columns(contract))
