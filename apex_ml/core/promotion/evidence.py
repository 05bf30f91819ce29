"""The evidence of a decision of the gate: typed parts, and their JSON with one flat level of keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from apex_ml.core.recorded_evidence import under_both_names


@dataclass(frozen=True)
class EvidencePart:
    """Measurements whose names are the keys of the JSON; those of a nested part stand at the same level.

    A field that has its default was not measured, and has no key.
    """

    def entries(self) -> dict[str, Any]:
        """The JSON-able measurements by key, in the order of the fields."""
        plain = asdict(self)
        entries: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, EvidencePart):
                entries |= value.entries()
            elif value != field.default:
                entries[field.name] = plain[field.name]
        return entries


@dataclass(frozen=True)
class SeenRows(EvidencePart):
    """Number of rows that were dropped because a model had seen them, and how many each model had seen."""

    seen_rows_dropped: int
    seen_by_challenger: int
    seen_by_champion: int


@dataclass(frozen=True)
class PriorEvidence(EvidencePart):
    """Log losses of the class prior and of the challenger, and the challenger's gain with its lower bound."""

    prior_log_loss: float
    challenger_log_loss: float
    gain_over_prior: float
    gain_over_prior_low: float


@dataclass(frozen=True)
class CalibrationEvidence(EvidencePart):
    """The challenger's calibration error; where it exceeds the policy's, also the part that may be chance."""

    challenger_ece: float
    calibration_noise: float | None = None


@dataclass(frozen=True)
class ClassShare:
    """A class's share of the rows, and its mean probability."""

    share: float
    mean_probability: float


@dataclass(frozen=True, kw_only=True)
class AbsoluteEvidence(EvidencePart):
    """What was measured of the challenger alone; the floor and the optimum where there is one."""

    prior: PriorEvidence
    floor_log_loss: float | None = None
    excess_over_optimum: float | None = None
    calibration: CalibrationEvidence
    classes: Mapping[str, ClassShare]


@dataclass(frozen=True)
class Recall:
    """The recall of one class by each model."""

    challenger: float
    champion: float


@dataclass(frozen=True)
class MeanCost:
    """The mean cost of a row with each model, by the costs of the challenger."""

    challenger: float
    champion: float


@dataclass(frozen=True)
class SegmentGain:
    """The gain over the champion on one segment, with its interval; `level` is the level of the attribute."""

    segment: str
    level: str
    rows: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class ComparisonEvidence(EvidencePart):
    """The paired losses of challenger and champion. `level` and `method` are those of the lower bound `gain_low`.

    `stale` is set when the challenger is accepted because of the champion's age. `new_classes` are those that only the
    challenger knows: then the losses are over the rows of the other classes. `mean_cost` is None where the class is not
    chosen by cost.
    """

    champion_log_loss: float
    gain: float
    gain_low: float
    gain_error: float
    level: float
    method: Literal["bootstrap", "normal"]
    recall: Mapping[str, Recall]
    segments: tuple[SegmentGain, ...]
    champion_behind_prior: bool
    stale: bool = False
    new_classes: tuple[str, ...] = ()
    mean_cost: MeanCost | None = None


@dataclass(frozen=True)
class ComparedVersions(EvidencePart):
    """The versions of the two models; without a champion its version is null."""

    champion_version: int | None
    challenger_version: int


@dataclass(frozen=True)
class Evidence(EvidencePart):
    """Everything that the gate measured. A part is None where the gate did not get that far.

    `champion_fault` says why the champion's probabilities could not be compared.
    """

    seen_rows: SeenRows
    holdout_rows: int
    margin: float
    looks: int
    mode: Literal["sequential", "single"]
    absolute: AbsoluteEvidence | None = None
    champion_fault: str | None = None
    comparison: ComparisonEvidence | None = None
    versions: ComparedVersions | None = None

    def not_finite(self) -> tuple[str, ...]:
        """The keys whose value is or contains a number that is not finite."""
        return tuple(name for name, value in self.entries().items() if not _is_finite(value))

    def as_dict(self) -> dict[str, Any]:
        """The evidence as JSON-able values, without those that are not finite; renamed keys are under both names."""
        return under_both_names({name: value for name, value in self.entries().items() if _is_finite(value)})


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
