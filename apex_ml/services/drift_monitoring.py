"""Drift of scored rows: scoring runs, days of scoring and days of online answers, each compared with its reference."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apex_ml.adapters.postgres.drift import DriftLedger, DriftSubject, Verdict
from apex_ml.adapters.postgres.scoring_profiles import ProfileStore, Run
from apex_ml.contract.model import Contract
from apex_ml.contract.options import Monitoring
from apex_ml.core.drift import Compared, detect_drift
from apex_ml.core.features import kind_of
from apex_ml.core.profile import ModelProfile
from apex_ml.core.version_reference import VersionReference
from apex_ml.services.run_folder import StepContext

logger = logging.getLogger(__name__)
PREDICTION, CONFIDENCE, QUARANTINE = "predicted class", "confidence", "quarantined rows"
MIN_EFFECT = {
    "attribute": 0.03,
    "history": 0.1,
    "prediction": 0.05,
    "confidence": 0.05,
    "quarantine": 0.05,
    "target": 0.1,
    "measure": 0.1,
}
"""Cohen's w from which a change of each kind matters. History grows by itself, and raw weeks change with the season."""
WINDOW_RUNS, WINDOW_ROWS, WINDOW_LAG_DAYS = 7, 20_000, 3.0
"""The healthy window: the newest earlier runs whose rows were about as far from the snapshot, until there are
WINDOW_RUNS runs and WINDOW_ROWS rows. It is short because history grows: with a window of a month, the growth of a
month would count as drift."""
WINDOW_DAYS, MIN_WINDOW_ROWS = 13, 5_000
"""Runs more than WINDOW_DAYS days older are left out when the newer ones have MIN_WINDOW_ROWS rows. Otherwise
the window of weekly drops would go back seven weeks, and after a lasting change history would drift for half a year."""
MAX_RUNS = 400
NEWEST_ROWS = "the newest rows before the champion's training"


@dataclass(frozen=True)
class Batch:
    """Counts of one or several runs: of features by bin, of predictions, of confidence, and of quarantined rows."""

    features: dict[str, np.ndarray]
    predicted: np.ndarray
    confidence: np.ndarray
    quarantine: np.ndarray
    rows: int


def batch_of(runs: Sequence[Run]) -> Batch | None:
    """The sum of runs over the same bins; None without any."""
    if not runs:
        return None
    profiles = [run.profile for run in runs]
    return Batch(
        features={name: _sum(p["features"][name] for p in profiles) for name in profiles[0]["features"]},
        predicted=_sum(p["predicted"] for p in profiles),
        confidence=_sum(p["confidence"] for p in profiles),
        quarantine=np.array([sum(r.rows_scored for r in runs), sum(r.rows_quarantined for r in runs)]),
        rows=sum(r.rows_scored for r in runs),
    )


def _sum(counts: Iterable[list[int]]) -> np.ndarray:
    total: np.ndarray = np.sum([np.asarray(c, np.int64) for c in counts], axis=0)
    return total


def _lag(run: Run) -> float:
    return float(run.profile.get("lag_days") or 0.0)


Comparisons = dict[str, tuple[Compared, str, str | None]]
"""By feature: the comparison, the kind of the feature, and the name of the reference."""


def compared(contract: Contract, batch: Batch, model: ModelProfile, window: Batch | None) -> Comparisons:
    """Compare each feature of a batch with its reference.

    Attributes are compared with the examples that the model was fitted on, which are each entity's last row, of any
    age. An attribute that differs is also compared with the newest rows before the training: a change that these
    rows show happened before the training, and is not drift. History, which grows, and everything that depends on it
    is compared with the window: earlier healthy runs of the model, as far from their snapshot. Calendar features depend
    on the date alone: they are counted, never tested.
    """
    fitted = {name: np.asarray(counts) for name, counts in (model.features or {}).items()}
    newest = {name: np.asarray(counts) for name, counts in (model.recent or {}).items()}
    training, recent = "the champion's training examples", "healthy runs before"
    none = f"no healthy run of this model within {WINDOW_LAG_DAYS:g} days of its lag yet"
    comparisons: Comparisons = {}

    def beside(name: str, kind: str, observed: np.ndarray, expected: np.ndarray | None, reference: str) -> None:
        note = "" if expected is not None else none
        shown = reference if expected is not None else None
        settled = newest.get(name) if kind == "attribute" else None
        comparisons[name] = Compared(observed, expected, MIN_EFFECT[kind], note, settled), kind, shown

    for name, observed in batch.features.items():
        kind: str = kind_of(contract, name)
        if kind == "attribute":
            beside(name, kind, observed, fitted.get(name), training)
        elif kind == "history":
            beside(name, kind, observed, None if window is None else window.features.get(name), recent)
        else:
            comparisons[name] = Compared(observed, None, 0.0, "follows from the date: not tested"), kind, None
    moves = any(kind_of(contract, name) != "attribute" for name in batch.features)
    for name, kind, key in ((PREDICTION, "prediction", "predicted"), (CONFIDENCE, "confidence", "confidence")):
        observed = getattr(batch, key)
        before = None if window is None else getattr(window, key)
        validation = getattr(model, key)
        if before is None and not moves and validation is not None:
            beside(name, kind, observed, np.asarray(validation), "the champion's validation examples")
        else:
            beside(name, kind, observed, before, recent)
    beside(QUARANTINE, "quarantine", batch.quarantine, None if window is None else window.quarantine, recent)
    return comparisons


