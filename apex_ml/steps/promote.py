"""Step promote: challenger and champion on the same newest holdout, a decision with evidence, applied and recorded."""

from __future__ import annotations

import logging
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters import warehouse
from apex_ml.adapters.registry import CHALLENGER, ModelVersion, Registry
from apex_ml.core.estimator import Model
from apex_ml.core.promotion import Holdout, PromotionDecision, decide
from apex_ml.errors import DataError
from apex_ml.steps import champion as protocol
from apex_ml.steps.folder import StepContext, read_manifest
from apex_ml.steps.train import class_indexes

logger = logging.getLogger(__name__)


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
    done = _recorded(context, challenger.version)
    if done is not None:
        return done
    registry.set_alias(CHALLENGER, challenger.version)
    decision, about = _judge(context, registry, challenger, current)
    if decision.promote and hold:
        logger.info("decision_held version=%s reasons=%s", challenger.version, "; ".join(decision.reasons))
        return _result(context, challenger.version, False, list(decision.reasons), dict(decision.evidence), current) | {
            "held": True
        }
    if decision.promote and declined:
        reasons = (f"not approved: {declined}", *decision.reasons)
        decision = PromotionDecision(False, reasons, decision.evidence)
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
            decision = PromotionDecision(False, (told,), decision.evidence)
    if not decision.promote:
        protocol.reject(settings, decision, row)
    logger.info(
        "decision promoted=%s version=%s reasons=%s", decision.promote, challenger.version, "; ".join(decision.reasons)
    )
    return _result(
        context, challenger.version, decision.promote, list(decision.reasons), dict(decision.evidence), current
    )


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


def _recorded(context: StepContext, version: int) -> dict[str, Any] | None:
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
    """Score both models on the orders of the test part that are newer than what either was fitted or tuned on."""
    contract = context.contract
    ours = Model.from_files(registry.files(challenger))
    about = dict(ours.about)
    test = pq.read_table(context.folder("split") / "test.parquet")
    unseen_after = date.fromisoformat(about["validation_last"])
    theirs: Model | None = None
    if current is not None:
        theirs = Model.from_files(registry.files(current))
        unseen_after = max(unseen_after, date.fromisoformat(theirs.about["validation_last"]))
    if about["promotable"]:
        test = test.filter(pc.greater(test.column(contract.timestamp), pa.scalar(unseen_after, pa.date32())))
    y = class_indexes(test, contract.target, contract.classes)
    holdout = Holdout(y, np.asarray(about["class_shares"]))
    champion_p = None
    if theirs is not None:
        if theirs.classes != ours.classes:
            raise DataError(f"promote: classes differ: champion {theirs.classes}, challenger {ours.classes}")
        champion_p = theirs.probabilities(test)
    decision = decide(
        ours.probabilities(test), champion_p, holdout, contract.promotion, promotable=bool(about["promotable"])
    )
    seen = {
        "holdout_after": unseen_after.isoformat(),
        "champion_version": current.version if current else None,
        "challenger_version": challenger.version,
    }
    return PromotionDecision(decision.promote, decision.reasons, {**decision.evidence, **seen}), about
