"""The simulator's true probabilities of the raw rows of a run, where they are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.simulated_truth import find_truth, read_truth
from apex_ml.contract.locations import is_object_store
from apex_ml.core.evaluation import row_losses
from apex_ml.services.results import EltResult
from apex_ml.services.run_folder import StepContext, step_manifest


def truth_file(context: StepContext) -> Path | None:
    """File with the simulator's true probabilities of this run's raw rows; None where they are not known."""
    source = step_manifest(context, EltResult).result
    raw = source.raw or context.pipeline.locations.raw
    if is_object_store(raw):  # the simulator writes into folders
        return None
    return find_truth(local_folder(raw, "locations.raw"), source.data_sha256)


def optimum_losses(context: StepContext, test: pa.Table, y: np.ndarray) -> np.ndarray | None:
    """Loss of the best possible model on every row of `test`; NaN is unknown. None without true probabilities."""
    path = truth_file(context)
    truth = None if path is None else read_truth(context.settings, context.contract, path, test)
    return None if truth is None else row_losses(truth.optimum, y)
