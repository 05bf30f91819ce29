"""Read a pipeline with its contract. Commands, services and the platform load it and pass it down."""

from __future__ import annotations

import re

from apex_ml.contract.pipeline import Pipeline
from apex_ml.contract.pipeline_file import read_pipeline
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import locations_of, model_name_of, option_values, pipeline_file, settings_by_pipeline
from apex_ml.settings import Settings

ROUTES = ("predict", "ready", "model", "health", "metrics", "docs")
"""First parts of the paths of the online service, where a pipeline's routes begin with its name."""
RESERVED = ("apex", "public", "information_schema", "airflow", "mlflow", *ROUTES)
"""Names of the platform itself: its schemas, roles, databases and routes."""
MAX_NAME = 40
"""Characters of a name: with what is added to it, it is at most 63 bytes, the limit of Postgres."""


def name_fault(name: str) -> str | None:
    """Why a pipeline cannot have a name, which is part of names in Airflow, Postgres, MLflow and variables.

    >>> name_fault("orders"), name_fault("pg_orders")
    (None, 'is reserved; choose another name')
    >>> name_fault("two__words")
    'must be lower-case letters, digits and single underscores, at most 40, and begin with a letter'
    """
    if name in RESERVED or name.startswith("pg_"):
        return "is reserved; choose another name"
    if len(name) > MAX_NAME or not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        return f"must be lower-case letters, digits and single underscores, at most {MAX_NAME}, and begin with a letter"
    return None


def load_pipelines(settings: Settings) -> list[Pipeline]:
    """Read every pipeline of the folder, or the one file that a platform of the first edition names.

    Raises as :func:`load_pipeline`.
    """
    return [load_pipeline(own) for own in settings_by_pipeline(settings).values()]


def load_all_pipelines(settings: Settings) -> tuple[list[Pipeline], dict[str, ConfigError]]:
    """Read every pipeline; also the faults of those that cannot be read, by name: they must not stop the others."""
    loaded, faults = [], {}
    for name, own in settings_by_pipeline(settings).items():
        try:
            loaded.append(load_pipeline(own))
        except ConfigError as error:
            faults[name] = error
    return loaded, faults


def load_pipeline(settings: Settings) -> Pipeline:
    """Read the pipeline of the settings, with its contract.

    Raises :class:`~apex_ml.errors.ConfigError` when its file cannot be read or contradicts itself.
    """
    name, path = pipeline_file(settings)
    contract, options = read_pipeline(path, tuple(option_values(settings, name)))
    if contract.name != name:
        raise ConfigError(f"{path}: name: is {contract.name}; the folder is {name}: give both the same name")
    if fault := name_fault(name):
        raise ConfigError(f"{path}: name: {name} {fault}")
    model_name = model_name_of(settings, name, options)
    return Pipeline(name, path, options, model_name, locations_of(settings, name, options.locations), contract)


def usable_pipelines(settings: Settings) -> tuple[list[Pipeline], dict[str, ConfigError]]:
    """Read every pipeline for the platform that runs them all; also the faults of those that cannot be read, by name.

    Raises :class:`~apex_ml.errors.ConfigError` when the pipeline that the settings name cannot be read, or none can.
    """
    loaded, faults = load_all_pipelines(settings)
    if faults and not loaded and not settings.pipeline:
        raise next(iter(faults.values()))
    if settings.pipeline or not loaded:
        load_pipeline(settings)
    return loaded, faults


def pipelines_to_serve(settings: Settings) -> tuple[list[Pipeline], dict[str, ConfigError]]:
    """Read the pipeline that the settings name and no other, or all as :func:`usable_pipelines`."""
    return ([load_pipeline(settings)], {}) if settings.pipeline else usable_pipelines(settings)
