"""One pipeline as data: its contract, its model and the places of its files. It is passed down; nothing looks it up."""

from __future__ import annotations

from dataclasses import dataclass

from apex_ml.contract.model import Contract


@dataclass(frozen=True)
class Locations:
    """Folders or URLs of a pipeline's files."""

    raw: str
    """Raw files that a run trains on."""
    processed: str
    """Folders of the runs."""
    drops: str
    """Parent of the folders of drops: inbox/, done/ and quarantine/."""


@dataclass(frozen=True)
class Pipeline:
    """What steps and services need to know about the pipeline they work for."""

    name: str
    contract: Contract
    model_name: str
    """Name of the registered model in MLflow."""
    locations: Locations
