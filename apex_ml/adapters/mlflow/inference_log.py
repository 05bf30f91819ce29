"""Send scoring to MLflow by its REST API: one run for each batch of drops, from the outbox committed with the scores.

All figures are read from Postgres when they are sent. The MLflow run is found by a tag, so that sending a batch again,
also after a crash half way, repeats the same values in the same run.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from datetime import datetime
from math import isfinite
from typing import Any

from apex_ml.adapters.mlflow.client import MlflowClient
from apex_ml.adapters.mlflow.experiments import Kind, experiment_name, own_experiment
from apex_ml.adapters.mlflow.registry import MAX_METRICS, metric_key, parse_version
from apex_ml.adapters.postgres.outbox import ClassTotal, Outbox, OutboxRun, open_outbox
from apex_ml.errors import ApexError, ConfigError
from apex_ml.faults import reach
from apex_ml.json_text import json_file
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
BATCH_TAG = "apex.batch"
SAMPLE_ROWS = 100
RUNS_LISTED = 1000
BUCKETS = 20


def send_outbox(settings: Settings, pipeline: str) -> int:
    """Send every batch of a pipeline that MLflow does not know yet; returns how many arrived.

    MLflow is not needed for scoring: when it does not answer, that is noted in the outbox and in the log, and the next
    call tries again. When another process is sending already, nothing is done.
    """
    sent = 0
    with open_outbox(settings, pipeline) as outbox:
        if outbox is None:
            return 0
        for batch in outbox.unsent_batches():
            try:
                _send(outbox, InferenceLog(settings, pipeline), batch)
                sent += 1
            except ApexError as error:
                outbox.note_failure(batch, str(error))
                logger.warning("mlflow_not_told batch=%s reason=%s", batch, error)
                break
    return sent


def _send(outbox: Outbox, log: InferenceLog, batch: str) -> None:
    """Send one batch: all of its scoring runs, those that were sent before included."""
    runs = outbox.runs(batch)
    ids = [run.run_id for run in runs]
    run_id = log.begin(batch, _name(runs), _tags(batch, runs), min(r.started_at for r in runs))
    reach("outbox_begun")
    classes = outbox.class_totals(ids)
    log.metrics(run_id, _metrics(runs, classes))
    log.artifact(run_id, "inference_results.json", outbox.first_rows(ids, SAMPLE_ROWS))
    log.artifact(run_id, "inference_distributions.json", _distributions(outbox, ids, classes))
    reach("outbox_logged")
    log.end(run_id, max(r.finished_at for r in runs))
    outbox.mark_sent(ids, run_id)
    logger.info("mlflow_told batch=%s scoring_runs=%s mlflow_run=%s", batch, len(ids), run_id)


def _name(runs: list[OutboxRun]) -> str:
    first = str(runs[0].drop_name)
    return first if len(runs) == 1 else f"{first} +{len(runs) - 1}"


def _tags(batch: str, runs: list[OutboxRun]) -> dict[str, str]:
    first = runs[0]
    tags = {
        BATCH_TAG: batch,
        "apex.step_run": first.step_run,
        "apex.model_name": first.model_name,
        "apex.model_version": str(first.model_version),
        "apex.training_run_id": first.mlflow_run_id,
        "apex.feature_snapshot": first.feature_snapshot,
        "apex.scoring_runs": f"{runs[0].run_id}-{runs[-1].run_id}",
        "apex.airflow_run_url": first.origin,
    }
    if len(runs) == 1:
        tags |= {"apex.drop": first.drop_name, "apex.drop_sha256": first.drop_sha256}
    return {name: value for name, value in tags.items() if value}


def _metrics(runs: list[OutboxRun], classes: dict[str, ClassTotal]) -> dict[str, float]:
    """Sums over the batch; means are weighted by rows, percentiles are those of the slowest drop."""
    rows_in, samples = sum(r.rows_in for r in runs), sum(r.rows_scored for r in runs)
    total = sum(r.ms_total for r in runs)
    metrics: dict[str, float | None] = {
        "inference_samples": samples,
        "inference_total_time_ms": total,
        "inference_avg_time_ms": total / samples if samples else None,
        "inference_success_rate": samples / rows_in if rows_in else 1.0,
        "inference_drops": len(runs),
        "inference_rows_quarantined": sum(r.rows_quarantined for r in runs),
    }
    for phase in ("check", "features", "predict", "write"):
        metrics[f"inference_{phase}_time_ms"] = sum(getattr(r, f"ms_{phase}") for r in runs)
    for name in ("row_us_mean", "confidence_mean", "confidence_median"):
        known = [(getattr(r, name), r.rows_scored) for r in runs if getattr(r, name) is not None]
        weight = sum(n for _, n in known)
        metrics[f"inference_{name}"] = sum(v * n for v, n in known) / weight if weight else None
    for name in ("row_us_p50", "row_us_p95", "row_us_p99"):
        metrics[f"inference_{name}"] = max(
            (getattr(r, name) for r in runs if getattr(r, name) is not None), default=None
        )
    for level, row in classes.items():
        metrics[f"pred_count_{level}"] = row.rows
        metrics[f"pred_confidence_{level}"] = row.mean_confidence
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _distributions(outbox: Outbox, ids: list[int], classes: dict[str, ClassTotal]) -> dict[str, Any]:
    """Counts and confidence by class, a histogram of the confidence, outcomes by prediction, figures of each drop."""
    histogram = {level: [0] * BUCKETS for level in classes}
    for predicted, bucket, n in outbox.confidence_histogram(ids, BUCKETS):
        histogram.setdefault(predicted, [0] * BUCKETS)[bucket] = n
    outcomes: dict[str, dict[str, int]] = {}
    for predicted, observed, n in outbox.outcomes(ids):
        outcomes.setdefault(predicted, {})[observed] = n
    total = sum(row.rows for row in classes.values())
    return {
        "rows": total,
        "predicted": {k: {**asdict(v), "share": v.rows / total if total else None} for k, v in classes.items()},
        "confidence_edges": [i / BUCKETS for i in range(BUCKETS + 1)],
        "confidence_counts": histogram,
        "observed_by_predicted": outcomes,
        "drops": [{k: v for k, v in row.items() if k != "step_run"} for row in outbox.run_rows(ids[:RUNS_LISTED])],
    }


class InferenceLog(MlflowClient):
    """Writes runs of an experiment of a pipeline, linked to versions of the registry."""

    def __init__(self, settings: Settings, pipeline: str, kind: Kind = "score") -> None:
        super().__init__(settings)
        self._pipeline, self._kind = pipeline, kind
        self.named = experiment_name(pipeline, kind)

    def begin(self, batch: str, name: str, tags: dict[str, str], started: datetime) -> str:
        """Find the run of a batch by its tag, or make it, and link it to its model version; returns its id."""
        search = {"experiment_ids": [self._experiment()], "filter": f"tags.`{BATCH_TAG}` = '{batch}'", "max_results": 1}
        if runs := (self.get_json("POST", "runs/search", json=search) or {}).get("runs"):
            run_id: str = runs[0]["info"]["run_id"]
        else:
            content = {
                "experiment_id": self._experiment(),
                "run_name": name,
                "start_time": _ms(started),
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            }
            run_id = self._there("POST", "runs/create", f"the experiment {self.named}", json=content)["run"]["info"][
                "run_id"
            ]
        version = {"name": tags["apex.model_name"], "version": tags["apex.model_version"]}
        known = parse_version(self.get_json("GET", "model-versions/get", params=version))
        if known is not None:  # a version that was deleted meanwhile cannot be linked
            # also in a run that was found: the process that made it may have got no further
            self.get_json("POST", "runs/log-inputs", json={"run_id": run_id, "models": [{"model_id": known.model_id}]})
        return run_id

    def metrics(self, run_id: str, values: dict[str, float]) -> None:
        """Log metrics."""
        stamp = int(time.time() * 1000)
        metrics = [
            {"key": metric_key(k), "value": v, "timestamp": stamp, "step": 0} for k, v in values.items() if isfinite(v)
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            part = {"run_id": run_id, "metrics": metrics[start : start + MAX_METRICS]}
            self._there("POST", "runs/log-batch", f"the run {run_id}", json=part)

    def artifact(self, run_id: str, name: str, content: Any) -> None:
        """Store a JSON file."""
        answer = self._there("GET", "runs/get", f"the run {run_id}", params={"run_id": run_id})
        self._put(answer["run"]["info"]["artifact_uri"], name, json_file(content, default=str))

    def end(self, run_id: str, finished: datetime) -> None:
        """Mark a run as finished."""
        content = {"run_id": run_id, "status": "FINISHED", "end_time": _ms(finished)}
        self._there("POST", "runs/update", f"the run {run_id}", json=content)

    def _experiment(self) -> str:
        """Id of the experiment, made when it is missing."""
        if (existing := own_experiment(self._settings, self, self._pipeline, self._kind)) is not None:
            return existing
        answer = self._call("POST", "/api/2.0/mlflow/experiments/create", json={"name": self.named})
        if answer.status_code == 200:
            experiment_id: str = answer.json()["experiment_id"]
            return experiment_id
        if (existing := self.experiment(self.named)) is not None:  # another process was faster
            return existing
        raise ConfigError(f"MLflow refused the experiment {self.named}: {answer.status_code} {answer.text[:300]}")


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
