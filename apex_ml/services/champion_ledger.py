"""The champion: the protocol that keeps the alias in MLflow and the ledger in Postgres equal.

A move is: check that the expected champion is still champion → a `pending` ledger row → the alias → `done`, all under
an exclusive advisory lock. A reader of the champion finishes a move that a killed process left pending, and records an
alias that a person moved in the MLflow UI as `manual`. A pending move that cannot be finished any more is marked
`aborted` with the reason: its version was deleted, or a person moved the alias in the meantime.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from apex_ml.adapters.mlflow.registry import CHALLENGER, CHAMPION, ModelVersion, Registry, gone_model
from apex_ml.adapters.postgres.champions import ChampionLedger, NewDecision, champion_lock, champions
from apex_ml.adapters.postgres.foreign_model import refuse_foreign_model
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.errors import ConfigError, DataError
from apex_ml.faults import reach
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)


def resolve(settings: Settings, schema: str, registry: Registry) -> ModelVersion | None:
    """Return the champion's version, after repairing ledger and alias; None when there is no champion.

    Raises :class:`~apex_ml.errors.ConfigError` when the registered model was renamed or deleted in MLflow, or is that
    of another pipeline.
    """
    with champion_lock(settings, schema, registry.model_name, shared=True) as ledger:
        refuse_foreign_model(ledger, schema, registry.model_name)  # before its alias is adopted
        champion = registry.by_alias(CHAMPION)
        recorded = ledger.champion()
        if champion is None and recorded is not None and not registry.has_model():
            raise ConfigError(gone_model(settings, registry.model_name, f"version {recorded} is champion"))
        if ledger.pending_move() is None and recorded == (champion.version if champion else None):
            return champion
    with champion_lock(settings, schema, registry.model_name) as ledger:
        return _heal(registry, ledger)


def _heal(registry: Registry, ledger: ChampionLedger) -> ModelVersion | None:
    """Finish a pending move and record an alias that was moved in MLflow. The caller holds the exclusive lock."""
    champion = registry.by_alias(CHAMPION)
    pending = ledger.pending_move()
    if pending is not None:
        promotion_id, to_version = pending.promotion_id, pending.to_version
        target = registry.by_version(to_version)
        if target is None:
            _abort(ledger, promotion_id, f"version {to_version} is gone from the registry")
        elif champion is not None and champion.version not in (pending.from_version, to_version):
            # a person moved the alias after the process was killed: that move is the later one
            _abort(ledger, promotion_id, f"before it was finished the alias was moved to {_v(champion.version)}")
        else:
            registry.set_alias(CHAMPION, to_version)
            ledger.finish_move(promotion_id)
            champion = target
            _align_challenger(registry, ledger)
            logger.warning("pending_move_finished promotion_id=%s version=%s", promotion_id, to_version)
    recorded = ledger.champion()
    version = champion.version if champion else None
    if version != recorded:
        ledger.record(
            NewDecision(
                action="manual",
                state="done",
                step_run="",
                who="unknown, by the MLflow UI or API",
                reasons=(_why_moved(registry, recorded, champion),),
                from_version=recorded,
                to_version=version,
            )
        )
        logger.warning("manual_move_adopted from=%s to=%s", recorded, version)
        _align_challenger(registry, ledger)
    return champion


def align_challenger(settings: Settings, schema: str, registry: Registry) -> None:
    """Set the alias `challenger` to the ledger's version; a killed process may have left an old one."""
    with champion_lock(settings, schema, registry.model_name) as ledger:
        _align_challenger(registry, ledger)


def _align_challenger(registry: Registry, ledger: ChampionLedger) -> None:
    version = ledger.challenger()
    if version is not None and registry.by_version(version) is None:  # deleted in MLflow since
        version = None
    challenger = registry.by_alias(CHALLENGER)
    if version == (challenger.version if challenger else None):
        return
    if version is None:
        registry.drop_alias(CHALLENGER)
    else:
        registry.set_alias(CHALLENGER, version)


