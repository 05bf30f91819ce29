"""The statistics of one scoring of a drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.postgres.scoring_runs import ClassFigures, ScoringRun
from apex_ml.contract.time_units import EPOCH
from apex_ml.json_text import json_text
from apex_ml.services.score_batches import MAX_DAYS_AHEAD, Tally
from apex_ml.services.scorer import Scorer
from apex_ml.wording import counted


@dataclass(frozen=True)
class ScoringTimes:
    """When a drop was scored: the time of the start, and readings of the monotonic clock in seconds."""

    started_at: datetime
    start: float
    checked: float
    written: float


def run_statistics(
    scorer: Scorer, report: FileReport, tally: Tally, times: ScoringTimes, run_id: int, drop_id: int
) -> ScoringRun:
    """The statistics of a run, without alert and warning."""
    row_us = np.array([us for us, _ in tally.row_us])
    weights = np.array([n for _, n in tally.row_us], dtype=float)
    rows, mean, median = tally.confidence()
    quantiles = np.quantile(row_us, [0.5, 0.95, 0.99]) if rows else [float("nan")] * 3
    writing = times.written - times.checked - tally.features_seconds - tally.predict_seconds
    return ScoringRun(
        run_id=run_id,
        drop_id=drop_id,
        step_run=scorer.context.run,
        model_name=scorer.version.name,
        model_version=scorer.version.version,
        mlflow_run_id=scorer.version.run_id,
        feature_snapshot=scorer.snapshot_sha256,
        snapshot_as_of=scorer.as_of,
        rows_in=report.rows,
        rows_scored=tally.rows,
        rows_quarantined=report.quarantined,
        success_rate=tally.rows / report.rows if report.rows else 1.0,
        row_us_mean=float(np.average(row_us, weights=weights)) if rows else float("nan"),
        row_us_p50=float(quantiles[0]),
        row_us_p95=float(quantiles[1]),
        row_us_p99=float(quantiles[2]),
        confidence_mean=mean,
        confidence_median=median,
        profile=json_text(tally.profile.counts() | {"lag_days": _lag_days(scorer, tally)}),
        started_at=times.started_at,
        finished_at=scorer.context.settings.now(),
        ms_total=(times.written - times.start) * 1e3,
        ms_check=(times.checked - times.start) * 1e3,
        ms_features=tally.features_seconds * 1e3,
        ms_predict=tally.predict_seconds * 1e3,
        ms_write=writing * 1e3,
        contract_identity=scorer.context.contract.identity().digest(),
    )


def class_statistics(classes: Sequence[str], tally: Tally) -> dict[str, ClassFigures]:
    """Rows, mean and median confidence of each of the model's classes."""
    return {level: ClassFigures(*tally.confidence(index)) for index, level in enumerate(classes)}


def input_warning(report: FileReport, tally: Tally, scorer: Scorer) -> str | None:
    """What is odd about a drop that is scored nevertheless; None when nothing is."""
    if not report.rows:
        return "the file has no rows: nothing was scored. If it should have some, deliver it again under the same name"
    if not tally.far_ahead:
        return None
    return (
        f"{tally.far_ahead:,} of {counted(tally.rows, 'row')} are dated more than {MAX_DAYS_AHEAD} days after the"
        f" history that they were scored with, which ends before {scorer.as_of} (newest date: {tally.newest})."
        " If the dates are wrong, deliver a corrected file under the same name;"
        f" if they are right, retrain with newer data: {scorer.context.pipeline.command('retrain')}"
    )


def _lag_days(scorer: Scorer, tally: Tally) -> float | None:
    """Days from the snapshot to the rows, on average."""
    if not tally.rows:
        return None
    if not scorer.contract.has_timestamp:
        return 0.0
    return round(tally.days / tally.rows - (scorer.as_of - EPOCH).days, 3)
