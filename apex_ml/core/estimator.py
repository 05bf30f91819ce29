"""The model: an encoder with a code for unknown levels, a fitted candidate, calibration and decision weights.

XGBoost's own categoricals score an unknown level as another one without a warning. Therefore Apex encodes by itself:
code 0 is the unknown level (null included), 1… are the levels. The same table gives the same codes everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.core.calibration import Calibration
from apex_ml.core.candidates import candidate
from apex_ml.core.candidates.interface import ExplainedScorer, Scorer
from apex_ml.core.decision import Costs, decide
from apex_ml.core.model_info import ModelInfo
from apex_ml.errors import DataError
from apex_ml.json_text import json_text

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that a feature can have; larger ones count as it."""
MODEL_FILE = "model.json"
TRAINING_KEYS_FILE = "seen.u64"
LEVELS_LIMIT = 5000
"""Maximum levels of a column without a domain. Rarer ones become the unknown level."""
FREQUENCIES_LIMIT = 100_000
"""The same of a column whose levels are encoded by their frequency."""


@dataclass(frozen=True)
class Encoder:
    """Turns a table of features into float32 codes and numbers, shape (n, len(columns))."""

    columns: tuple[FeatureColumn, ...]

    @classmethod
    def fit(cls, columns: tuple[FeatureColumn, ...], table: pa.Table) -> Encoder:
        """Learn the levels of categorical columns without a domain: the most frequent ones, ties by name.

        A level of fewer rows than the column asks for is left out, so that it counts as unknown. Of the encoding
        frequency the share of each level among the rows of the table is learned, too; the target is not looked at.
        """
        return cls(tuple(_learned(column, table) for column in columns))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in the order of the matrix."""
        return tuple(c.name for c in self.columns)

    def encode(self, table: pa.Table) -> np.ndarray:
        """Encode n rows. Raises :class:`~apex_ml.errors.DataError` that names every missing feature."""
        if lacking := [n for n in self.names if n not in table.column_names]:
            raise DataError(f"the table has no columns for these features of the model: {', '.join(lacking)}")
        matrix = np.empty((table.num_rows, len(self.columns)), np.float32)
        for index, column in enumerate(self.columns):
            values = table.column(column.name)
            if column.kind == "categorical":
                codes = pc.fill_null(pc.index_in(values, value_set=pa.array(column.levels or (), pa.string())), -1)
                codes = codes.to_numpy() + 1
                # as the code of an unknown level is 0, so is its frequency
                matrix[:, index] = codes if column.has_codes else np.asarray((0.0, *column.shares), np.float32)[codes]
            else:
                numbers = pc.fill_null(values.cast(pa.float64()), float("nan")).to_numpy()
                # XGBoost refuses infinity, which a larger number would become
                matrix[:, index] = np.clip(numbers, -LARGEST, LARGEST)
        return matrix


def _learned(column: FeatureColumn, table: pa.Table) -> FeatureColumn:
    if column.kind != "categorical" or column.levels is not None:
        return column
    counts = pc.value_counts(table.column(column.name).drop_null())
    pairs = sorted(((c["counts"].as_py(), c["values"].as_py()) for c in counts), key=lambda p: (-p[0], p[1]))
    pairs = [pair for pair in pairs if pair[0] >= (column.min_rows or 1)]
    pairs = pairs[: LEVELS_LIMIT if column.has_codes else FREQUENCIES_LIMIT]
    shares = () if column.has_codes else tuple(rows / table.num_rows for rows, _ in pairs)
    return replace(column, levels=tuple(level for _, level in pairs), shares=shares)


def distinct_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions of the distinct rows of a float32 matrix (n, f), and for each row the index of its distinct row, (n,).

    Rows are equal when their bits are. None when more than half of the rows are distinct: then it saves no time.
    """
    bits = x.view(np.uint32)
    # odd multipliers mix the columns into one number per row; the last line checks that equal numbers are equal rows
    mixed = np.zeros(len(x), np.uint64)
    for column in bits.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    encoded = pa.array(mixed).dictionary_encode()
    if 2 * len(encoded.dictionary) > len(x):
        return None
    inverse = encoded.indices.to_numpy()
    first = np.empty(len(encoded.dictionary), np.int64)
    first[inverse] = np.arange(len(x))
    return (first, inverse) if np.array_equal(bits[first][inverse], bits) else None


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for n rows."""

    probabilities: np.ndarray
    """Calibrated probability of each of k classes, float32, shape (n, k)."""
    predicted: np.ndarray
    """Index of the predicted class, shape (n,)."""
    confidence: np.ndarray
    """Probability of the predicted class, float32, shape (n,)."""

    def take(self, rows: np.ndarray) -> Prediction:
        """The prediction of some of the rows, by position."""
        return Prediction(np.take(self.probabilities, rows, axis=0), self.predicted[rows], self.confidence[rows])


@dataclass(frozen=True)
class Model:
    """Everything that scoring needs, and the record of the training.

    `booster` is the content of the fitted candidate. `costs` or else `weights` choose the predicted class; without both
    it is the most probable one.
    `training_keys` are the keys of the rows that it was fitted and tuned on: sorted, 8 bytes each, little-endian.
    """

    encoder: Encoder
    booster: bytes
    classes: tuple[str, ...]
    info: ModelInfo

    candidate: str = "xgboost"
    calibration: Calibration = field(default_factory=Calibration)
    weights: tuple[float, ...] = ()
    costs: Costs = ()
    training_keys: bytes = field(default=b"", repr=False)

    @cached_property
    def _scorer(self) -> Scorer:
        return candidate(self.candidate).load(self.booster)

    def raw_probabilities(self, table: pa.Table) -> np.ndarray:
        """Probabilities before calibration, float32, shape (n, len(classes))."""
        raw, inverse = self._raw_distinct(table)
        return raw if inverse is None else np.take(raw, inverse, axis=0)

    def _raw_distinct(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray | None]:
        """Raw probabilities of the distinct rows, and the index of its distinct row for each row; None: all differ."""
        if table.num_rows == 0:
            return np.empty((0, len(self.classes)), np.float32), None
        x = self.encoder.encode(table)
        if (distinct := distinct_rows(x)) is None:
            return self._scorer.predict(x), None
        first, inverse = distinct
        return self._scorer.predict(x[first]), inverse

    def probabilities(self, table: pa.Table) -> np.ndarray:
        """Calibrated probability of each class for n rows of features, float32, shape (n, len(classes))."""
        return self.predict(table).probabilities

    def predict(self, table: pa.Table) -> Prediction:
        """Score n rows of features. Batch scoring, shadow scoring and serving all use this function."""
        raw, inverse = self._raw_distinct(table)
        p = self.calibration.apply(raw)
        predicted = self.predict_class(p)
        prediction = Prediction(p, predicted, p[np.arange(len(p)), predicted])
        return prediction if inverse is None else prediction.take(inverse)

    def contributions(self, table: pa.Table) -> np.ndarray | None:
        """Contribution of each feature to the margin of each class before calibration, float32, shape (n, k, f).

        None when the candidate has no contributions.
        """
        if not isinstance(self._scorer, ExplainedScorer):
            return None
        return self._scorer.contributions(self.encoder.encode(table))

    def predict_class(self, p: np.ndarray) -> np.ndarray:
        """Index of the predicted class for each row of probabilities, by costs or decision weights, shape (n,)."""
        return decide(p, self.weights, self.costs)

    def to_files(self) -> dict[str, bytes]:
        """The model as files by name: XGBoost's own format and JSON, no pickle."""
        content = {
            "classes": self.classes,
            "features": [c.as_dict() for c in self.encoder.columns],
            "about": self.info.as_dict(),
            "candidate": self.candidate,
            "calibration": self.calibration.as_dict(),
            "weights": self.weights,
        }
        if self.costs:
            content["costs"] = self.costs
        return {
            candidate(self.candidate).file: self.booster,
            TRAINING_KEYS_FILE: self.training_keys,
            MODEL_FILE: json_text(content, indent=1, sort_keys=True).encode(),
        }

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Model:
        """Load the files that :meth:`to_files` returned."""
        content = json.loads(files[MODEL_FILE])
        columns = tuple(
            FeatureColumn(
                c["name"],
                c["kind"],
                None if c["levels"] is None else tuple(c["levels"]),
                c.get("encoding", "levels"),
                c.get("min_rows"),
                tuple(c.get("shares", ())),
            )
            for c in content["features"]
        )
        return cls(
            encoder=Encoder(columns),
            booster=files[candidate(content["candidate"]).file],
            classes=tuple(content["classes"]),
            info=ModelInfo.from_dict(content["about"]),
            candidate=content["candidate"],
            calibration=Calibration.from_dict(content["calibration"]),
            weights=tuple(content["weights"]),
            costs=tuple(map(tuple, content.get("costs", ()))),
            training_keys=files.get(TRAINING_KEYS_FILE, b""),
        )