def healthy_window(run: Run, before: Sequence[Run]) -> Batch | None:
    """The healthy window of a run among earlier ones, newest first."""
    near = [r for r in before if not r.drifted and r.rows_scored and abs(_lag(r) - _lag(run)) <= WINDOW_LAG_DAYS]
    rows = 0
    for number, candidate in enumerate(near):
        is_full = number >= WINDOW_RUNS and rows >= WINDOW_ROWS
        is_old = (run.day - candidate.day).days > WINDOW_DAYS and rows >= MIN_WINDOW_ROWS
        if is_full or is_old:
            return batch_of(near[:number])
        rows += candidate.rows_scored
    return batch_of(near)


def drift_verdicts(limits: Monitoring, compared_features: Comparisons) -> list[Verdict]:
    """Test each comparison for drift; returns verdict, kind of the feature and name of the reference."""
    comparisons = {name: comparison for name, (comparison, _, _) in compared_features.items()}
    verdicts = detect_drift(comparisons, alpha=limits.drift_alpha, min_rows=limits.drift_min_rows)
    for verdict in verdicts:
        if verdict.drifted:
            logger.warning("drift feature=%s psi=%.4f effect=%.4f", verdict.feature, verdict.psi, verdict.effect)
    named = {name: (kind, reference) for name, (_, kind, reference) in compared_features.items()}
    return [(v, named[v.feature][0], NEWEST_ROWS if v.settled else named[v.feature][1]) for v in verdicts]


@dataclass(frozen=True)
class DriftCheck:
    """The ledgers of one transaction, and what the versions are compared with, for all checks of scored rows."""

    context: StepContext
    profiles: ProfileStore
    ledger: DriftLedger
    references: Mapping[int, VersionReference]
    """By version."""

    def check(self, subject: DriftSubject, runs: list[Run], before: Sequence[Run]) -> None:
        """Compare the sum of some runs of one version and one day with earlier runs."""
        batch, first = batch_of(runs), runs[0]
        assert batch is not None
        model = self.references.get(first.version, VersionReference())
        comparisons = compared(self.context.contract, batch, model.profile, healthy_window(first, before))
        self.ledger.write(subject, drift_verdicts(self.context.pipeline.options.monitoring, comparisons))

    def runs_before(self, run: Run) -> list[Run]:
        """The scoring runs of the same version before a run."""
        return self.profiles.runs_before(run.run_id, run.version, MAX_RUNS)


def check_drift_of_runs(drift: DriftCheck) -> int:
    """Test every scoring run with enough rows that has no verdict yet; returns how many."""
    runs = drift.profiles.unchecked_runs(drift.context.pipeline.options.monitoring.drift_min_rows)
    for run in runs:
        subject = DriftSubject("drop", str(run.run_id), run.day, run.version)
        drift.check(subject, [run], drift.runs_before(run))
    return len(runs)


def check_drift_of_days(drift: DriftCheck) -> int:
    """Test every day of scoring and version whose current runs have no verdict yet; returns how many."""
    days = drift.profiles.unchecked_days()
    for day, version in days:
        subject = DriftSubject("day", f"{day} v{version}", day, version)
        if runs := drift.profiles.runs_of_day(day, version):
            drift.check(subject, runs, drift.runs_before(runs[0]))
        else:
            drift.ledger.delete("day", [subject.subject])
    return len(days)


def check_drift_of_online_days(drift: DriftCheck) -> int:
    """Test the recorded answers of the online service by day and version, against healthy days of such answers."""
    days = drift.profiles.unchecked_online_days()
    for run in days:
        subject = DriftSubject("online", f"{run.day} v{run.version}", run.day, run.version)
        drift.check(subject, [run], drift.profiles.online_days_before(run, MAX_RUNS))
    return len(days)
