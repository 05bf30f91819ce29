"""Compare the original project's model with the model of the contract's features, on the same rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from apex_ml.core.calibration import expected_calibration_error
from apex_ml.core.estimator import Model
from apex_ml.core.evaluation import class_shares, row_losses
from apex_ml.core.model_evaluation import ComparedWay


def compare(legacy: Model, ours: Model, parts: Mapping[str, tuple[pa.Table, np.ndarray]]) -> list[ComparedWay]:
    """Compare both models on the same rows; each part is (table, class indexes (n,)).

    The original project used the output of a booster trained with balanced weights. Here these are the probabilities
    before the correction to the true prior and the calibration.
    """
    shares = class_shares(parts["train"][1], len(legacy.classes))
    ways = {
        "the original: balanced weights, not corrected": (legacy.raw_probabilities, len(legacy.encoder.names)),
        "the same model, corrected to the true prior and calibrated": (legacy.probabilities, len(legacy.encoder.names)),
        "features from just before the row, selected by Apex": (ours.probabilities, len(ours.encoder.names)),
        "class prior": (lambda table: np.tile(shares, (table.num_rows, 1)), 0),
    }
    rows: list[ComparedWay] = []
    for way, (predict, features) in ways.items():
        p, y = predict(parts["test"][0]), parts["test"][1]
        validation, classes = parts["validation"]
        rows.append(
            ComparedWay(
                way=way,
                features=features,
                validation_log_loss=float(row_losses(predict(validation), classes).mean()),
                test_log_loss=float(row_losses(p, y).mean()),
                accuracy=float((p.argmax(axis=1) == y).mean()),
                calibration_error=expected_calibration_error(p, y),
            )
        )
    return rows
