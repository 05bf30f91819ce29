"""Apply, record and publish a decision of the gate about a challenger."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date

import numpy as np

from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.adapters.postgres.champions import NewDecision, champions
from apex_ml.contract.model import Contract
from apex_ml.contract.time_units import EPOCH
from apex_ml.core.estimator import Model
from apex_ml.core.features import feature_columns
from apex_ml.core.model_card import with_decision
from apex_ml.core.model_info import ModelInfo
from apex_ml.core.promotion import Contender, PromotionDecision, Serving
from apex_ml.core.recorded_evidence import RecordedEvidence
from apex_ml.core.strategies.random import Random
from apex_ml.core.training_keys import unpack_keys
from apex_ml.errors import DataError
from apex_ml.services import champion_ledger
from apex_ml.services.results import PromoteResult
from apex_ml.services.run_folder import StepContext

logger = logging.getLogger(__name__)
REPORTS = {"promote": "decision", "reconsider": "decision_by_outcomes"}
"""By step, the folder of its decision report among the artifacts of the challenger's run."""


def carry_out(
    context: StepContext,
    registry: Registry,
    challenger: ModelVersion,
    current: ModelVersion | None,
    decision: PromotionDecision,
    info: ModelInfo,
    *,
    who: str,
    step: str = "promote",
) -> PromoteResult:
    """Apply and record a decision of the gate, and publish its report under the name of the step that asked."""
    write_decision_report(context, challenger, current, decision, step)
    record = NewDecision(
        action="reject",
        state="done",
        step_run=context.run,
        who=who,
        reasons=decision.reasons,
        from_version=current.version if current else None,
        to_version=challenger.version,
        evidence=decision.evidence,
        data_sha256=info.data_sha256,
        contract_sha256=info.contract_sha256,
    )
    if decision.promote and (refusal := _promote(context, registry, challenger, record)) is not None:
        decision = replace(decision, promote=False, reasons=(refusal,))
        write_decision_report(context, challenger, current, decision, step)
    if not decision.promote:
        champion_ledger.reject(context.settings, context.schema, registry, replace(record, reasons=decision.reasons))
    logger.info("%s", _in_words(challenger.version, current, decision))
    result = replace(
        decision_result(context, challenger.version, decision, current),
        step=step,
        decision_report_url=publish(context, registry, challenger, step),
    )
    describe_decision(registry, challenger, result, who)
    return result


def _promote(context: StepContext, registry: Registry, challenger: ModelVersion, record: NewDecision) -> str | None:
    """Make the challenger champion; returns the reason when another version became champion in the meantime."""
    registry.fetch(challenger)
    move = replace(record, action="promote", state="pending")
    applied, message = champion_ledger.apply(context.settings, context.schema, registry, move)
    return None if applied else message


def describe_decision(registry: Registry, challenger: ModelVersion, result: PromoteResult, who: str) -> None:
    """Put the decision into the version's description."""
    description = with_decision(
        challenger.description, result.promoted, who, list(result.reasons), result.decision_report_url or ""
    )
    registry.describe(challenger.version, description)


def _in_words(version: int, current: ModelVersion | None, decision: PromotionDecision) -> str:
    """The decision as one line of the task's log."""
    because = "; ".join(decision.reasons)
    if decision.promote:
        before = f" in place of version {current.version}" if current else ""
        return f"version {version} becomes champion{before}: {because}"
    stays = f"version {current.version} stays champion" if current else "there is still no champion"
    return f"version {version} is not promoted and {stays}: {because}"


def write_decision_report(
    context: StepContext,
    challenger: ModelVersion,
    current: ModelVersion | None,
    decision: PromotionDecision,
    step: str,
) -> None:
    """Write the report of a decision into the folder of the step that asked for it."""
    from apex_ml.adapters.mlflow import training_report

    with context.runs.new_output(context.run, step) as partial:
        champion = current.version if current else None
        training_report.decision_report(
            partial, context.run, challenger.version, champion, decision, context.contract.classes
        )


def publish(context: StepContext, registry: Registry, challenger: ModelVersion, step: str = "promote") -> str:
    """Upload the report to the challenger's training run in MLflow; returns its address, empty without a report."""
    folder = context.output(step)
    if not folder.exists():
        return ""
    try:
        return registry.upload(challenger.run_id, folder, REPORTS[step])
    except DataError as error:  # the run was deleted for good: the decision is valid without its report
        logger.warning("report_not_published folder=%s reason=%s", folder, error)
        return ""


def decision_result(
    context: StepContext, version: int, decision: PromotionDecision, current: ModelVersion | None
) -> PromoteResult:
    """The result of a step that asked the gate about a version; `current` is the champion before."""
    champion = version if decision.promote else (current.version if current else None)
    return PromoteResult(
        run=context.run,
        step="promote",
        promoted=decision.promote,
        challenger_version=version,
        champion_version=champion,
        reasons=decision.reasons,
        evidence=RecordedEvidence(decision.evidence.as_dict()),
    )


def recorded(context: StepContext, version: int) -> PromoteResult | None:
    """The result of this run's decision about a version; None without a decision."""
    with champions(context.settings, context.schema, context.model_name) as ledger:
        decision = ledger.decision_of(context.run, version)
    if decision is None:
        return None
    promoted = decision.action == "promote"
    return PromoteResult(
        run=context.run,
        step="promote",
        promoted=promoted,
        challenger_version=version,
        champion_version=decision.to_version if promoted else decision.from_version,
        reasons=tuple(decision.reasons),
        evidence=decision.evidence,
    )


def note_on_time(contract: Contract) -> tuple[str, ...]:
    """What the gate cannot say about rows without a timestamp."""
    if contract.has_timestamp:
        return ()
    return (
        "no column has the role timestamp: the test rows are a random part, not newer ones, so that no drift over time"
        " is tested",
    )


def serving(contract: Contract) -> Serving:
    """The classes and features of the tables and the API under a contract."""
    return Serving(contract.classes, tuple(c.name for c in feature_columns(contract)))


def contender(model: Model, p: np.ndarray, us_per_row: float | None = None) -> Contender:
    """The facts that the gate needs about a model with the probabilities `p`, shape (n, k)."""
    info = model.info
    return Contender(
        p=p,
        classes=model.classes,
        features=model.encoder.names,
        # without dates nothing is before or after: only the keys of the rows count
        tuned_until=None if info.split == Random.name else _days(info.validation_last),
        as_of=_days(info.as_of),
        us_per_row=us_per_row,
        promotable=info.promotable,
        training_keys=unpack_keys(model.training_keys),
        weights=model.weights,
        costs=model.costs,
    )


def _days(day: date) -> int:
    return (day - EPOCH).days
