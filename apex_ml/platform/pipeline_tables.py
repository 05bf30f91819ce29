"""Bring the tables of every pipeline to their current state, whenever the platform starts."""

from __future__ import annotations

from collections.abc import Callable

from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import former_pipeline, pipeline_file
from apex_ml.pipelines import load_all_pipelines
from apex_ml.settings import Settings


def migrate_pipelines(settings: Settings, say: Callable[[str], None]) -> None:
    """Migrate the schema of every pipeline; `say` reports those that keep the tables they have, and why.

    Raises :class:`~apex_ml.errors.ConfigError` when no pipeline can be read, when that which the settings name is
    refused, and as :func:`~apex_ml.adapters.postgres.migrations.migrate_all`.
    """
    from apex_ml.adapters.postgres.migrations import migrate_all

    pipelines, faults = load_all_pipelines(settings)
    if not pipelines:
        if not faults:
            pipeline_file(settings)  # the error that there is none
        raise ConfigError("; ".join(map(str, faults.values())))
    refused = migrate_all(settings, pipelines, former_pipeline(settings), faults)
    if settings.pipeline in refused:
        raise refused[settings.pipeline]
    for name, fault in faults.items():
        say(f"pipeline {name}: its tables are not migrated, as its file is wrong: {fault}")
    for name, fault in refused.items():
        say(f"pipeline {name}: its tables stay as they are: {fault}")
