"""Step train: develop a model on train and validation, evaluate it once on test, register a version."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files
from apex_ml.adapters.mlflow import plots, training_report
from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.mlflow.tracking import TrainingRecord, log_and_register, refuse_deleted
from apex_ml.adapters.postgres import warehouse
from apex_ml.adapters.storage.local import scratch_folder, sha256_of
from apex_ml.adapters.storage.simulated_truth import read_truth
from apex_ml.core.degradation import EXPECTED
from apex_ml.core.development import Development, Examples, Options, develop
from apex_ml.core.estimator import Model
from apex_ml.core.evaluation import against_optimum, class_shares
from apex_ml.core.features import FeatureColumn, feature_columns
from apex_ml.core.legacy import compare, legacy_columns, legacy_identifiers
from apex_ml.core.model_card import Provenance, model_card
from apex_ml.core.profile import PROFILE, RECENT, bins_of
from apex_ml.core.search import Budget, Trial
from apex_ml.core.split import PARTS
from apex_ml.json_text import json_file, json_text
from apex_ml.services.holdout import class_indexes, segment_columns
from apex_ml.services.run_folder import StepContext, git_commit, read_manifest, run_step
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.services.true_outcomes import truth_file
from apex_ml.settings import CODE_ROOT
from apex_ml.sql.quote import identifier, literal

logger = logging.getLogger(__name__)
RECENT_WEEKS, RECENT_ORDERS = 4, 5_000
"""Weeks of the newest orders whose attributes a model keeps: one, or up to so many until there are so many orders."""


def train(context: StepContext, *, trials: int) -> dict[str, Any]:
    """Train and register a model version; returns its version and log losses on validation and test.

    With `trials` the hyper-parameters are searched on validation first; a search that was interrupted goes on. The test
    part is never seen by the fit. Raises :class:`~apex_ml.errors.DataError` when there is nothing to learn.
    """
    divided = read_manifest(context.folder("split"))
    options = _options(context, trials, divided["result"]["strategy"])
    inputs = {
        "split": divided["key"],
        "trials": trials,
        "search_seconds": options.budget.seconds,
        "search_folds": options.search_folds,
        "contenders": options.contenders,
        "selection": options.selection,
        "suspicious_gain": options.suspicious_gain,
        "class_weights": options.class_weights,
        "early_stopping_rounds": options.early_stopping_rounds,
        "device": options.device,
        "seed": options.seed,
    }
    truth = truth_file(context)
    if truth is not None:
        inputs["truth_sha256"] = sha256_of(truth)
    return run_step(context, "train", inputs, lambda folder: _work(context, folder, options, divided, truth))


def reproduce(context: StepContext) -> dict[str, Any]:
    """Develop the run's model again from its parts, with the settings its record holds, and compare the bytes.

    The search is not replayed. Nothing is registered or written. Raises :class:`~apex_ml.errors.DataError` when the
    run's training has not finished.
    """
    recorded = read_manifest(context.folder("train"))
    used = recorded["inputs"]
    bundle = context.folder("train") / "bundle"
    before = Model.from_files({path.name: path.read_bytes() for path in bundle.iterdir()})
    options = replace(
        _options(context, 0, before.about["split"]),
        contenders=tuple(used["contenders"]),
        selection=used["selection"],
        class_weights=used["class_weights"],
        early_stopping_rounds=used["early_stopping_rounds"],
        device=used["device"],
        seed=used["seed"],
        fixed=recorded["result"]["chosen"],
    )
    parts = _examples(context)
    contract = context.contract
    columns = _columns(context, before.about["split"])
    done = develop(parts, columns, contract.classes, segment_columns(contract), options, before.about)
    files, again = before.to_files(), done.model.to_files()
    differing = sorted(name for name in files if files[name] != again.get(name))
    commit, dirty = git_commit()
    same_code = commit == before.about["git_commit"] and not dirty and not before.about["dirty"]
    told = "the same bytes" if not differing else f"{', '.join(differing)} differ"
    logger.info("reproduced match=%s: %s", not differing, told)
    return {
        "run": context.run,
        "step": "train",
        "reproduced": not differing,
        "differing": differing,
        "same_code": same_code,
        "recorded_log_loss": recorded["result"]["test_log_loss"],
        "log_loss": done.metrics["test_log_loss"],
    }


def _columns(context: StepContext, strategy: str) -> tuple[FeatureColumn, ...]:
    return legacy_columns(context.contract) if strategy == "legacy" else feature_columns(context.contract)


def _options(context: StepContext, trials: int, strategy: str) -> Options:
    settings = context.settings
    options = Options(
        contenders=tuple(name.strip() for name in settings.candidates.split(",")),
        selection=settings.selection,
        suspicious_gain=context.contract.features.suspicious_gain,
        budget=Budget(trials, settings.search_seconds),
        search_folds=settings.search_folds,
        class_weights=settings.class_weights,
        early_stopping_rounds=settings.early_stopping_rounds,
        device=settings.device,
        seed=settings.seed,
        threads=settings.threads,
    )
    if strategy != "legacy":
        return options
    # as the original did: its rules, balanced weights, and no look at what a feature gives away
    identifiers = legacy_identifiers(context.contract)
    return replace(options, selection="legacy", identifiers=identifiers, class_weights="balanced", suspicious_gain=None)


def _examples(context: StepContext) -> dict[str, Examples]:
    contract = context.contract
    found = {}
    for part in PARTS:
        table = pq.read_table(context.folder("split") / f"{part}.parquet")
        entities = table.column(contract.entity).to_numpy(zero_copy_only=False)
        days = table.column(contract.timestamp).cast(pa.int32()).to_numpy()
        found[part] = Examples(table, class_indexes(table, contract.target, contract.classes), entities, days)
    return found


def _about(context: StepContext, divided: dict[str, Any], parts: dict[str, Examples]) -> dict[str, Any]:
    made = read_manifest(context.folder("elt"))["result"]
    dates = divided["result"]["parts"]
    commit, dirty = git_commit()
    return {
        "run": context.run,
        "as_of": made["as_of"],
        "data_sha256": made["data_sha256"],
        "contract_sha256": context.contract.digest(),
        "features_sha256": made["features_sha256"],
        "split": divided["result"]["strategy"],
        "promotable": divided["result"]["promotable"],
        "train_first": dates["train"]["first"],
        "train_last": dates["train"]["last"],
        "validation_last": dates["validation"]["last"],
        "test_first": dates["test"]["first"],
        "test_last": dates["test"]["last"],
        "class_shares": class_shares(parts["train"].y, len(context.contract.classes)).tolist(),
        "seed": context.settings.seed,
        "git_commit": commit,
        "dirty": dirty,
        PROFILE: {RECENT: _newest_orders(context, date.fromisoformat(made["as_of"]), parts["train"].table)},
    }


def _newest_orders(context: StepContext, as_of: date, examples: pa.Table) -> dict[str, list[int]]:
    """Counts of the attributes of the newest accepted orders, over the bins of the training examples.

    That is the newest whole week before `as_of`, and as many more weeks, up to four, as make enough orders. The
    examples are each client's last order and therefore partly old: they say what the model learned from, not how orders
    are now.
    """
    contract = context.contract
    attributes = [c for c in feature_columns(contract) if c.name in contract.features.attributes]
    attributes = [c for c in attributes if c.name in examples.column_names]
    files = accepted_files(context.folder("validate") / ACCEPTED)
    if not attributes or not files:
        return {}
    end = min(as_of, date.fromisoformat(read_manifest(context.folder("validate"))["result"]["newest"]) + timedelta(1))
    when = identifier(contract.timestamp)
    names = ", ".join(identifier(column.name) for column in attributes)
    listed = ", ".join(literal(str(file)) for file in files)
    with (
        scratch_folder(context.processed, "train") as scratch,
        engine.connect(context.settings, scratch) as con,
        engine.errors_name("train"),
    ):
        orders = con.sql(
            f"SELECT {names}, (({literal(end)} - {when}::DATE - 1) // 7)::INTEGER AS week FROM read_parquet([{listed}])"
            f" WHERE {when} < {literal(end)} AND {when} >= {literal(end - timedelta(weeks=RECENT_WEEKS))}"
        ).to_arrow_table()
    by_week = np.cumsum(np.bincount(orders.column("week").to_numpy(), minlength=RECENT_WEEKS))
    last = int(np.searchsorted(by_week, min(RECENT_ORDERS, by_week[-1])))
    orders = orders.filter(pc.less_equal(orders.column("week"), last))
    bins = bins_of(attributes, examples)
    return {c.name: bins[c.name].count(orders.column(c.name)).tolist() for c in attributes}


def _work(
    context: StepContext, folder: Path, options: Options, divided: dict[str, Any], truth: Path | None
) -> dict[str, Any]:
    contract, settings = context.contract, context.settings
    refuse_deleted(settings)
    parts = _examples(context)
    about = _about(context, divided, parts)
    search_file = context.processed / context.run / f".search-{divided['key'][:16]}.db"

    def told(trial: Trial) -> None:
        value = "pruned" if trial.value is None else f"{trial.value:.5f}"
        logger.info("trial number=%s log_loss=%s seconds=%.1f", trial.number + 1, value, trial.seconds)

    done = develop(
        parts,
        _columns(context, about["split"]),
        contract.classes,
        segment_columns(contract),
        options,
        about,
        storage=f"sqlite:///{search_file}" if options.budget.trials else None,
        told=told,
    )
    if about["split"] == "legacy":
        done = _beside_ours(context, done, parts, about)
    if truth is not None:
        done = _beside_the_optimum(context, done, parts["test"], truth)
    strongest = done.single_features[0]
    logger.info("strongest_feature name=%s gain_alone=%.4f", strongest.name, strongest.gain)
    for verdict in done.verdicts:
        logger.info("feature name=%s kept=%s reason=%s", verdict.name, verdict.kept, verdict.reason)
    for name, loss in done.candidates.items():
        logger.info("candidate name=%s validation_log_loss=%.5f", name, loss)
    _artifacts(folder / "report", context, done)
    source = _provenance(context)
    record = TrainingRecord(
        name=context.run,
        params=_params(done, options, about),
        metrics=done.metrics,
        curves=done.curve,
        trials=done.trials,
        tags=_tags(about) | source.tags(),
        data_source=source.data_url,
        data_sha256=about["data_sha256"],
        description=model_card(source, about, divided["result"]["parts"], done.metrics, _shown(done)),
        sample=parts["train"].table.slice(0, 1000).select(list(done.model.encoder.names)).to_pandas(),
        artifacts=folder / "report",
    )
    registered = log_and_register(settings, done.model, record)
    search_file.unlink(missing_ok=True)
    (folder / "bundle").mkdir()
    for name, content in done.model.to_files().items():
        (folder / "bundle" / name).write_bytes(content)
    warehouse.record_version(
        settings,
        {
            "model_name": settings.model_name,
            "model_version": registered.version,
            "mlflow_run_id": registered.run_id,
            "data_sha256": about["data_sha256"],
            "contract_sha256": about["contract_sha256"],
            "git_commit": about["git_commit"],
            "step_run": context.run,
            "about": {**done.model.about, EXPECTED: done.expected},
        },
    )
    metrics, registry = done.metrics, Registry(settings)
    logger.info(
        "trained version=%s validation_log_loss=%.5f test_log_loss=%.5f prior=%.5f",
        registered.version,
        metrics["validation_log_loss"],
        metrics["test_log_loss"],
        metrics["test_prior_log_loss"],
    )
    shown = ("validation_log_loss", "validation_prior_log_loss", "test_log_loss", "test_prior_log_loss", "test_ece")
    return {
        "model_version": registered.version,
        "mlflow_run_id": registered.run_id,
        "mlflow_run_url": registry.run_url(registered.run_id, registered.experiment_id),
        "model_version_url": registry.version_url(registered.version),
        "winner": done.winner,
        "candidates": done.candidates,
        "chosen": {name: dict(params) for name, params in done.chosen.items()},
        "features": list(done.model.encoder.names),
        "calibration": done.model.calibration.method,
        "decision_weights": dict(zip(contract.classes, done.model.weights, strict=True)),
        **{name: metrics[name] for name in shown},
        "test_accuracy": metrics["test_accuracy"],
        "test_macro_f1": metrics["test_macro_f1"],
        "test_weighted_macro_f1": metrics["test_weighted_macro_f1"],
        **{n: metrics[n] for n in ("test_optimum_log_loss", "test_excess_percent") if n in metrics},
        **({"comparison": done.tables["comparison"]} if "comparison" in done.tables else {}),
        "bundle": {path.name: sha256_of(path) for path in sorted((folder / "bundle").iterdir())},
    }


def _beside_the_optimum(context: StepContext, done: Development, test: Examples, path: Path) -> Development:
    """Add how far the loss on the test part is above the best that is possible."""
    truth = read_truth(context.settings, context.contract, path, test.table)
    if truth is None:
        return done
    p = done.model.probabilities(test.table)
    found = against_optimum(p, test.y, truth.true, truth.optimum, test.entities, seed=context.settings.seed)
    if "optimum_log_loss" in found:
        told = (found["optimum_log_loss"], found["truth_log_loss"], found["excess_percent"])
        logger.info("optimum log_loss=%.5f truth=%.5f excess_percent=%.3f", *told)
    return replace(done, metrics={**done.metrics, **{f"test_{name}": value for name, value in found.items()}})


def _beside_ours(
    context: StepContext, done: Development, parts: dict[str, Examples], about: dict[str, Any]
) -> Development:
    """Add a comparison: the original way as it was scored, corrected, and our features on the same orders."""
    contract = context.contract
    options = replace(_options(context, 0, "temporal"), suspicious_gain=None)
    ours = develop(parts, feature_columns(contract), contract.classes, (), options, about)
    rows = compare(done.model, ours.model, {name: (part.table, part.y) for name, part in parts.items()})
    for row in rows:
        logger.info(
            "comparison test_log_loss=%.5f accuracy=%.4f way=%s", row["test_log_loss"], row["accuracy"], row["way"]
        )
    return replace(done, tables={**done.tables, "comparison": rows})


def _params(done: Development, options: Options, about: dict[str, Any]) -> dict[str, Any]:
    return {
        **done.params,
        "candidate": done.winner,
        "contenders": ",".join(options.contenders),
        "trials": options.budget.trials,
        "selection": options.selection,
        "features": ",".join(done.model.encoder.names)[:6000],
        "calibration": done.model.calibration.method,
        "decision_weights": json_text(done.model.weights),
        "split": about["split"],
    }


def _provenance(context: StepContext) -> Provenance:
    validated = read_manifest(context.folder("validate"))["result"]
    return Provenance(
        run=context.run,
        data_url=validated.get("raw", context.settings.raw),
        data_sha256=validated["data_sha256"],
        files=validated["files"],
        rows=validated["rows"],
        accepted=validated["accepted"],
        quarantined=validated["quarantined"],
        airflow_url=context.settings.origin,
        data_docs_url=validated["data_docs_url"],
    )


def _shown(done: Development) -> dict[str, str]:
    losses = (f"{name} {loss:.5f}" for name, loss in done.candidates.items())
    return {
        "candidate": f"{done.winner}; validation log loss: {', '.join(losses)}",
        "calibration": done.model.calibration.method,
        "features": ", ".join(done.model.encoder.names),
    }


def _tags(about: dict[str, Any]) -> dict[str, str]:
    pins = CODE_ROOT / "requirements.txt"
    tags = {f"apex.{k}": str(v) for k, v in about.items() if k not in ("class_shares", PROFILE) and v is not None}
    if pins.exists():
        tags["apex.pins_sha256"] = sha256_of(pins)
    return tags


def _artifacts(folder: Path, context: StepContext, done: Development) -> None:
    """Write numbers as JSON, plots as PNG, and both in one HTML page that needs nothing else."""
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
        **tables,
    }
    (folder / "evaluation.json").write_bytes(json_file(content))
    if done.curve:
        plots.learning_curve(done.curve, int(done.params.get("best_round", 0)), folder / "learning_curve.png")
    plots.confusion_matrix(tables["confusion"], classes, "most probable class", folder / "confusion_matrix.png")
    plots.confusion_matrix(
        tables["confusion_weighted"], classes, "class named with decision weights", folder / "confusion_weighted.png"
    )
    reliability = {"before": tables["reliability_before"], "after": tables["reliability_after"]}
    plots.reliability(reliability, classes, "Reliability, test part", folder / "reliability.png")
    plots.importance(tables["importance"], folder / "importance.png")
    if "contributions" in tables:
        plots.contributions(tables["contributions"], folder / "contributions.png")
    if any(v.importance is not None for v in done.verdicts):
        plots.selection(done.verdicts, folder / "selection.png")
    training_report.training_report(folder, context.run, done)
