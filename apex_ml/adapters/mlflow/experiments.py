"""The experiments of a pipeline in MLflow: ``<pipeline>/retrain``, ``<pipeline>/score`` and ``<pipeline>/loadtest``."""

from __future__ import annotations

from typing import Literal

from apex_ml.adapters.mlflow.client import MlflowClient
from apex_ml.pipeline_settings import former_pipeline
from apex_ml.settings import Settings

Kind = Literal["retrain", "score", "loadtest"]


def experiment_name(pipeline: str, kind: Kind) -> str:
    """Name of an experiment of a pipeline.

    >>> experiment_name("claims", "score")
    'claims/score'
    """
    return f"{pipeline}/{kind}"


def own_experiment(settings: Settings, client: MlflowClient, pipeline: str, kind: Kind) -> str | None:
    """Id of an experiment of a pipeline; None when it does not exist yet.

    The experiment of the first edition, ``apex_score``, takes its present name and keeps its runs. Raises
    :class:`~apex_ml.errors.ConfigError` when the experiment was deleted: MLflow then keeps its name and takes no run.
    """
    name = experiment_name(pipeline, kind)
    if (existing := client.experiment(name)) is not None or former_pipeline(settings) != pipeline:
        return existing
    if (former := client.experiment(f"apex_{kind}")) is None:
        return client.experiment(name)  # another process may have renamed it meanwhile
    client.rename_experiment(former, name)
    return client.experiment(name)