def _why_moved(registry: Registry, recorded: int | None, champion: ModelVersion | None) -> str:
    if champion is not None or recorded is None:
        return "the alias was found moved; adopted"
    if registry.by_version(recorded) is None:
        return f"version {recorded}, the champion, was deleted in MLflow; adopted"
    return f"the alias {CHAMPION} was removed from version {recorded} in MLflow; adopted"


def why_none(settings: Settings, pipeline: PipelineSettings) -> str:
    """Why there is no champion any more, and what to do; empty when there never was one."""
    with champions(settings, pipeline.schema, pipeline.model_name) as ledger:
        moves = ledger.moves()
    if not moves or moves[-1].to_version is not None:
        return ""
    return (
        f"there is no champion any more ({moves[-1].reasons[0]}); make a version champion:"
        f" {pipeline.command('promote --force --reason TEXT VERSION')} ({pipeline.command('champion')} lists them),"
        f" or train one: {pipeline.command('retrain')}"
    )


def _abort(ledger: ChampionLedger, promotion_id: int, reason: str) -> None:
    ledger.abort_move(promotion_id, reason)
    logger.warning("pending_move_aborted promotion_id=%s reason=%s", promotion_id, reason)


def apply(settings: Settings, schema: str, registry: Registry, move: NewDecision) -> tuple[bool, str]:
    """Carry out a pending move if the champion that it was decided about, its `from_version`, is still champion.

    Returns (applied, what happened). A refused move changes nothing; the text says who changed the champion.
    """
    assert move.to_version is not None and move.state == "pending"
    with champion_lock(settings, schema, registry.model_name) as ledger:
        refuse_foreign_model(ledger, schema, registry.model_name)
        current = _heal(registry, ledger)
        version = current.version if current else None
        if version == move.to_version:
            return True, f"version {move.to_version} is already champion"
        if version != move.from_version:
            mover = _who(ledger, version)
            return False, f"expected champion {_v(move.from_version)}, found {_v(version)}: {mover}"
        promotion_id = ledger.record(move)
        reach("promotion_pending")
        registry.set_alias(CHAMPION, move.to_version)
        reach("promotion_alias_moved")
        ledger.finish_move(promotion_id)
        reach("promotion_done")
        _align_challenger(registry, ledger)
    logger.info("champion_moved action=%s from=%s to=%s", move.action, _v(version), _v(move.to_version))
    return True, f"champion is now {_v(move.to_version)} (before: {_v(version)})"


def reject(settings: Settings, schema: str, registry: Registry, rejection: NewDecision) -> None:
    """Record that a challenger was not promoted, once a run."""
    assert rejection.to_version is not None
    with champion_lock(settings, schema, registry.model_name) as ledger:
        refuse_foreign_model(ledger, schema, registry.model_name)
        if ledger.decision_of(rejection.step_run, rejection.to_version):
            return
        ledger.record(rejection)
        _align_challenger(registry, ledger)


def _v(version: int | None) -> str:
    return "none" if version is None else f"version {version}"


def _who(ledger: ChampionLedger, version: int | None) -> str:
    move = ledger.latest_move_to(version)
    if move is None:
        return "no record of who changed it"
    return f"{move.action} by {move.who} (run {move.step_run or 'none'}) at {move.decided_at:%F %T} UTC"


def require(version: ModelVersion | None, what: str) -> ModelVersion:
    """Return the version. Raises :class:`~apex_ml.errors.DataError` when it does not exist."""
    if version is None:
        raise DataError(
            f"{what} does not exist in MLflow's registry: it was deleted, or the model was renamed; train another: make"
            " train"
        )
    return version


def previous(moves: Iterable[tuple[str, int | None]]) -> int | None:
    """The champion to go back to, from the finished moves (action, to_version), oldest first; None when there is none.

    A rollback removes the moves after its target, so that a second one goes further back and not forward again.

    >>> previous([("promote", 1), ("promote", 2), ("promote", 3)])
    2
    >>> previous([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2)])
    1
    >>> previous([("promote", 1), ("rollback", 1)]) is None
    True
    """
    line: list[int] = []
    for action, version in moves:
        if version is None:
            continue
        if action == "rollback" and version in line:
            del line[line.index(version) + 1 :]
        else:
            line = [*(v for v in line if v != version), version]
    return line[-2] if len(line) > 1 else None
