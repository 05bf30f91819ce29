"""Step promote: compare challenger and champion on the same newest holdout, decide, apply and record the decision."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.adapters.postgres.champions import champions
from apex_ml.core.estimator import Model
from apex_ml.core.model_card import DECISION
from apex_ml.core.model_contract import faults_of_model
from apex_ml.core.model_info import ModelInfo
from apex_ml.core.promotion import ComparedVersions, Contender, Holdout, PromotionDecision, decide
from apex_ml.core.row_time import days_of
from apex_ml.core.training_keys import row_keys
from apex_ml.services import champion_ledger
from apex_ml.services.champion_holdout import TEST, holdout_of_model
from apex_ml.services.holdout import class_indexes, segment_columns, segment_levels
from apex_ml.services.promotion_decision import (
    carry_out,
    contender,
    decision_result,
    describe_decision,
    note_on_time,
    publish,
    recorded,
    serving,
    write_decision_report,
)
from apex_ml.services.results import PromoteResult, TrainResult
from apex_ml.services.run_folder import StepContext, step_manifest
from apex_ml.services.true_outcomes import optimum_losses

logger = logging.getLogger(__name__)

TIMED_ROWS = 1000
"""The number of holdout rows from which the time per row is reported."""


def promote(context: StepContext, *, who: str, hold: bool = False, declined: str | None = None) -> PromoteResult:
    """Decide whether the run's model becomes champion, and carry out the decision.

    A rejection is a success. Called again for the same run it returns the recorded decision and, if the process was
    killed in between, finishes it. With `hold` a promotion is only reported, by `held` in the result, for a person to
    approve; a later call decides again, against the champion of that time. `declined` names the person who refused: the
    challenger is rejected for that reason, with the evidence.
    """
    settings = context.settings
    trained = step_manifest(context, TrainResult).result
    registry = Registry(settings, context.model_name)
    challenger = champion_ledger.require(registry.by_version(trained.model_version), f"version {trained.model_version}")
    current = champion_ledger.resolve(settings, context.schema, registry)
    done = recorded(context, challenger.version)
    if done is not None:
        champion_ledger.align_challenger(settings, context.schema, registry)
        done = replace(done, decision_report_url=publish(context, registry, challenger))
        if DECISION not in challenger.description:  # killed after the ledger's row
            describe_decision(registry, challenger, done, who)
        return _with_addresses(done, trained)
    decision, info = _decide(context, registry, challenger, current)
    decision = replace(decision, reasons=(*decision.reasons, *note_on_time(context.contract)))
    if decision.promote and hold:
        logger.info("decision_held version=%s reasons=%s", challenger.version, "; ".join(decision.reasons))
        write_decision_report(context, challenger, current, decision, "promote")
        waiting = replace(decision, promote=False)
        held = decision_result(context, challenger.version, waiting, current)
        held = replace(held, held=True, decision_report_url=publish(context, registry, challenger))
        return _with_addresses(held, trained)
    if decision.promote and declined:
        decision = replace(decision, promote=False, reasons=(f"not approved: {declined}", *decision.reasons))
    result = carry_out(context, registry, challenger, current, decision, info, who=who)
    return _with_addresses(result, trained)


def _with_addresses(result: PromoteResult, trained: TrainResult) -> PromoteResult:
    """The result with the addresses of the challenger's training in MLflow."""
    return replace(result, mlflow_run_url=trained.mlflow_run_url, model_version_url=trained.model_version_url)


def _decide(
    context: StepContext, registry: Registry, challenger: ModelVersion, current: ModelVersion | None
) -> tuple[PromotionDecision, ModelInfo]:
    """Score the test part with both models; the gate excludes the rows that either was fitted or tuned on.

    A champion of a former contract scores the same rows by its own features. When it cannot, the reasons of the
    decision say why.
    """
    contract, settings = context.contract, context.settings
    test = pq.read_table(context.output("split", TEST))
    ours = Model.from_files(registry.files(challenger))
    theirs = None if current is None else Model.from_files(registry.files(current))
    fault, their_test = "", test
    if theirs is not None and (faults := faults_of_model(contract, theirs)):
        fault, theirs = f"cannot score by the present contract: {'; '.join(faults)}", None
    if theirs is not None:
        their_test, rows = holdout_of_model(context, theirs, test)
        test = test if len(rows) == test.num_rows else test.take(pa.array(rows))
    entities = test.column(contract.entity).to_numpy(zero_copy_only=False)
    days = days_of(contract, test)
    y = class_indexes(test, contract.target, contract.classes)
    holdout = Holdout(
        y=y,
        prior=np.asarray(ours.info.class_shares),
        entities=entities,
        days=days,
        segments={name: segment_levels(test.column(name)) for name in segment_columns(contract)},
        rows=row_keys(entities, days),
        optimum=optimum_losses(context, test, y),
    )
    with champions(settings, context.schema, context.model_name) as ledger:
        looks = 1 + ledger.rejections_since_last_move()
    decision = decide(
        _contender(ours, test),
        None if theirs is None else _contender(theirs, their_test),
        holdout,
        contract.promotion,
        serving(contract),
        looks=looks,
        seed=context.pipeline.options.model.seed,
        champion_fault=fault,
    )
    versions = ComparedVersions(current.version if current else None, challenger.version)
    return replace(decision, evidence=replace(decision.evidence, versions=versions)), ours.info


def _contender(model: Model, table: pa.Table) -> Contender:
    """The model's probabilities and its time per row, which is not measured with few rows."""
    model.probabilities(table.slice(0, 100))
    began = time.perf_counter()
    p = model.probabilities(table)
    seconds = time.perf_counter() - began
    return contender(model, p, seconds * 1e6 / table.num_rows if table.num_rows >= TIMED_ROWS else None)
