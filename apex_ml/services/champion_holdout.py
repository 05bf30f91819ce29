"""The features of a model of a former contract for the rows of a run's holdout."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.states_by import add_states_by
from apex_ml.adapters.storage.atomic_writes import scratch_folder
from apex_ml.contract.history_state import history_keys
from apex_ml.contract.names import ROW_NR
from apex_ml.core.estimator import Model
from apex_ml.core.features import finish, row_inputs
from apex_ml.core.model_contract import contract_of_model
from apex_ml.services.accepted_rows import load_rows
from apex_ml.services.run_folder import StepContext
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.sql.holdout import HOLDOUT, create_holdout_table, select_holdout

TEST = "test.parquet"


def holdout_of_model(context: StepContext, model: Model, test: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """The features of a model for the test part of a run, and which rows of the part they are, by position.

    The rows of a model of the run's own contract are the test part as it is. Those of another contract are computed
    with its own recipes and classes, from the accepted rows of the run.
    """
    contract = contract_of_model(context.contract, model)
    if contract.features_digest() == context.contract.features_digest():
        return test, np.arange(test.num_rows)
    needed = [name for name in row_inputs(contract, model.encoder.names) if name != contract.entity]
    # the test part has features: a key of a history must be the value itself, which only a text is there
    keys = {name for by in history_keys(contract) for name in by if contract.columns[name].type != "string"}
    present = [name for name in needed if name in test.column_names and name not in keys]
    absent = [name for name in needed if name not in present]
    file = context.output("split", TEST)
    with (
        scratch_folder(context.processed, "promote") as scratch,
        engine.connect(context.settings, scratch) as con,
        engine.errors_name("promote"),
    ):
        load_rows(con, context.contract, context.output("validate", ACCEPTED))
        con.execute(create_holdout_table(context.contract, file, present, absent))
        if contract.has_history:
            add_states_by(con, contract, HOLDOUT)
        table = con.sql(select_holdout(contract, needed)).to_arrow_table()
    return finish(contract, table, model.encoder.names), table.column(ROW_NR).to_numpy().astype(np.int64)
