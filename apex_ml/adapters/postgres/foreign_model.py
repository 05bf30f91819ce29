"""A registered model whose champion is that of another pipeline, also of a removed or renamed one."""

from __future__ import annotations

from apex_ml.adapters.postgres.champions import ChampionLedger
from apex_ml.errors import ConfigError


class ForeignModelError(ConfigError):
    """The registered model of a pipeline is that of another pipeline, whose champion this one must not take over."""


def refuse_foreign_model(ledger: ChampionLedger, pipeline: str, model_name: str) -> None:
    """Raise :class:`ForeignModelError` when another pipeline has a champion of the model and this one never had."""
    elsewhere = ledger.champion_elsewhere()
    if elsewhere is not None:
        owner, version = elsewhere
        raise ForeignModelError(
            f"pipeline {pipeline}: model.name: {model_name} is the registered model of the pipeline {owner}, whose"
            f" champion is version {version}; its tables are in the schema {owner}, also if its folder is gone. Give"
            f" {pipeline} another model.name in its pipeline.yaml; or, if it is {owner} renamed, rename it back"
        )
