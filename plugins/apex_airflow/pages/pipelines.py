"""The pipelines of the pages and metrics. A file that cannot be read is a fault of its pipeline alone."""

from __future__ import annotations

from dataclasses import dataclass

from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import load_pipeline_settings, settings_by_pipeline
from apex_ml.settings import Settings


@dataclass(frozen=True)
class BrokenPipeline:
    """A pipeline whose file cannot be used, and why."""

    name: str
    fault: str


def names_of(settings: Settings) -> tuple[str, ...]:
    """The names of all pipelines of the platform, sorted."""
    try:
        return tuple(settings_by_pipeline(settings))
    except ConfigError:  # the only file, of the first edition, cannot be read: its page shows the fault
        return (settings.former_contract.stem,) if settings.former_contract else ()


def load(settings: Settings, name: str) -> PipelineSettings | BrokenPipeline:
    """Read one pipeline of the platform."""
    try:
        return load_pipeline_settings(settings.model_copy(update={"pipeline": name}))
    except ConfigError as error:
        return BrokenPipeline(name, str(error))
