"""The pipeline that the settings name. Commands, services and the platform load it once and pass it down."""

from __future__ import annotations

from apex_ml.contract.model import load_contract
from apex_ml.contract.pipeline import Locations, Pipeline
from apex_ml.settings import Settings


def load_pipeline(settings: Settings) -> Pipeline:
    """Read the contract of the settings' pipeline.

    Raises :class:`~apex_ml.errors.ConfigError` when the contract cannot be read or contradicts itself.
    """
    return Pipeline(
        name=settings.contract.stem,
        contract=load_contract(settings.contract),
        model_name=settings.model_name,
        locations=Locations(raw=settings.raw, processed=settings.processed, drops=settings.drops),
    )
