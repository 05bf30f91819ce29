"""Read a pipeline with its contract. Commands, services and the platform load it and pass it down."""

from __future__ import annotations

from apex_ml.contract.pipeline import Pipeline
from apex_ml.contract.pipeline_file import read_pipeline
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import locations_of, model_name_of, option_values, pipeline_file
from apex_ml.settings import Settings


def load_pipeline(settings: Settings) -> Pipeline:
    """Read the pipeline of the settings, with its contract.

    Raises :class:`~apex_ml.errors.ConfigError` when its file cannot be read or contradicts itself.
    """
    name, path = pipeline_file(settings)
    contract, options = read_pipeline(path, tuple(option_values(settings, name)))
    if contract.name != name:
        raise ConfigError(f"{path}: name: is {contract.name}; the folder is {name}: give both the same name")
    model_name = model_name_of(settings, name, options)
    return Pipeline(name, path, options, model_name, locations_of(settings, options.locations), contract)
