"""One pipeline as data: its contract, its model and the places of its files. Callers pass it as an argument."""

from __future__ import annotations

from dataclasses import dataclass

from apex_ml.contract.model import Contract
from apex_ml.pipeline_schema import SCHEMA


@dataclass(frozen=True)
class Locations:
    """Folders or URLs of a pipeline's files."""

    raw: str
    """Raw files for training."""
    processed: str
    """Folders of the runs."""
    drops: str
    """Parent of the folders of drops: inbox/, done/ and quarantine/."""


@dataclass(frozen=True)
class Pipeline:
    """The pipeline of a step or a service."""

    name: str
    contract: Contract
    model_name: str
    """Name of the registered model in MLflow."""
    locations: Locations

    @property
    def schema(self) -> str:
        """Name of the schema in Postgres that holds its tables and views."""
        return SCHEMA  # not its name yet: existing databases have the tables in this schema
