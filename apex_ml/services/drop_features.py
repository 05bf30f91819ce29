"""A drop's rows with the history that the features of a model need."""

from __future__ import annotations

import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.states_by import add_states_by
from apex_ml.contract.names import ROW_NR, SINCE
from apex_ml.contract.roles import STORED_ROLES
from apex_ml.core.features import row_inputs, state_needed
from apex_ml.services.accepted_rows import load_rows
from apex_ml.services.scorer import Scorer
from apex_ml.sql.drop_features import EARLY, add_early, create_early_table, join_snapshot, not_early, select_named
from apex_ml.sql.rows import ROWS
from apex_ml.sql.session import count_rows


def features_query(con: engine.StrictConnection, scorer: Scorer, accepted: str, name: str) -> str:
    """SQL of the drop's rows, which are given as SQL, with the state of their history that the model needs.

    The state comes from the snapshot. For rows dated before the snapshot it is computed as of their own dates.
    """
    contract, features = scorer.contract, scorer.features
    inputs = row_inputs(contract, features)
    attributes = [n for n in contract.named("attribute") if not features or n in inputs]
    names = [ROW_NR, *scorer.context.contract.named(*STORED_ROLES), *attributes]
    query = select_named(names, accepted)
    if not (needed := state_needed(contract, features)):
        return query
    with engine.errors_name(name):
        con.execute(create_early_table(contract, query, scorer.since))
        (early,) = engine.one_row(con, count_rows(EARLY))
        asked = not_early(contract, query, scorer.since) if early else f"({query})"
        # a snapshot of an earlier edition has one state per entity, also with a lag
        has_since = contract.history_lag > 0 and SINCE in pq.read_schema(scorer.snapshot).names
        query = join_snapshot(contract, asked, scorer.snapshot, needed, has_since)
        if early:
            if not engine.has(con, ROWS):
                load_rows(con, contract, scorer.accepted())
            add_states_by(con, contract, EARLY)
            query = add_early(contract, query, [*names, *(column.name for column in needed)])
    return query
