"""Results of the steps. A step prints its result as a line of JSON; a step with a run folder also keeps it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, ClassVar

from apex_ml.core.recorded_evidence import RecordedEvidence
from apex_ml.services.json_record import JsonRecord, OpenRecord


@dataclass(frozen=True, kw_only=True)
class StepResult(JsonRecord):
    """The fields of every result. `skip` is the reason why there was nothing to do."""

    run: str
    step: str
    skip: str | None = None


@dataclass(frozen=True, kw_only=True)
class FolderResult(StepResult):
    """Result of a step that writes a run folder."""

    STEP: ClassVar[str]
    """Name of the step and of its folder."""

    seconds: float | None = None
    """Duration of the step, in seconds."""


@dataclass(frozen=True, kw_only=True)
class HeldBack(JsonRecord):
    """The rows of the newest day that were held back from training; of rows without dates a random part."""

    FORMER: ClassVar[Mapping[str, str]] = {"rows": "orders"}

    rows: int
    sha256: str
    day: date | None = None


@dataclass(frozen=True, kw_only=True)
class CheckedExpectations(JsonRecord):
    """Numbers of evaluated expectations, of failed ones with severity warning, and of checked rows of all rows."""

    evaluated: int
    failed: int
    rows: int
    of_rows: int


@dataclass(frozen=True, kw_only=True)
class BatchProfile(OpenRecord):
    """The :class:`~apex_ml.core.batch.Profile` of a batch. A field is None where another version did not write it."""

    rows: int | None = None
    nulls: Mapping[str, int] | None = None
    levels: Mapping[str, Mapping[str, int]] | None = None
    newest: date | None = None
    nearly_newest: date | None = None


@dataclass(frozen=True, kw_only=True)
class CheckedFile(OpenRecord):
    """The :class:`~apex_ml.adapters.duckdb.file_report.FileReport` of a file, without its query."""

    name: str | None = None
    rows: int | None = None
    accepted: int | None = None
    quarantined: int | None = None
    reasons: Mapping[str, int] | None = None
    warnings: Mapping[str, int] | None = None
    normalised: Mapping[str, int] | None = None
    filled: tuple[str, ...] | None = None
    added: tuple[str, ...] | None = None
    cast: tuple[tuple[str, str, str], ...] | None = None
    examples: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, kw_only=True)
class ValidateResult(FolderResult):
    """Counts of rows and reasons; identity, day and profile of the accepted batch. A skip has only the identity."""

    STEP: ClassVar[str] = "validate"
    data_sha256: str
    left_out: Mapping[str, str] | None = None
    raw: str | None = None
    files: int | None = None
    rows: int | None = None
    accepted: int | None = None
    quarantined: int | None = None
    superseded: int | None = None
    """Accepted rows left out because their key has a later row."""
    reasons: Mapping[str, int] | None = None
    warnings: Mapping[str, int] | None = None
    normalised: Mapping[str, int] | None = None
    batch_warnings: tuple[str, ...] | None = None
    expectations: CheckedExpectations | None = None
    data_docs: str | None = None
    data_docs_url: str | None = None
    newest: date | None = None
    as_of: date | None = None
    profile: BatchProfile | None = None
    reports: tuple[CheckedFile, ...] | None = None
    held_back: HeldBack | None = None
    redelivered: tuple[str, ...] | None = None
    links: Mapping[str, str] | None = None
    tables: tuple[Mapping[str, str | None], ...] | None = None
    """Versions of the Delta and Iceberg tables that were read: :class:`~apex_ml.core.table_version.TableVersion`."""


@dataclass(frozen=True, kw_only=True)
class EltResult(FolderResult):
    """Counts of rows, examples and entities; identity of data, features and history snapshot."""

    STEP: ClassVar[str] = "elt"

    as_of: date
    since: datetime | None = None
    """Where rows have a time of day, the first that can be scored with the snapshot; else it is the day `as_of`."""
    data_sha256: str
    features_sha256: str = ""
    snapshot_sha256: str = ""
    rows: int = 0
    repeated: int = 0
    examples: int = 0
    entities: int = 0
    raw: str | None = None


@dataclass(frozen=True, kw_only=True)
class SplitPart(JsonRecord):
    """One part of the examples: size, first and last day, examples of each class, PSI of each feature from train."""

    examples: int
    first: date
    last: date
    classes: Mapping[str, int]
    drift_from_train: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class SplitResult(FolderResult):
    """Parts of the examples. A model of a split that is not promotable never becomes champion."""

    STEP: ClassVar[str] = "split"

    strategy: str
    promotable: bool
    parts: Mapping[str, SplitPart]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class ComparedModel(OpenRecord):
    """A :class:`~apex_ml.core.model_evaluation.ComparedWay` to make a model. A score that is not finite is None."""

    way: str | None = None
    features: int | None = None
    validation_log_loss: float | None = None
    test_log_loss: float | None = None
    accuracy: float | None = None
    calibration_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainResult(FolderResult):
    """The registered version, how it was chosen and its losses, in nats, on validation and test."""

    STEP: ClassVar[str] = "train"

    model_version: int
    mlflow_run_id: str
    mlflow_run_url: str | None = None
    model_version_url: str | None = None
    winner: str
    candidates: Mapping[str, float]
    chosen: Mapping[str, Mapping[str, Any]]
    """Hyper-parameters of each candidate."""
    features: tuple[str, ...]
    calibration: str
    decision_weights: Mapping[str, float]
    validation_log_loss: float
    validation_prior_log_loss: float
    test_log_loss: float
    test_prior_log_loss: float
    test_ece: float
    test_accuracy: float
    test_macro_f1: float
    test_weighted_macro_f1: float
    test_auc: float | None = None
    """Of two classes; like the average precision."""
    test_average_precision: float | None = None
    test_mean_cost: float | None = None
    """Where the class is chosen by cost."""
    test_optimum_log_loss: float | None = None
    test_excess_percent: float | None = None
    comparison: tuple[ComparedModel, ...] | None = None
    """The original project's way beside Apex's."""
    bundle: Mapping[str, str]
    """sha256 of each file of the model."""


@dataclass(frozen=True, kw_only=True)
class ReproduceResult(StepResult):
    """Whether the second training gave the same model, byte by byte, and which files differ."""

    reproduced: bool
    differing: tuple[str, ...]
    same_code: bool
    recorded_log_loss: float
    log_loss: float


@dataclass(frozen=True, kw_only=True)
class PromoteResult(StepResult):
    """A decision of the gate with its reasons and evidence; `held` waits for the approval of a person."""

    promoted: bool
    challenger_version: int
    champion_version: int | None
    reasons: tuple[str, ...]
    evidence: RecordedEvidence
    held: bool | None = None
    decision_report_url: str | None = None
    mlflow_run_url: str | None = None
    model_version_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReconsiderSkipped(StepResult):
    """No decision: there was nothing to compare."""

    promoted: bool = False


@dataclass(frozen=True, kw_only=True)
class MoveResult(StepResult):
    """A move of the champion that a person asked for."""

    moved: bool
    from_version: int | None
    champion_version: int | None
    message: str
    """What happened, in words."""
