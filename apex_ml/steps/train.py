"""Step train: develop a model on train and validation, evaluate it once on test, register a version."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.mlflow.tracking import Registered, TrainingRecord, log_and_register, refuse_deleted
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.versions import PostgresVersions, VersionRecord
from apex_ml.adapters.storage.files import sha256_of
from apex_ml.contract.options import ModelOptions
from apex_ml.core.degradation import EXPECTED
from apex_ml.core.development import Development, Options, develop
from apex_ml.core.examples import Examples
from apex_ml.core.model_card import Provenance, model_card
from apex_ml.core.model_info import ModelInfo
from apex_ml.core.search import Trial
from apex_ml.core.strategies import split_strategy
from apex_ml.services.holdout import segment_columns
from apex_ml.services.manifest import Manifest
from apex_ml.services.results import ComparedModel, SplitResult, TrainResult
from apex_ml.services.run_folder import StepContext, run_step, step_manifest
from apex_ml.services.training_inputs import load_examples, model_info, training_options, training_time
from apex_ml.services.training_record import (
    PROFILE_PAGE,
    compare_with_optimum,
    compare_with_own_features,
    logged_params,
    model_summary,
    provenance,
    version_tags,
    write_data_profile,
    write_training_report,
)
from apex_ml.services.true_outcomes import truth_file

logger = logging.getLogger(__name__)


def train(context: StepContext, *, trials: int) -> TrainResult:
    """Train and register a model version; returns its version and log losses on validation and test.

    With `trials` the hyper-parameters are searched on validation first; an interrupted search continues. The model is
    never fitted on the test part. Raises :class:`~apex_ml.errors.DataError` when there is nothing to learn.
    """
    divided = step_manifest(context, SplitResult)
    options = training_options(context, trials, divided.result.strategy)
    inputs: dict[str, Any] = {
        "split": divided.key,
        "trials": trials,
        "search_seconds": options.budget.seconds,
        "search_folds": options.search_folds,
        "contenders": options.contenders,
        "selection": options.selection,
        "suspicious_gain": options.suspicious_gain,
        "decision": options.decision,
        "class_weights": options.class_weights,
        "early_stopping_rounds": options.early_stopping_rounds,
        "device": options.device,
        "seed": options.seed,
    }
    minutes = context.pipeline.options.model.time_budget_minutes
    if minutes != ModelOptions().time_budget_minutes:
        inputs["time_budget_minutes"] = minutes
    if options.costs:
        inputs["costs"] = options.costs
    if context.pipeline.options.model.positive is not None:
        inputs["positive"] = options.positive
    truth = truth_file(context)
    if truth is not None:
        inputs["truth_sha256"] = sha256_of(truth)
    return run_step(context, TrainResult, inputs, lambda folder: _work(context, folder, options, divided, truth))


def _work(
    context: StepContext, folder: Path, options: Options, divided: Manifest[SplitResult], truth: Path | None
) -> TrainResult:
    settings = context.settings
    refuse_deleted(settings, context.pipeline.name, context.model_name)
    parts = load_examples(context)
    info = model_info(context, divided.result, parts)
    search_file = context.processed / context.run / f".search-{divided.key[:16]}.db"
    done = _develop(context, parts, options, info, search_file)
    if split_strategy(info.split).is_compared:
        done = compare_with_own_features(context, done, parts, info)
    if truth is not None:
        done = compare_with_optimum(context, done, parts["test"], truth)
    _log_development(done)
    write_training_report(folder / "report", context, done, options.positive)
    pages = {"Training report": "report.html"}
    if write_data_profile(folder / "report", context):
        pages["Data profile"] = PROFILE_PAGE
    source = provenance(context)
    record = TrainingRecord(
        name=context.run,
        params=logged_params(done, options, info),
        metrics=done.metrics,
        curves=done.curve,
        trials=done.trials,
        tags=version_tags(info) | source.tags(),
        data_source=source.data_url,
        data_sha256=info.data_sha256,
        description=model_card(source, info, divided.result.to_json()["parts"], done.metrics, model_summary(done)),
        sample=parts["train"].table.slice(0, 1000).select(list(done.model.encoder.names)).to_pandas(),
        artifacts=folder / "report",
        pages=pages,
    )
    registered = log_and_register(settings, context.pipeline.name, context.model_name, done.model, record)
    search_file.unlink(missing_ok=True)
    (folder / "bundle").mkdir()
    for name, content in done.model.to_files().items():
        (folder / "bundle" / name).write_bytes(content)
    _record_version(context, done, registered, pages, source)
    return _result(context, folder, done, registered)


def _develop(
    context: StepContext, parts: dict[str, Examples], options: Options, info: ModelInfo, search_file: Path
) -> Development:
    """Develop a model within the time budget. The file keeps the trials of a search until its model is registered."""
    spent = training_time(context)
    done = develop(
        parts,
        split_strategy(info.split).columns(context.contract),
        context.contract.classes,
        segment_columns(context.contract),
        options,
        info,
        storage=f"sqlite:///{search_file}" if options.budget.trials else None,
        on_trial=_log_trial,
        spent=spent,
    )
    if spent.was_short:
        minutes = context.pipeline.options.model.time_budget_minutes
        logger.warning("training stopped early: model.time_budget_minutes is %g; the result may not repeat", minutes)
    return done


def _log_trial(trial: Trial) -> None:
    value = "pruned" if trial.value is None else f"{trial.value:.5f}"
    logger.info("trial number=%s log_loss=%s seconds=%.1f", trial.number + 1, value, trial.seconds)


def _log_development(done: Development) -> None:
    strongest = done.single_features[0]
    logger.info("strongest_feature name=%s gain_alone=%.4f", strongest.name, strongest.gain)
    for verdict in done.verdicts:
        logger.info("feature name=%s kept=%s reason=%s", verdict.name, verdict.kept, verdict.reason)
    for name, loss in done.candidates.items():
        logger.info("candidate name=%s validation_log_loss=%.5f", name, loss)


def _record_version(
    context: StepContext, done: Development, registered: Registered, pages: Mapping[str, str], source: Provenance
) -> None:
    """Record the origin of the version in Postgres, with its pages in MLflow."""
    info = done.model.info
    version = VersionRecord(
        model_version=registered.version,
        mlflow_run_id=registered.run_id,
        data_sha256=info.data_sha256,
        contract_sha256=info.contract_sha256,
        git_commit=info.git_commit,
        step_run=context.run,
        about={
            **info.as_dict(),
            EXPECTED: done.expected.as_dict(),
            # with it the page of the pipeline links to the run's artifacts
            "mlflow_experiment_id": registered.experiment_id,
            "pages": pages,
            "tables": [table.as_dict() for table in source.tables],
        },
        contract_identity=info.contract.digest() if info.contract else None,
    )
    with transaction(context.settings, context.schema) as session:
        PostgresVersions(session, context.model_name).record(version)


def _result(context: StepContext, folder: Path, done: Development, registered: Registered) -> TrainResult:
    metrics, registry = done.metrics, Registry(context.settings, context.model_name)
    logger.info(
        "trained version=%s validation_log_loss=%.5f test_log_loss=%.5f prior=%.5f",
        registered.version,
        metrics["validation_log_loss"],
        metrics["test_log_loss"],
        metrics["test_prior_log_loss"],
    )
    comparison = done.tables.comparison
    return TrainResult(
        run=context.run,
        step="train",
        model_version=registered.version,
        mlflow_run_id=registered.run_id,
        mlflow_run_url=registry.run_url(registered.run_id, registered.experiment_id),
        model_version_url=registry.version_url(registered.version),
        winner=done.winner,
        candidates=done.candidates,
        chosen={name: dict(params) for name, params in done.chosen.items()},
        features=tuple(done.model.encoder.names),
        calibration=done.model.calibration.method,
        decision_weights=dict(zip(context.contract.classes, done.model.weights, strict=True)),
        validation_log_loss=metrics["validation_log_loss"],
        validation_prior_log_loss=metrics["validation_prior_log_loss"],
        test_log_loss=metrics["test_log_loss"],
        test_prior_log_loss=metrics["test_prior_log_loss"],
        test_ece=metrics["test_ece"],
        test_accuracy=metrics["test_accuracy"],
        test_macro_f1=metrics["test_macro_f1"],
        test_weighted_macro_f1=metrics["test_weighted_macro_f1"],
        test_auc=metrics.get("test_auc"),
        test_average_precision=metrics.get("test_average_precision"),
        test_mean_cost=metrics.get("test_mean_cost"),
        test_optimum_log_loss=metrics.get("test_optimum_log_loss"),
        test_excess_percent=metrics.get("test_excess_percent"),
        comparison=None if comparison is None else tuple(ComparedModel(**asdict(way)) for way in comparison),
        bundle={path.name: sha256_of(path) for path in sorted((folder / "bundle").iterdir())},
    )
