"""Step promote: challenger and champion on the same newest holdout, a decision with evidence, applied and recorded."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.mlflow import training_report
from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.adapters.postgres import warehouse
from apex_ml.adapters.storage.local import new_folder
from apex_ml.adapters.storage.simulated_truth import read_truth
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Model
from apex_ml.core.evaluation import order_losses
from apex_ml.core.features import feature_columns
from apex_ml.core.model_card import DECISION, with_decision
from apex_ml.core.promotion import Contender, Holdout, PromotionDecision, Serving, decide
from apex_ml.core.training_keys import order_keys, unpack_keys
from apex_ml.errors import DataError
from apex_ml.services import champion_ledger as protocol
from apex_ml.services.run_folder import StepContext, read_manifest
from apex_ml.steps.train import class_indexes, segment_columns, truth_file

logger = logging.getLogger(__name__)
REPORTS = {"promote": "decision", "reconsider": "decision_by_outcomes"}
"""Where the report of a step's decision lies among the artifacts of the challenger's run."""
TIMED_ORDERS = 1000
"""Holdout orders from which on the time an order takes is worth telling."""


def promote(context: StepContext, *, who: str, hold: bool = False, declined: str | None = None) -> dict[str, Any]:
    """Decide whether the run's model becomes champion, and make it so.

    A rejection is a success. Called again for the same run it returns the recorded decision and, if the process was
    killed in between, finishes it. With `hold` a promotion is only told, by `held` in the result, for a person to
    approve; a later call decides anew, against whoever is champion by then. `declined` names who refused: the
    challenger is rejected for that reason, with the evidence.
    """
    settings = context.settings
    trained = read_manifest(context.folder("train"))["result"]
    registry = Registry(settings)
    challenger = protocol.require(registry.by_version(trained["model_version"]), f"version {trained['model_version']}")
    current = protocol.resolve(settings, registry)
    places = {name: trained[name] for name in ("mlflow_run_url", "model_version_url") if name in trained}
    done = recorded(context, challenger.version)
    if done is not None:
        protocol.align_challenger(settings, registry)
        done |= {"decision_report_url": publish(context, registry, challenger)}
        if DECISION not in challenger.description:  # killed after the ledger's row
            _describe(registry, challenger, done, who)
        return done | places
    decision, about = _judge(context, registry, challenger, current)
    if decision.promote and hold:
        logger.info("decision_held version=%s reasons=%s", challenger.version, "; ".join(decision.reasons))
        _report(context, challenger, current, decision, "promote")
        held = {"held": True, "decision_report_url": publish(context, registry, challenger)}
        reasons, evidence = list(decision.reasons), dict(decision.evidence)
        return _result(context, challenger.version, False, reasons, evidence, current) | held | places
    if decision.promote and declined:
        decision = replace(decision, promote=False, reasons=(f"not approved: {declined}", *decision.reasons))
    return carry_out(context, registry, challenger, current, decision, about, who=who) | places


def carry_out(
    context: StepContext,
    registry: Registry,
    challenger: ModelVersion,
    current: ModelVersion | None,
    decision: PromotionDecision,
    about: dict[str, Any],
    *,
    who: str,
    step: str = "promote",
) -> dict[str, Any]:
    """Apply and record a decision of the gate, and publish its report under the name of the step that asked."""
    settings = context.settings
    _report(context, challenger, current, decision, step)
    row = {
        "from_version": current.version if current else None,
        "to_version": challenger.version,
        "step_run": context.run,
        "who": who,
        "data_sha256": about["data_sha256"],
        "contract_sha256": about["contract_sha256"],
    }
    if decision.promote:
        registry.fetch(challenger)
        applied, told = protocol.apply(
            settings,
            registry,
            protocol.Move(
                action="promote",
                expected=row["from_version"],
                to_version=challenger.version,
                step_run=context.run,
                who=who,
                reasons=decision.reasons,
                evidence=dict(decision.evidence),
                data_sha256=row["data_sha256"],
                contract_sha256=row["contract_sha256"],
            ),
        )
        if not applied:
            decision = replace(decision, promote=False, reasons=(told,))
            _report(context, challenger, current, decision, step)
    if not decision.promote:
        protocol.reject(settings, registry, decision, row)
    logger.info("%s", _in_words(challenger.version, current, decision))
    result = _result(
        context, challenger.version, decision.promote, list(decision.reasons), dict(decision.evidence), current
    )
    result |= {"step": step, "decision_report_url": publish(context, registry, challenger, step)}
    _describe(registry, challenger, result, who)
    return result


def _describe(registry: Registry, challenger: ModelVersion, result: dict[str, Any], who: str) -> None:
    """Put the decision into the version's description."""
    told = (result["promoted"], who, result["reasons"], result["decision_report_url"])
    registry.describe(challenger.version, with_decision(challenger.description, *told))


def _in_words(version: int, current: ModelVersion | None, decision: PromotionDecision) -> str:
    """The line that a person reads in the task's log."""
    because = "; ".join(decision.reasons)
    if decision.promote:
        before = f" in place of version {current.version}" if current else ""
        return f"version {version} becomes champion{before}: {because}"
    stays = f"version {current.version} stays champion" if current else "there is still no champion"
    return f"version {version} is not promoted and {stays}: {because}"


