"""SQL of a drop's rows with the history that the features of a model need."""

from __future__ import annotations

import duckdb

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.row_checks import statistics_are_not_trusted
from apex_ml.contract.names import ROW_NR
from apex_ml.core.features import state_needed
from apex_ml.services.accepted_orders import load_orders, with_state_sql
from apex_ml.services.scorer import Scorer
from apex_ml.sql.features import state_sql
from apex_ml.sql.quote import identifier, identifiers, literal


def features_query(con: duckdb.DuckDBPyConnection, scorer: Scorer, accepted: str, name: str) -> str:
    """SQL of the drop's rows, given as SQL, with what the champion's features need.

    That is the state of each one's history, from the snapshot, or as of an earlier date.
    """
    contract, features = scorer.context.contract, scorer.features
    entity, when = identifier(contract.entity), identifier(contract.timestamp)
    attributes = [n for n in contract.named("attribute") if not features or n in features]
    names = [ROW_NR, *contract.named("entity", "timestamp"), *attributes]
    query = f"SELECT {identifiers(names)} FROM ({accepted})"
    if not (needed := state_needed(contract, features)):
        return query
    late, snapshot = literal(scorer.as_of), f"read_parquet({literal(str(scorer.snapshot))})"
    states = ", ".join(f"s.{identifier(n)}" for n in needed)
    with engine.errors_name(name), statistics_are_not_trusted(con):
        con.execute(f"CREATE OR REPLACE TEMP TABLE early AS SELECT * FROM ({query}) WHERE {when} < {late}")
        (early,) = engine.one_row(con, "SELECT count(*) FROM early")
        asked = f"({query})" if not early else f"(SELECT * FROM ({query}) WHERE {when} >= {late})"
        query = f"SELECT a.*, {states} FROM {asked} AS a LEFT JOIN {snapshot} AS s ON s.{entity} = a.{entity}"
        if early:
            if not engine.has(con, "orders"):
                load_orders(con, contract, scorer.accepted)
            state = with_state_sql(contract, "early", state_sql(contract, "early", "orders"))
            query = f"{query} UNION ALL SELECT {identifiers([*names, *needed])} FROM ({state})"
    return query
