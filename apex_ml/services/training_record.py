"""The record of a trained model: parameters, tags, model card, report."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.adapters.mlflow import plots, training_report
from apex_ml.adapters.pages.profile_page import write_profile_page
from apex_ml.adapters.storage.files import sha256_of
from apex_ml.adapters.storage.simulated_truth import read_truth
from apex_ml.core.development import Development, Options, develop
from apex_ml.core.evaluation import against_optimum
from apex_ml.core.examples import Examples
from apex_ml.core.features import feature_columns
from apex_ml.core.model_card import Provenance
from apex_ml.core.model_info import CONTRACT, ModelInfo
from apex_ml.core.profile import PROFILE
from apex_ml.core.strategies import split_strategy
from apex_ml.core.table_version import TableVersion
from apex_ml.errors import DataError
from apex_ml.json_text import json_file, json_text
from apex_ml.services.results import ValidateResult
from apex_ml.services.run_folder import StepContext, step_manifest
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.services.training_inputs import training_options
from apex_ml.settings import CODE_ROOT

logger = logging.getLogger(__name__)

PROFILE_PAGE = "profile.html"
"""Page of the accepted rows among the artifacts of a training."""


def logged_params(done: Development, options: Options, info: ModelInfo) -> dict[str, Any]:
    """Parameters of the MLflow run."""
    return {
        **done.params,
        "candidate": done.winner,
        "contenders": ",".join(options.contenders),
        "trials": options.budget.trials,
        "selection": options.selection,
        "features": ",".join(done.model.encoder.names)[:6000],
        "calibration": done.model.calibration.method,
        "decision": options.decision,
        "decision_weights": json_text(done.model.weights),
        "split": info.split,
    }


def provenance(context: StepContext) -> Provenance:
    """The origin of a run's data, for the model card."""
    validated = step_manifest(context, ValidateResult).result
    return Provenance(
        run=context.run,
        data_url=validated.raw or context.pipeline.locations.raw,
        data_sha256=validated.data_sha256,
        files=validated.files or 0,
        rows=validated.rows or 0,
        accepted=validated.accepted or 0,
        superseded=validated.superseded or 0,
        has_dates=context.contract.has_timestamp,
        quarantined=validated.quarantined or 0,
        airflow_url=context.settings.origin,
        data_docs_url=validated.data_docs_url or "",
        tables=tuple(map(TableVersion.from_dict, validated.tables or ())),
    )


def model_summary(done: Development) -> dict[str, str]:
    """Candidate, calibration and features, for the model card."""
    losses = (f"{name} {loss:.5f}" for name, loss in done.candidates.items())
    return {
        "candidate": f"{done.winner}; validation log loss: {', '.join(losses)}",
        "calibration": done.model.calibration.method,
        "features": ", ".join(done.model.encoder.names),
    }


def version_tags(info: ModelInfo) -> dict[str, str]:
    """Tags of the MLflow run and of the model version."""
    pins = CODE_ROOT / "requirements.txt"
    values = info.as_dict().items()
    tags = {f"apex.{k}": str(v) for k, v in values if k not in ("class_shares", PROFILE, CONTRACT) and v is not None}
    if info.contract is not None:
        tags["apex.contract_identity"] = info.contract.digest()
    if pins.exists():
        tags["apex.pins_sha256"] = sha256_of(pins)
    return tags


def write_training_report(folder: Path, context: StepContext, done: Development, positive: int | None = None) -> None:
    """Write numbers as JSON, plots as PNG, and both in one self-contained HTML page.

    `positive` is the index of the positive one of two classes.
    """
    folder.mkdir()
    classes, tables = done.model.classes, done.tables
    content = {
        "metrics": done.metrics,
        "candidates": done.candidates,
        "calibration": {"method": done.model.calibration.method, "validation_log_loss": done.calibration_losses},
        "decision_weights": dict(zip(classes, done.model.weights, strict=True)),
        "single_features": [f.as_dict() for f in done.single_features],
        "selection": [v.as_dict() for v in done.verdicts],
        "trials": [{"value": t.value, **t.params} for t in done.trials],
        **tables.as_dict(),
    }
    (folder / "evaluation.json").write_bytes(json_file(content))
    if done.curve:
        plots.learning_curve(done.curve, int(done.params.get("best_round", 0)), folder / "learning_curve.png")
    plots.confusion_matrix(tables.confusion, classes, "most probable class", folder / "confusion_matrix.png")
    plots.confusion_matrix(
        tables.confusion_weighted,
        classes,
        "lowest expected cost" if done.model.costs else "class predicted with weights",
        folder / "confusion_weighted.png",
    )
    reliability = {"before": tables.reliability_before, "after": tables.reliability_after}
    plots.reliability(reliability, classes, "Reliability, test part", folder / "reliability.png")
    if positive is not None and tables.thresholds:
        plots.thresholds(tables.thresholds, classes[positive], folder / "thresholds.png")
    plots.importance(tables.importance, folder / "importance.png")
    if tables.contributions:
        plots.contributions(tables.contributions, folder / "contributions.png")
    if any(v.importance is not None for v in done.verdicts):
        plots.selection(done.verdicts, folder / "selection.png")
    training_report.training_report(folder, context.run, done, positive)


def write_data_profile(folder: Path, context: StepContext) -> bool:
    """Describe the accepted rows on a page in the folder of the report; False where the pipeline does not want it.

    A page that cannot be made is a warning: the model does not depend on it.
    """
    if not context.pipeline.options.validation.profile:
        return False
    contract = context.contract
    timestamp = contract.timestamp if contract.has_timestamp else None
    try:
        profile = profile_table(context.settings, context.output("validate", ACCEPTED), contract.target, timestamp)
    except DataError as error:
        logger.warning("the accepted rows have no profile: %s", error)
        return False
    name = f"{context.pipeline.name}: accepted rows of {context.run}"
    write_profile_page(replace(profile, source=replace(profile.source, name=name)), folder / PROFILE_PAGE)
    return True


def compare_with_optimum(context: StepContext, done: Development, test: Examples, path: Path) -> Development:
    """Add the distance of the loss on the test part from the best possible loss."""
    truth = read_truth(context.settings, context.contract, path, test.table)
    if truth is None:
        return done
    p = done.model.probabilities(test.table)
    metrics = against_optimum(
        p, test.y, truth.true, truth.optimum, test.entities, seed=context.pipeline.options.model.seed
    )
    if "optimum_log_loss" in metrics:
        losses = (metrics["optimum_log_loss"], metrics["truth_log_loss"], metrics["excess_percent"])
        logger.info("optimum log_loss=%.5f truth=%.5f excess_percent=%.3f", *losses)
    return replace(done, metrics={**done.metrics, **{f"test_{name}": value for name, value in metrics.items()}})


def compare_with_own_features(
    context: StepContext, done: Development, parts: dict[str, Examples], info: ModelInfo
) -> Development:
    """Add a comparison on the same rows: the original model as it was scored, corrected, and our features."""
    contract = context.contract
    options = replace(training_options(context, 0, "temporal"), suspicious_gain=None)
    ours = develop(parts, feature_columns(contract), contract.classes, (), options, info)
    tables = {name: (part.table, part.y) for name, part in parts.items()}
    rows = split_strategy(info.split).compare(done.model, ours.model, tables) or []
    for row in rows:
        logger.info("comparison test_log_loss=%.5f accuracy=%.4f way=%s", row.test_log_loss, row.accuracy, row.way)
    return replace(done, tables=replace(done.tables, comparison=rows))
