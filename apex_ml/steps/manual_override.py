"""Manual override of the gate: roll back to an earlier version, or promote one that the gate did not take.

Both move the champion by the protocol of :mod:`apex_ml.services.champion_ledger`. The gate is skipped; the step checks
that the version can serve.
"""

from __future__ import annotations

from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.adapters.postgres.champions import Decision, NewDecision, champions
from apex_ml.core.estimator import Model
from apex_ml.core.model_contract import faults_of_model
from apex_ml.core.model_info import ModelInfo
from apex_ml.core.recorded_evidence import RecordedEvidence
from apex_ml.errors import ConfigError
from apex_ml.services import champion_ledger
from apex_ml.services.results import EltResult, MoveResult
from apex_ml.services.run_folder import StepContext, latest_manifest

MANUAL = "manual"
"""Default name of the run. A second call with any other name moves nothing."""


def rollback(context: StepContext, *, to: int | None, reason: str, who: str) -> MoveResult:
    """Make an earlier version champion; by default the one before the current champion.

    Raises :class:`~apex_ml.errors.ConfigError` when there is nothing to go back to, the version cannot serve or is
    champion already, or somebody else changed the champion in the meantime.
    """
    registry = Registry(context.settings, context.model_name)
    current = champion_ledger.resolve(context.settings, context.schema, registry)
    with champions(context.settings, context.schema, context.model_name) as ledger:
        moves = ledger.moves()
    done = _done(context, "rollback", moves)
    if done is not None:
        champion_ledger.align_challenger(context.settings, context.schema, registry)
        return done
    if current is None:
        remedy = context.pipeline.command("retrain")
        raise ConfigError(f"rollback: there is no champion to go back from; train one: {remedy}")
    if to is None:
        to = champion_ledger.previous((m.action, m.to_version) for m in moves)
        if to is None:
            raise ConfigError(
                f"rollback: version {current.version} is the first champion; name another with --to,"
                f" {context.pipeline.command('champion')} lists them"
            )
    return _move(context, registry, "rollback", current, to, reason, who)


def force(context: StepContext, *, version: int | None, reason: str, who: str) -> MoveResult:
    """Make a version champion without the gate; by default the latest challenger.

    The ledger keeps the evidence of the gate's own decision about it. Raises ConfigError as :func:`rollback` does.
    """
    registry = Registry(context.settings, context.model_name)
    current = champion_ledger.resolve(context.settings, context.schema, registry)
    with champions(context.settings, context.schema, context.model_name) as ledger:
        moves, challenger = ledger.moves(), ledger.challenger()
    done = _done(context, "force", moves)
    if done is not None:
        champion_ledger.align_challenger(context.settings, context.schema, registry)
        return done
    if version is None:
        version = challenger
        if version is None:
            raise ConfigError("promote --force: there is no challenger; name a version")
    with champions(context.settings, context.schema, context.model_name) as ledger:
        gate = ledger.latest_decision_about(version)
    return _move(context, registry, "force", current, version, reason, who, gate)


def _move(
    context: StepContext,
    registry: Registry,
    action: str,
    current: ModelVersion | None,
    to: int,
    reason: str,
    who: str,
    gate: Decision | None = None,
) -> MoveResult:
    """Move the champion, with the evidence of the gate's own decision about the version."""
    if not reason.strip():
        raise ConfigError(f"{action}: --reason is empty; the ledger keeps why a person moved the champion")
    if current is not None and current.version == to:
        raise ConfigError(f"{action}: version {to} is champion already")
    info = _servable(context, registry, action, to)
    move = NewDecision(
        action=action,
        state="pending",
        step_run=context.run,
        who=who,
        reasons=(reason.strip(),),
        from_version=current.version if current else None,
        to_version=to,
        evidence=gate.evidence.with_decision(gate.promotion_id) if gate else RecordedEvidence(),
        data_sha256=info.data_sha256,
        contract_sha256=info.contract_sha256,
    )
    applied, message = champion_ledger.apply(context.settings, context.schema, registry, move)
    if not applied:
        raise ConfigError(
            f"{action}: nothing was moved: {message}; look at {context.pipeline.command('champion')}"
            " before you try again"
        )
    return _result(context, action, move.from_version, to, message)


def _servable(context: StepContext, registry: Registry, action: str, version: int) -> ModelInfo:
    """Facts about the version's data. Raises ConfigError when scoring would fail with it as champion."""
    model_version = registry.by_version(version)
    if model_version is None:
        raise ConfigError(f"{action}: {context.model_name} has no version {version} in MLflow")
    model = Model.from_files(registry.files(model_version))
    if faults := faults_of_model(context.contract, model):
        raise ConfigError(
            f"{action}: version {version} cannot score by the contract of {context.pipeline.file}: {'; '.join(faults)}."
            f" Name a version that can ({context.pipeline.command('champion')} lists them), or train one:"
            f" {context.pipeline.command('retrain')}"
        )
    features = model.info.features_sha256
    if latest_manifest(context, EltResult, lambda m: m.result.features_sha256 == features) is None:
        raise ConfigError(
            f"{action}: no history snapshot under {context.pipeline.locations.processed} fits the features of version"
            f" {version}: scoring would stop; go back to the contract it was trained with and run:"
            f" {context.pipeline.command('retrain --force')}"
        )
    return model.info


def _done(context: StepContext, action: str, moves: list[Decision]) -> MoveResult | None:
    """The result of this run's move, when an earlier attempt of the run completed it."""
    if context.run == MANUAL:
        return None
    for move in moves:
        if (move.action, move.step_run) == (action, context.run) and move.to_version is not None:
            return _result(context, action, move.from_version, move.to_version, "moved by this run before")
    return None


def _result(context: StepContext, action: str, before: int | None, to: int, message: str) -> MoveResult:
    return MoveResult(
        run=context.run, step=action, moved=True, from_version=before, champion_version=to, message=message
    )
