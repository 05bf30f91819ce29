"""The original project's model beside ours, on the same orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from apex_ml.core.calibration import expected_calibration_error
from apex_ml.core.estimator import Model
from apex_ml.core.evaluation import class_shares, order_losses


def compare(legacy: Model, ours: Model, parts: Mapping[str, tuple[pa.Table, np.ndarray]]) -> list[dict[str, Any]]:
    """Compare the original way with ours on the same orders; each part is (table, class indexes (n,)).

    The original scored the output of a booster trained with balanced weights as it is: here, the probabilities before
    the correction to the true prior and the calibration.
    """
    shares = class_shares(parts["train"][1], len(legacy.classes))
    ways = {
        "the original: balanced weights, scored as they are": (legacy.raw_probabilities, len(legacy.encoder.names)),
        "the same model, corrected to the true prior and calibrated": (legacy.probabilities, len(legacy.encoder.names)),
        "features as of just before the order, our selection": (ours.probabilities, len(ours.encoder.names)),
        "class prior": (lambda table: np.tile(shares, (table.num_rows, 1)), 0),
    }
    rows: list[dict[str, Any]] = []
    for way, (predict, features) in ways.items():
        p, y = predict(parts["test"][0]), parts["test"][1]
        validation, classes = parts["validation"]
        rows.append(
            {
                "way": way,
                "features": features,
                "validation_log_loss": float(order_losses(predict(validation), classes).mean()),
                "test_log_loss": float(order_losses(p, y).mean()),
                "accuracy": float((p.argmax(axis=1) == y).mean()),
                "calibration_error": expected_calibration_error(p, y),
            }
        )
    return rows
