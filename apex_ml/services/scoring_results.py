"""Results of the steps that score, watch and follow up drops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from apex_ml.services.json_record import JsonRecord
from apex_ml.services.results import StepResult


@dataclass(frozen=True, kw_only=True)
class BadDrop(JsonRecord):
    """A drop that cannot be scored, and why; `label` names its mapped task."""

    drop: str
    reason: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class DropChunk(JsonRecord):
    """Drops of one mapped task."""

    label: str
    drops: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ListDropsResult(JsonRecord):
    """The waiting drops in chunks; `note` says why there are none although drops are bad."""

    step: str
    waiting: int
    chunks: tuple[DropChunk, ...]
    bad: tuple[BadDrop, ...]
    unfinished: tuple[str, ...]
    folders: tuple[str, ...] = ()
    """Folders in the inbox, which are no drops."""
    skip: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoredDrop(JsonRecord):
    """A scoring run that was committed.

    `alert` names the values that the model does not know, `warning` what is odd about the rows or their dates.
    """

    run_id: int
    rows_in: int
    rows_scored: int
    rows_quarantined: int
    confidence_mean: float
    ms_total: float
    reasons: Mapping[str, int]
    warnings: Mapping[str, int]
    alert: str | None = None
    warning: str | None = None


@dataclass(frozen=True, kw_only=True)
class DropOutcome(JsonRecord):
    """What a call did with one drop.

    `state` is scored, already, gone, changed, unfinished, failed, unreadable or fault.
    """

    drop: str
    state: str
    reason: str | None = None
    sha256: str | None = None
    scored_as: str | None = None
    scored: ScoredDrop | None = None

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON, with the fields of the scoring run beside the name."""
        content = super().to_json()
        scored: dict[str, Any] = content.pop("scored", {})
        return content | scored


@dataclass(frozen=True, kw_only=True)
class MoreDrops(JsonRecord):
    """The number of further drops in a shortened list."""

    more: int


@dataclass(frozen=True, kw_only=True)
class ScoreResult(StepResult):
    """Counts of the drops of a call, and the first of them."""

    model_version: int | None
    drops: tuple[DropOutcome | MoreDrops, ...]
    scored: int
    already: int | None = None
    failed: int | None = None
    with_alert: int | None = None
    rows_scored: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreReport(StepResult):
    """Drops that a run scored, its bad drops, and the channels that took alerts about them."""

    scored: int
    bad: tuple[BadDrop, ...]
    sent: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ShadowResult(StepResult):
    """Drops that challengers scored; `later` are those whose file is about to be moved."""

    shadowed: int = 0
    rows_scored: int = 0
    later: int = 0


@dataclass(frozen=True, kw_only=True)
class Coverage(JsonRecord):
    """Scored rows of an age, and how many of them have an outcome."""

    scored: int
    with_outcome: int
    share: float


@dataclass(frozen=True, kw_only=True)
class OutcomesResult(StepResult):
    """Scored rows by kind of outcome in the raw rows, and the coverage by age."""

    raw_run: str | None = None
    matched: int | None = None
    already_known: int | None = None
    ambiguous: int | None = None
    contradicted: int | None = None
    as_of: date | None = None
    coverage: Mapping[str, Coverage] | None = None
    warning: str | None = None
    """Why many scores have no outcome."""


@dataclass(frozen=True, kw_only=True)
class RetrainRequest(JsonRecord):
    """A retraining to trigger: the id of its DAG run, the same at every call, and the reason."""

    trigger_run_id: str
    note: str


@dataclass(frozen=True, kw_only=True)
class MonitorResult(StepResult):
    """How many runs, days and weeks were tested, the alerts that were raised and resolved, and what to retrain."""

    runs_tested: int
    days_tested: int
    online_days_tested: int
    raw_weeks_tested: int
    weeks_evaluated: int
    alerts_raised: tuple[str, ...]
    alerts_resolved: tuple[str, ...]
    sent: tuple[str, ...]
    retrain: tuple[RetrainRequest, ...]
