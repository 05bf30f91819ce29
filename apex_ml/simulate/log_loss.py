"""The log loss of predictions, and the least that is reachable given the true probabilities."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.storage.simulated_truth import TRUE_PREFIX
from apex_ml.errors import DataError
from apex_ml.simulate.draws import Codes, Floats
from apex_ml.simulate.process import Process
from apex_ml.wording import counted


def truth_matrix(truth: pa.Table) -> Floats:
    """The true probabilities (orders, classes) among the columns of a table."""
    names = [name for name in truth.column_names if name.startswith(TRUE_PREFIX)]
    return np.column_stack([truth.column(name).to_numpy() for name in names])


def bayes_log_loss(truth: pa.Table) -> float:
    """The mean entropy in nats of the true probabilities, which is the expected log loss of the best possible model."""
    matrix = truth_matrix(truth)
    return float(-(matrix * np.log(matrix)).sum(axis=1).mean())


def log_loss(probabilities: Floats, classes: Codes) -> float:
    """The mean log loss in nats of probabilities (orders, classes) on the drawn classes."""
    return float(-np.log(probabilities[np.arange(len(classes)), classes]).mean())


def class_codes(table: pa.Table, process: Process) -> Codes:
    """The class of every order as its place in the process's list.

    Raises DataError for a null or a class the process does not know.
    """
    column = table.column(process.target).cast(pa.string())
    codes = pc.index_in(column, pa.array(process.classes, pa.string()))
    if codes.null_count:
        raise DataError(
            f"{process.target}: {counted(codes.null_count, 'order')} with no class of {', '.join(process.classes)}"
        )
    return np.asarray(codes.to_numpy(), np.int32)
