"""The model as MLflow loads it: `mlflow.pyfunc.load_model(uri).predict(frame of features)`.

MLflow runs this file at load time (models from code). It holds no logic of its own: the bundle's files are read by
the same class that trains and scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa

from apex_ml.contract.encoded_names import probability_columns
from apex_ml.core.estimator import Model


class RowsModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Probabilities of each class for a frame of features."""

    def load_context(self, context: Any) -> None:
        """Read the bundle."""
        folder = Path(context.artifacts["bundle"])
        self._model = Model.from_files({p.name: p.read_bytes() for p in folder.iterdir()})

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict each row of the input: one column `p_<class>` per class, and the class by the decision weights."""
        prediction = self._model.predict(pa.Table.from_pandas(model_input, preserve_index=False))
        names = list(probability_columns(self._model.classes).values())
        out = pd.DataFrame(prediction.probabilities.astype("float64"), columns=names)
        out["predicted"] = pd.Series([self._model.classes[i] for i in prediction.predicted], dtype=str)
        return out


mlflow.models.set_model(RowsModel())
