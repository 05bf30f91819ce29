"""Step train: fit on the training part, stop and choose on validation, evaluate on test, register a version."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters import plots, warehouse
from apex_ml.adapters.store import sha256_of
from apex_ml.adapters.tracking import TrainingRecord, log_and_register
from apex_ml.core.estimator import Encoder, Model, Trained, TrainingSettings, fit_xgboost
from apex_ml.core.evaluation import class_shares, classification, confusion, order_losses, prior_losses
from apex_ml.core.features import feature_columns
from apex_ml.core.search import search
from apex_ml.core.split import PARTS
from apex_ml.errors import DataError
from apex_ml.settings import CODE_ROOT
from apex_ml.steps.folder import StepContext, git_commit, read_manifest, run_step

logger = logging.getLogger(__name__)


def train(context: StepContext, *, trials: int) -> dict[str, Any]:
    """Train and register a model version; returns its version and log losses on validation and test.

    With `trials` the hyper-parameters are searched on validation first. The test part is never seen by the fit.
    """
    divided = read_manifest(context.folder("split"))
    settings = context.settings
    inputs = {
        "split": divided["key"],
        "trials": trials,
        "class_weights": settings.class_weights,
        "early_stopping_rounds": settings.early_stopping_rounds,
        "device": settings.device,
        "seed": settings.seed,
    }
    return run_step(context, "train", inputs, lambda folder: _work(context, folder, trials, divided))


def class_indexes(table: pa.Table, target: str, classes: tuple[str, ...]) -> np.ndarray:
    """Index of each row's class, shape (n,)."""
    codes: np.ndarray = pc.index_in(table.column(target), value_set=pa.array(classes)).to_numpy()
    return codes


def _work(context: StepContext, folder: Path, trials: int, divided: dict[str, Any]) -> dict[str, Any]:
    contract, settings = context.contract, context.settings
    made = read_manifest(context.folder("elt"))["result"]
    tables = {part: pq.read_table(context.folder("split") / f"{part}.parquet") for part in PARTS}
    y = {part: class_indexes(table, contract.target, contract.classes) for part, table in tables.items()}
    encoder = Encoder.fit(feature_columns(contract), tables["train"])
    x = {part: encoder.encode(table) for part, table in tables.items()}
    base = TrainingSettings(
        early_stopping_rounds=settings.early_stopping_rounds,
        class_weights=settings.class_weights,
        device=settings.device,
        seed=settings.seed,
        threads=settings.threads,
    )
    classes = len(contract.classes)
    chosen = base
    found: list[dict[str, Any]] = []
    if trials:
        best, found = search(
            lambda tried: fit_xgboost((x["train"], y["train"]), (x["validation"], y["validation"]), classes, tried),
            base,
            trials,
        )
        chosen = replace(base, **best)
    trained = fit_xgboost((x["train"], y["train"]), (x["validation"], y["validation"]), classes, chosen)
    parts = divided["result"]["parts"]
    commit, dirty = git_commit()
    about = {
        "run": context.run,
        "as_of": made["as_of"],
        "data_sha256": made["data_sha256"],
        "contract_sha256": contract.digest(),
        "features_sha256": made["features_sha256"],
        "split": divided["result"]["strategy"],
        "promotable": divided["result"]["promotable"],
        "train_first": parts["train"]["first"],
        "train_last": parts["train"]["last"],
        "validation_last": parts["validation"]["last"],
        "test_first": parts["test"]["first"],
        "test_last": parts["test"]["last"],
        "class_shares": class_shares(y["train"], classes).tolist(),
        "git_commit": commit,
        "dirty": dirty,
    }
    model = Model(encoder, trained.booster, contract.classes, about)
    metrics = _metrics(model, tables, y, about["class_shares"])
    _artifacts(folder / "report", model, trained, tables["test"], y["test"], found, metrics)
    tags = _tags(about, settings.origin)
    record = TrainingRecord(
        name=context.run,
        params={
            **asdict(chosen),
            "trials": trials,
            "best_round": trained.best_round,
            "split": about["split"],
            "features": ",".join(encoder.names)[:6000],
        },
        metrics=metrics,
        curves=trained.curve,
        tags=tags,
        data_source=settings.raw,
        data_sha256=made["data_sha256"],
        sample=tables["train"].slice(0, 1000).select(list(encoder.names)).to_pandas(),
        artifacts=folder / "report",
    )
    registered = log_and_register(settings, model, record)
    (folder / "bundle").mkdir()
    for name, content in model.to_files().items():
        (folder / "bundle" / name).write_bytes(content)
    warehouse.record_version(
        settings,
        {
            "model_name": settings.model_name,
            "model_version": registered.version,
            "mlflow_run_id": registered.run_id,
            "data_sha256": made["data_sha256"],
            "contract_sha256": contract.digest(),
            "git_commit": commit,
            "step_run": context.run,
            "about": about,
        },
    )
    logger.info(
        "trained version=%s validation_log_loss=%.5f test_log_loss=%.5f prior=%.5f",
        registered.version,
        metrics["validation_log_loss"],
        metrics["test_log_loss"],
        metrics["test_prior_log_loss"],
    )
    return {
        "model_version": registered.version,
        "mlflow_run_id": registered.run_id,
        "mlflow_run_url": f"{settings.tracking_uri}/#/experiments/{registered.experiment_id}/runs/{registered.run_id}",
        "best_round": trained.best_round,
        "validation_log_loss": metrics["validation_log_loss"],
        "validation_prior_log_loss": metrics["validation_prior_log_loss"],
        "test_log_loss": metrics["test_log_loss"],
        "test_prior_log_loss": metrics["test_prior_log_loss"],
        "test_accuracy": metrics["test_accuracy"],
        "test_macro_f1": metrics["test_macro_f1"],
        "booster_sha256": sha256_of(folder / "bundle" / "booster.ubj"),
    }


def _tags(about: dict[str, Any], origin: str) -> dict[str, str]:
    pins = CODE_ROOT / "requirements.txt"
    tags = {f"apex.{k}": str(v) for k, v in about.items() if k != "class_shares" and v is not None}
    if pins.exists():
        tags["apex.pins_sha256"] = sha256_of(pins)
    if origin:
        tags["apex.airflow_run_url"] = origin
    return tags


def _metrics(
    model: Model, tables: dict[str, pa.Table], y: dict[str, np.ndarray], shares: list[float]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for part in PARTS:
        p = model.probabilities(tables[part])
        if not np.isfinite(p).all():
            raise DataError(f"train: the model gives probabilities that are not numbers on the {part} part")
        scores = (
            classification(p, y[part], model.classes)
            if part == "test"
            else {"log_loss": float(order_losses(p, y[part]).mean())}
        )
        metrics |= {f"{part}_{name}": value for name, value in scores.items()}
        metrics[f"{part}_prior_log_loss"] = float(prior_losses(np.asarray(shares), y[part]).mean())
    return metrics


def _artifacts(
    folder: Path,
    model: Model,
    trained: Trained,
    test: pa.Table,
    y: np.ndarray,
    found: list[dict[str, Any]],
    metrics: dict[str, float],
) -> None:
    folder.mkdir()
    p = model.probabilities(test)
    matrix = confusion(p, y, model.classes)
    content = {
        "metrics": metrics,
        "confusion_matrix": {"classes": model.classes, "true_by_predicted": matrix},
        "trials": found,
    }
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1))
    plots.learning_curve(trained.curve, trained.best_round, folder / "learning_curve.png")
    plots.confusion_matrix(matrix, model.classes, folder / "confusion_matrix.png")
    plots.importance(model, folder / "feature_importance.png")
