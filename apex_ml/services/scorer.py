"""The scorer of rows: a model version and the history snapshot that fits its features, loaded once for many drops."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path

from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.core.estimator import Model
from apex_ml.core.profile import Bins
from apex_ml.errors import ConfigError, TransientError
from apex_ml.services import champion_ledger
from apex_ml.services.results import EltResult
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.services.run_layout import ACCEPTED, SNAPSHOT


@dataclass(frozen=True)
class Scorer:
    """One champion and one history snapshot, resolved once and shared by all drops of one call."""

    context: StepContext
    version: ModelVersion
    model: Model
    snapshot: Path
    snapshot_sha256: str
    as_of: date
    accepted: Path
    bins: Mapping[str, Bins] = field(default_factory=dict)
    """The model's bins of its features and of every attribute, by which the rows of a drop are counted."""
    batch: str = field(default_factory=lambda: uuid.uuid4().hex)
    """The id of this call in the outbox: its drops share one MLflow run."""

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the computed features: those of the model, and those that are only counted."""
        return tuple(dict.fromkeys((*self.model.encoder.names, *self.bins)))


def load_scorer(context: StepContext) -> Scorer:
    """Resolve champion and snapshot.

    Raises :class:`~apex_ml.errors.TransientError` when there is no champion yet, and as :func:`build_scorer` does.
    """
    registry = Registry(context.settings, context.model_name)
    version = champion_ledger.resolve(context.settings, context.schema, registry)
    if version is None:
        gone = champion_ledger.why_none(context.settings, context.schema, context.model_name)
        raise TransientError(f"score: {gone or 'there is no champion yet; train one: make train'}")
    return build_scorer(context, registry, version)


def build_scorer(context: StepContext, registry: Registry, version: ModelVersion) -> Scorer:
    """The scorer of any version, with the newest history snapshot that fits its features.

    Raises :class:`~apex_ml.errors.TransientError` when there is no such snapshot, and
    :class:`~apex_ml.errors.ConfigError` when the contract has other classes than the version.
    """
    model = Model.from_files(registry.files(version))
    if tuple(model.classes) != tuple(context.contract.classes):
        raise ConfigError(
            f"score: version {version.version} predicts {', '.join(model.classes)}, and the classes of the contract are"
            f" {', '.join(context.contract.classes)}; the drops wait until a model knows them: apex retrain --force"
        )
    features = model.info.features_sha256
    manifest = latest_manifest(context, EltResult, lambda m: m.result.features_sha256 == features)
    if manifest is None:
        raise TransientError(
            f"score: no history snapshot under {context.processed} fits the features of version"
            f" {version.version}; make one: make train"
        )
    folder = context.processed / manifest.run
    result = manifest.result
    counted = {*model.encoder.names, *context.contract.features.attributes}
    return Scorer(
        context=context,
        version=version,
        model=model,
        snapshot=folder / "elt" / SNAPSHOT,
        snapshot_sha256=result.snapshot_sha256,
        as_of=result.as_of,
        accepted=folder / "validate" / ACCEPTED,
        bins=model.info.profile.bins_for(counted),
    )