def _report(
    context: StepContext,
    challenger: ModelVersion,
    current: ModelVersion | None,
    decision: PromotionDecision,
    step: str,
) -> None:
    with new_folder(context.folder(step)) as partial:
        champion = current.version if current else None
        training_report.decision_report(
            partial, context.run, challenger.version, champion, decision, context.contract.classes
        )


def publish(context: StepContext, registry: Registry, challenger: ModelVersion, step: str = "promote") -> str:
    """Put the report beside the challenger's training in MLflow; its address there, empty without a report."""
    folder = context.folder(step)
    if not folder.exists():
        return ""
    try:
        return registry.upload(challenger.run_id, folder, REPORTS[step])
    except DataError as error:  # the run was deleted for good: the decision stands all the same
        logger.warning("report_not_published folder=%s reason=%s", folder, error)
        return ""


def _result(
    context: StepContext,
    version: int,
    promoted: bool,
    reasons: list[str],
    evidence: dict[str, Any],
    current: ModelVersion | None,
) -> dict[str, Any]:
    champion = version if promoted else (current.version if current else None)
    return {
        "run": context.run,
        "step": "promote",
        "promoted": promoted,
        "challenger_version": version,
        "champion_version": champion,
        "reasons": reasons,
        "evidence": evidence,
    }


def recorded(context: StepContext, version: int) -> dict[str, Any] | None:
    """The result of the decision that this run took about a version; None when it took none."""
    with warehouse.connect(context.settings) as connection:
        found = warehouse.decision_of(connection, context.settings.model_name, context.run, version)
        if found is None:
            return None
        promoted = found["action"] == "promote"
        result = _result(context, version, promoted, found["reasons"], found["evidence"], None)
        return result | {"champion_version": found["to_version"] if promoted else found["from_version"]}


def _judge(
    context: StepContext, registry: Registry, challenger: ModelVersion, current: ModelVersion | None
) -> tuple[PromotionDecision, dict[str, Any]]:
    """Score both models on the orders of the test part; the gate drops those that either was fitted or tuned on."""
    contract, settings = context.contract, context.settings
    test = pq.read_table(context.folder("split") / "test.parquet")
    ours = Model.from_files(registry.files(challenger))
    theirs = None if current is None else Model.from_files(registry.files(current))
    entities = test.column(contract.entity).to_numpy(zero_copy_only=False)
    days = test.column(contract.timestamp).cast(pa.int32()).to_numpy()
    y = class_indexes(test, contract.target, contract.classes)
    holdout = Holdout(
        y=y,
        prior=np.asarray(ours.about["class_shares"]),
        entities=entities,
        days=days,
        segments={name: _levels(test.column(name)) for name in segment_columns(contract)},
        orders=order_keys(entities, days),
        optimum=_optimum(context, test, y),
    )
    with warehouse.connect(settings) as connection:
        looks = 1 + warehouse.looks_since_last_move(connection, settings.model_name)
    decision = decide(
        _contender(ours, test),
        None if theirs is None else _contender(theirs, test),
        holdout,
        contract.promotion,
        serving(contract),
        looks=looks,
        seed=settings.seed,
    )
    compared = {
        "champion_version": current.version if current else None,
        "challenger_version": challenger.version,
    }
    return replace(decision, evidence={**decision.evidence, **compared}), dict(ours.about)


def _optimum(context: StepContext, test: pa.Table, y: np.ndarray) -> np.ndarray | None:
    """Losses of the best a model can know, where the simulator's truth lies beside the raw files; NaN is unknown."""
    path = truth_file(context)
    truth = None if path is None else read_truth(context.settings, context.contract, path, test)
    return None if truth is None else order_losses(truth.optimum, y)


def serving(contract: Contract) -> Serving:
    """What tables and API serve under a contract."""
    return Serving(contract.classes, tuple(c.name for c in feature_columns(contract)))


def _levels(column: pa.ChunkedArray) -> np.ndarray:
    levels: np.ndarray = pc.fill_null(column, "unknown").to_numpy(zero_copy_only=False).astype(str)
    return levels


def _contender(model: Model, table: pa.Table) -> Contender:
    """The model's probabilities and how long an order takes it; unmeasured where there are few."""
    model.probabilities(table.slice(0, 100))
    began = time.perf_counter()
    p = model.probabilities(table)
    seconds = time.perf_counter() - began
    return contender(model, p, seconds * 1e6 / table.num_rows if table.num_rows >= TIMED_ORDERS else None)


def contender(model: Model, p: np.ndarray, us_per_order: float | None = None) -> Contender:
    """What the gate must know of a model that gave the probabilities `p`, (n, k)."""
    about = model.about
    return Contender(
        p=p,
        classes=model.classes,
        features=model.encoder.names,
        tuned_until=_days(about.get("validation_last")),
        as_of=_days(about.get("as_of")),
        us_per_order=us_per_order,
        promotable=bool(about["promotable"]),
        seen=unpack_keys(model.seen),
        weights=model.weights,
    )


def _days(day: str | None) -> int | None:
    return None if day is None else (date.fromisoformat(day) - date(1970, 1, 1)).days
