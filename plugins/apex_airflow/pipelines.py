"""The pipelines for which the DAG files build DAGs."""

from __future__ import annotations

from apex_ml.contract.pipeline import DAG_KINDS, PipelineSettings, dag_id
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import load_all_pipeline_settings
from apex_ml.settings import Settings


def readable_pipelines(settings: Settings) -> list[PipelineSettings]:
    """Return the pipelines whose files can be read.

    :func:`refuse_unreadable` reports the others. An error raised here would remove the DAGs of every pipeline.
    """
    return load_all_pipeline_settings(settings)[0]


def refuse_unreadable(settings: Settings) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` with the fault of each pipeline that has no DAGs for it."""
    _, faults = load_all_pipeline_settings(settings)
    if faults:
        raise ConfigError("\n".join(f"{_dags_of(name)} are missing: {fault}" for name, fault in faults.items()))


def _dags_of(pipeline: str) -> str:
    ids = [dag_id(pipeline, kind) for kind in DAG_KINDS]
    return f"{', '.join(ids[:-1])} and {ids[-1]}"
