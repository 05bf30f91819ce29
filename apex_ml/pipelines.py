"""Read a pipeline with its contract. Commands, services and the platform load it and pass it down."""

from __future__ import annotations

from apex_ml.contract.pipeline import Pipeline
from apex_ml.contract.pipeline_file import read_pipeline
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import (
    checked_pipeline_file,
    load_each,
    locations_of,
    model_name_of,
    option_values,
    pipeline_file,
    settings_by_pipeline,
)
from apex_ml.settings import Settings


def load_pipelines(settings: Settings) -> list[Pipeline]:
    """Read every pipeline of the folder, or the one file that a platform of the first edition names.

    Raises as :func:`load_pipeline`.
    """
    return [load_pipeline(own) for own in settings_by_pipeline(settings).values()]


def load_all_pipelines(settings: Settings) -> tuple[list[Pipeline], dict[str, ConfigError]]:
    """Read every pipeline; also the faults of those that cannot be read, by name: they must not stop the others."""
    return load_each(settings, load_pipeline)


def load_pipeline(settings: Settings) -> Pipeline:
    """Read the pipeline of the settings, with its contract.

    Raises :class:`~apex_ml.errors.ConfigError` when its file cannot be read or contradicts itself.
    """
    name, path = checked_pipeline_file(settings)
    contract, options = read_pipeline(path, tuple(option_values(settings, name)))
    if contract.name != name:
        raise ConfigError(f"{path}: name: is {contract.name}; the folder is {name}: give both the same name")
    if contract.derived:  # commands of other pipelines need not load DuckDB
        from apex_ml.adapters.duckdb.derived_types import refuse_expressions

        refuse_expressions(path, contract)
    model_name = model_name_of(settings, name, options)
    locations = locations_of(settings, name, options.locations)
    return Pipeline(name, path, options, model_name, locations, contract.rows, contract)


def usable_pipelines(settings: Settings) -> tuple[list[Pipeline], dict[str, ConfigError]]:
    """Read every pipeline for the platform that runs them all; also the faults of those that cannot be read, by name.

    Raises :class:`~apex_ml.errors.ConfigError` when the pipeline that the settings name cannot be read, or none can.
    """
    loaded, faults = load_all_pipelines(settings)
    if settings.pipeline in faults:
        raise faults[settings.pipeline]
    if settings.pipeline or not (loaded or faults):
        pipeline_file(settings)  # the error that there is none, or none of this name
    if not loaded:
        raise next(iter(faults.values()))
    return loaded, faults


def pipelines_to_serve(settings: Settings) -> tuple[list[Pipeline], dict[str, ConfigError]]:
    """Read the pipeline that the settings name and no other, or all as :func:`usable_pipelines`."""
    return ([load_pipeline(settings)], {}) if settings.pipeline else usable_pipelines(settings)
