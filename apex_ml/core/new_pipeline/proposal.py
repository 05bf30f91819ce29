"""A whole new pipeline from a profile and choices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from apex_ml.core.new_pipeline.choices import Choices, entity_note, timestamp_note
from apex_ml.core.new_pipeline.columns import (
    MAX_LEVELS,
    ColumnPlan,
    LeftOut,
    plan_column,
    plan_entity,
    plan_key,
    plan_source,
    plan_target,
    plan_timestamp,
    with_note,
)
from apex_ml.core.new_pipeline.history import propose_history, rows_an_entity
from apex_ml.core.new_pipeline.times import has_times_of_day
from apex_ml.core.table_profile.epochs import epoch_note
from apex_ml.core.table_profile.findings import LEAK_GAIN, is_named_as_identifier, odd_note
from apex_ml.core.table_profile.values import TableProfile
from apex_ml.wording import counted

USUAL_QUARANTINE = 0.01
MAX_QUARANTINE = 0.9
REPEATS = 0.002
"""Share of repeated rows up to which they are errors."""
FAR_SHARE = 0.01
"""Share of rows that may be dated far before, or far after, the others."""
STRONG_VALUES = 0.05
"""Gain from which it is said that a frequency leaves out what the values of a text say."""
ROOM = 0.1
"""Gain that a feature may have more in training than in a profile."""
A_YEAR = 300
"""Days of data from which the month can be a feature."""


@dataclass(frozen=True)
class Proposal:
    """The parts of the new contract, and what a person should know of them."""

    columns: tuple[ColumnPlan, ...]
    left_out: tuple[LeftOut, ...]
    rules: list[dict[str, Any]]
    quarantine: dict[str, float]
    batch: list[dict[str, Any]]
    features: dict[str, Any]
    grain_reason: str
    suspicious_gain: float
    strong: str
    """The feature for which the limit of a suspicious gain is raised; empty when it is not."""
    repeated_keys: str | None
    """Which of several rows of a key counts; None where that is left to the default."""
    warnings: tuple[str, ...]

    def features_named(self) -> list[str]:
        """Names of the attributes that are features."""
        return [column.name for column in self.columns if column.is_feature]


def make_proposal(profile: TableProfile, choices: Choices, excluded: Mapping[str, str] | None = None) -> Proposal:
    """The new contract. `excluded` are columns that the contract cannot have, with the reasons."""
    excluded = excluded or {}
    columns: list[ColumnPlan] = []
    left_out: list[LeftOut] = []
    sources = profile.column(choices.timestamp).sources if choices.timestamp else ()
    for column in profile.columns:
        if column.derive is not None and column.name != choices.timestamp:
            continue  # no column of the data
        if column.name in excluded:
            left_out.append(LeftOut(column.name, excluded[column.name]))
            continue
        if column.name == choices.target:
            planned: ColumnPlan | LeftOut = plan_target(column)
        elif column.name == choices.entity:
            planned = with_note(plan_entity(column), entity_note(profile, choices))
        elif column.name == choices.timestamp:
            planned = with_note(plan_timestamp(column), timestamp_note(profile, choices))
        elif column.name in choices.key:
            planned = plan_key(column)
        elif column.name in sources and column.name not in choices.measures:
            planned = plan_source(column)
        else:
            role = "measure" if column.name in choices.measures else "attribute"
            planned = plan_column(column, role, is_identifier=column.name in profile.identifiers)  # type: ignore[arg-type]
            planned = _with_strong_values(planned, profile)
        (columns if isinstance(planned, ColumnPlan) else left_out).append(planned)  # type: ignore[arg-type]
    features, reason = _features(profile, choices, columns)
    return Proposal(
        tuple(columns),
        tuple(left_out),
        list(_rules(profile, choices)),
        {"train": _quarantine_limit(profile, choices, {c.name for c in columns}), "score": 0.5},
        list(_batch(choices)),
        features,
        reason,
        *_suspicious_gain(profile, columns),
        "latest" if choices.key and tuple(choices.key) not in profile.keys else None,
        (*_of_csv(profile, columns), *_missing_time(profile, choices), *_warnings(profile, columns)),
    )


def _with_strong_values(planned: ColumnPlan | LeftOut, profile: TableProfile) -> ColumnPlan | LeftOut:
    """A plan with a note where a frequency leaves out what the values say of the target."""
    if isinstance(planned, LeftOut) or planned.body.get("encoding") != "frequency" or profile.target is None:
        return planned
    gain = max((a.gain for a in profile.target.associations if a.name == planned.name), default=0.0)
    return with_note(planned, _strong_values(gain)) if gain >= STRONG_VALUES else planned


def _rules(profile: TableProfile, choices: Choices) -> Iterator[dict[str, Any]]:
    by_use = {"train": "error", "score": "warning"}
    if choices.timestamp:
        yield {
            "name": "not_after_as_of",
            "description": "A row used for training is of a day before the one that the run looks from.",
            "rule": "before_as_of",
            "columns": [choices.timestamp],
            "severity": by_use,
        }
    rare = profile.repeated_rows <= REPEATS * profile.rows
    yield {
        "name": "unique_row",
        "description": "A full row occurs once in a file. In a drop two can be equal, as their outcome is not known.",
        "rule": "unique",
        "columns": "all",
        "severity": by_use if rare else "warning",
    }


def _quarantine_limit(profile: TableProfile, choices: Choices, used: Collection[str]) -> float:
    """The share of rows that may be bad in training: 1 % more than what is known to be."""
    known = profile.column(choices.target).absent_share
    for role in (choices.entity, choices.timestamp, *choices.key):
        known += profile.column(role).absent_share if role else 0.0
    for column in profile.columns:
        odd = column.numbers.not_finite if column.numbers else column.times.not_finite if column.times else 0
        odd += column.unread
        known += odd / profile.rows if column.name in used else 0.0
    times = profile.column(choices.timestamp).times if choices.timestamp else None
    if times is not None:  # beyond the quantiles at either end there is one row in a hundred
        known += FAR_SHARE * (times.far_first + times.far_last)
    known += profile.repeated_rows / profile.rows if profile.repeated_rows <= REPEATS * profile.rows else 0.0
    return min(MAX_QUARANTINE, ceil(100 * known) / 100 + USUAL_QUARANTINE)


def _batch(choices: Choices) -> Iterator[dict[str, Any]]:
    yield {"rule": "row_count", "low": 0.5, "high": 2.0, "severity": "error"}
    yield {"rule": "null_rate", "max_rise": 0.05, "severity": "error"}
    yield {"rule": "category_share", "max_change": 0.1, "severity": "error"}
    if choices.timestamp:
        yield {"rule": "future_date_outlier", "max_days": 31, "severity": "error"}


def _features(profile: TableProfile, choices: Choices, columns: list[ColumnPlan]) -> tuple[dict[str, Any], str]:
    """Grain, attributes, calendar and history, and the reason for the grain."""
    features: dict[str, Any] = {"grain": "every_row"}
    reason = "every row is an example"
    history = propose_history(profile, choices, columns)
    if choices.entity and choices.timestamp:
        if not history:
            features["grain"] = "last_row_per_entity"
        reason = f"{rows_an_entity(profile, choices):.1f} rows for each value of {choices.entity}: " + (
            "each row is an example" if history else "the last row of each is an example"
        )
    if history:
        features |= {"history_lag_hours": 24} if _has_instants(profile, choices) else {"history_lag_days": 1}
    features["attributes"] = [column.name for column in columns if column.is_feature]
    if choices.timestamp:
        times = profile.column(choices.timestamp).times
        is_long = times is not None and (times.last - times.first).days >= A_YEAR
        hour = ["hour"] if _has_instants(profile, choices) else []
        features["calendar"] = ["day_of_week", "day_of_month", *(["month"] if is_long else []), *hour]
    if history:
        features["history"] = history
    return features, reason


def _has_instants(profile: TableProfile, choices: Choices) -> bool:
    return choices.timestamp is not None and has_times_of_day(profile.column(choices.timestamp))


def lag_note(features: Mapping[str, Any]) -> str:
    """Why a lag of the history is proposed, and when another one is right; empty without a lag."""
    if "history_lag_hours" in features:
        return (
            "a row counts for those that come a day after it and later: the data does not say when its outcome is"
            " known, and a drop is scored with the history of last night. Where outcomes are known after some hours,"
            " and schedule.retrain runs as often, write fewer hours"
        )
    if "history_lag_days" in features:
        return (
            "a row counts from the second day after it on: its outcome may not be known on the first, and a drop is"
            " scored with the history of last night"
        )
    return ""


def _suspicious_gain(profile: TableProfile, columns: list[ColumnPlan]) -> tuple[float, str]:
    """The limit from which training takes a feature for a leak, and the feature that it leaves room for.

    Training measures gains again, on later rows and with finer ranges: one just below the limit may be above it there.
    """
    named = {column.name for column in columns if column.is_feature}
    gains = [(a.gain, a.name) for a in profile.target.associations if a.name in named] if profile.target else []
    gain, name = max((pair for pair in gains if pair[0] < LEAK_GAIN), default=(0.0, ""))
    if gain < LEAK_GAIN - ROOM:
        return LEAK_GAIN, ""
    return LEAK_GAIN + ROOM, name


def _strong_values(gain: float) -> str:
    """What a frequency leaves out of a column whose values say much, and the alternative."""
    return (
        f"its values alone remove {gain:.0%} of the log loss of the class shares, and the model sees only how frequent"
        " they are. If they come again in new rows, remove encoding: frequency, so that they are learned as levels"
    )


def _missing_time(profile: TableProfile, choices: Choices) -> Iterator[str]:
    """Columns that may be the time of a row, where no column is."""
    for column in profile.columns if choices.timestamp is None else ():
        if (note := epoch_note(column)) is not None and column.name != choices.target:
            yield f"{column.name} {note}"


def _of_csv(profile: TableProfile, columns: list[ColumnPlan]) -> Iterator[str]:
    """What the guess of the format leaves aside: lines in another encoding, and texts among numbers."""
    source = profile.source
    for rule, lines in source.bad_lines.items() if source.csv else ():
        if rule.startswith("encoding:") and source.csv is not None:
            yield (
                f"the files are read as {source.csv.encoding}, and {counted(lines, 'line')} cannot be: such lines are"
                " quarantined. Correct them, or encoding under files"
            )
    yield from source.csv_notes
    planned = {column.name: column for column in columns}
    for own in profile.columns:
        column = planned.get(own.name)  # one that is left out may be so for these texts
        is_number = column is not None and column.body["type"] in ("int64", "double", "decimal")
        may_be_one = column is None or column.role in ("attribute", "measure")
        may_be_one &= own.kind == "text" and own.distinct > MAX_LEVELS and not is_named_as_identifier(own.name)
        if (is_number or may_be_one) and (note := odd_note(own, source.csv)) is not None:
            yield f"{own.name}: {note}"


def _warnings(profile: TableProfile, columns: list[ColumnPlan]) -> Iterator[str]:
    gains = {a.name: a.gain for a in profile.target.associations} if profile.target else {}
    for column in columns:
        if column.body.get("encoding") == "frequency" and gains.get(column.name, 0.0) >= STRONG_VALUES:
            yield f"{column.name}: {_strong_values(gains[column.name])}"
        if column.is_feature and gains.get(column.name, 0.0) >= LEAK_GAIN:
            yield (
                f"{column.name} alone removes {gains[column.name]:.0%} of the log loss of the class shares. If it is"
                " known only after the target, make it a measure; if not, raise features.suspicious_gain, or training"
                " is refused"
            )
    for target in (profile.column(column.name) for column in columns if column.role == "target"):
        if target.text is not None and target.text.folded < target.distinct:
            yield (
                f"values of {target.name} that differ by case only are one class: {target.distinct} values,"
                f" {target.text.folded} classes. To keep them apart take upper out of its normalise, and list them all"
            )
    if not any(column.is_feature for column in columns):
        yield "no attribute is a feature: the model has only the date and the history to learn from"
