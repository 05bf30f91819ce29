"""The scorer of rows: a model version and the history snapshot that fits its features, loaded once for many drops."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, partial
from pathlib import Path

from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Model
from apex_ml.core.model_contract import contract_of_model, faults_of_model
from apex_ml.core.profile import Bins
from apex_ml.errors import ConfigError, TransientError
from apex_ml.services import champion_ledger
from apex_ml.services.results import EltResult
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.services.run_layout import ACCEPTED, SNAPSHOT

NO_CHAMPION = "there is no champion yet; train one: {}"
"""What a pipeline without a champion answers, with the command that trains one."""


class UnusableModelError(ConfigError):
    """The pipeline's contract no longer gives what a model needs."""


@dataclass(frozen=True)
class Scorer:
    """One champion and one history snapshot, resolved once and shared by all drops of one call."""

    context: StepContext
    version: ModelVersion
    model: Model
    snapshot: Path
    snapshot_sha256: str
    as_of: date
    since: date
    """The day or the instant from which on rows can be scored with the snapshot."""
    accepted: Callable[[], Path]
    """Gives the folder of the accepted rows of its run, which are read only where its states do not suffice."""
    bins: Mapping[str, Bins] = field(default_factory=dict)
    """The model's bins of its features and of every attribute, by which the rows of a drop are counted."""
    batch: str = field(default_factory=lambda: uuid.uuid4().hex)
    """The id of this call in the outbox: its drops share one MLflow run."""

    @cached_property
    def contract(self) -> Contract:
        """The contract by which the model's features are computed: that of its training, over the data of today's."""
        return contract_of_model(self.context.contract, self.model)

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
        gone = champion_ledger.why_none(context.settings, context.pipeline)
        raise TransientError(f"score: {gone or NO_CHAMPION.format(context.pipeline.command('retrain'))}")
    return build_scorer(context, registry, version)


def build_scorer(context: StepContext, registry: Registry, version: ModelVersion) -> Scorer:
    """The scorer of any version, with the newest history snapshot that fits its features.

    Raises :class:`~apex_ml.errors.TransientError` when there is no such snapshot, and
    :class:`UnusableModelError` when the contract no longer gives what the version needs.
    """
    model = Model.from_files(registry.files(version))
    if faults := faults_of_model(context.contract, model):
        raise UnusableModelError(
            f"score: version {version.version} cannot score by the contract of {context.pipeline.file}:"
            f" {'; '.join(faults)}. The drops wait in the inbox. Train a model of this contract:"
            f" {context.pipeline.command('retrain')}; apex plan {context.pipeline.name} shows what has changed"
        )
    features = model.info.features_sha256
    manifest = latest_manifest(context, EltResult, lambda m: m.result.features_sha256 == features)
    if manifest is None:
        raise TransientError(
            f"score: no history snapshot under {context.pipeline.locations.processed} fits the features of version"
            f" {version.version}; make one: {context.pipeline.command('retrain')}"
        )
    result = manifest.result
    attributes = contract_of_model(context.contract, model).features.attributes
    kept = set(context.contract.named("attribute"))
    counted = {*model.encoder.names, *(name for name in attributes if name in kept)}
    return Scorer(
        context=context,
        version=version,
        model=model,
        snapshot=context.runs.output(manifest.run, "elt", SNAPSHOT, manifest.outputs),
        snapshot_sha256=result.snapshot_sha256,
        as_of=result.as_of,
        since=result.since or context.contract.first_time(result.as_of),
        accepted=partial(context.runs.output, manifest.run, "validate", ACCEPTED),
        bins=model.info.profile.bins_for(counted),
    )
