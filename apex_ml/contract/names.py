"""Names that the product makes of a contract's own.

Imports nothing of the contract's model, which asks here whether its names meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apex_ml.contract.encoded_names import class_labels, encoded, probability_columns
from apex_ml.contract.roles import STORED_ROLES

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract

MAX_IDENTIFIER = 63
"""Bytes of an identifier in Postgres, which cuts a longer one without a word."""

ROW_NR = "row_nr"
"""Position of a row in its file, from 0."""
IN_DOUBT = "in doubt"
"""Column of the row checks that is true for a row that needs a closer look."""

EARLIER_ROWS = "history_orders"
LAST_DATE = "history_last_date"
LAST_TARGET = "history_last_target"
DAYS = "history_days"
DAYS_SQUARED = "history_days_squared"
SINCE_LAST = "history_days_since_last"
POSITION = "history_position"
"""Names an accepted row: an integer that no other row has."""
ROW_IDENTITY = "row_identity"
"""Column of the examples of a contract without entity: the hash by which a row is known in every run."""
ROW_DAY = "row_day"
"""Column of the examples of a contract without timestamp: the day before the run's point in time."""
WINDOW_DAYS = "history_window_days"
"""Column of the snapshot: the days of the rows that a window of a later row may hold."""
SINCE = "history_since"
"""Column of the snapshot of a history with a lag: the first day of the rows that have a state."""
KEY = "history_key"
"""Number of the values by which rows share a history, of another key than the entity."""
TIME = "history_time"
PLACE = "history_place"


_OF_STATE = (EARLIER_ROWS, LAST_DATE, LAST_TARGET, DAYS, DAYS_SQUARED, SINCE_LAST)
_OF_HISTORY = (*_OF_STATE, WINDOW_DAYS, SINCE, POSITION, KEY, TIME, PLACE)


def count_name(label: str) -> str:
    """State column: earlier rows of the class with this label."""
    return f"history_count_{label}"


def sum_name(measure: str) -> str:
    """State column: sum of a measure over earlier rows, in its smallest unit."""
    return f"history_sum_{measure}"


def known_name(measure: str) -> str:
    """State column: earlier rows with a value of the measure."""
    return f"history_known_{measure}"


def exact_name(measure: str) -> str:
    """Column of a measure in its smallest unit."""
    return f"history_exact_{measure}"


def days_name(label: str) -> str:
    """State column: sum of the days of earlier rows of the class with this label."""
    return f"history_days_of_{label}"


def distinct_name(attribute: str) -> str:
    """State column and feature: number of distinct values of an attribute in earlier rows."""
    return f"history_distinct_{attribute}"


def extreme_name(side: str, measure: str) -> str:
    """State column and feature: the smallest (min) or the largest (max) value of a measure in earlier rows."""
    return f"history_{side}_{measure}"


def latest_name(measure: str) -> str:
    """State column: value of a measure in the latest earlier row that has one."""
    return f"history_latest_{measure}"


def snapshot_by(snapshot: Path, by: Sequence[str]) -> Path:
    """The file beside a snapshot that holds the history by other columns; without any the snapshot itself."""
    return snapshot.with_stem(f"{snapshot.stem}-by-{'+'.join(map(encoded, by))}") if by else snapshot


def state_name(name: str, window: int | None, by: Sequence[str]) -> str:
    """State column: the same over the last days alone, or over the rows with the same values of other columns."""
    days = "" if window is None else f"_{window}d"
    return f"{name}{days}_by_{'_'.join(by)}" if by else f"{name}{days}"


def scoped_name(name: str, window: int | None, by: Sequence[str]) -> str:
    """Feature: the same over the last days alone, or over the rows with the same values of other columns."""
    days = "" if window is None else f"_{window}d"
    return f"{'_'.join(by)}_{name.removeprefix('history_')}{days}" if by else f"{name}{days}"


def last_name(target: str) -> str:
    """Feature: the target of the latest earlier row."""
    return f"history_last_{target}"


def share_name(label: str) -> str:
    """Feature: share of the class with this label among earlier rows."""
    return f"history_share_{label}"


def trend_name(label: str) -> str:
    """Feature: change of the share of the class with this label a year."""
    return f"history_trend_{label}"


def mean_name(measure: str) -> str:
    """Feature: mean of a measure over earlier rows."""
    return f"history_mean_{measure}"


def days_since_name(attribute: str) -> str:
    """Feature: days from the date of an attribute to the row."""
    return f"days_since_{attribute}"


def calendar_name(timestamp: str, part: str) -> str:
    """Feature: a part of the row's date."""
    return f"{timestamp}_{part}"


_SCORED = ("run_id", ROW_NR, "predicted", "confidence", "model_version", "scored_at")
_SCORED_VIEWS = (
    *("drop_id", "mlflow_run_id", "drop_name", "drop_sha256", "feature_snapshot", "model_name", "data_sha256"),
    *("contract_sha256", "git_commit", "training_run"),
)
_OUTCOMES = ("known", "source", "observed", "outcomes", "raw_rows", "scores", "kind")
_ONLINE = (
    *("answer_id", "request_id", "place", "known_entity", "predicted", "confidence", "model_name", "model_version"),
    *("answered_at", "source"),
)


def _reserved_everywhere(contract: Contract, recipes: bool) -> Iterator[tuple[str, str]]:
    """Names that stand beside every column of the contract somewhere, each with what it is."""
    for name in (ROW_NR, IN_DOUBT):
        yield name, "a column of the row checks"
    for name in ("file_index", "file_row_number"):
        yield name, "a column that DuckDB adds to a file"
    for name in _OF_HISTORY:
        yield name, "a column of the history"
    for level, label in class_labels(contract.classes).items():
        for of_level in (count_name, days_name, share_name, trend_name):
            yield of_level(label), f"a column of the history, made from the class {level!r}"
    for measure in contract.named("measure"):
        for of_measure in (sum_name, known_name, exact_name, mean_name):
            yield of_measure(measure), f"a column of the history, made from the measure {measure!r}"
    yield last_name(contract.target), "a feature, made from the target"
    for recipe in contract.features.history if recipes else ():
        for feature in recipe.scoped(contract):
            for name in (feature.column.name, *(column.name for column in feature.reads)):
                yield name, f"a column of the history, made by the recipe {recipe.recipe!r}"
    yield from _reserved_by_absent_roles(contract)
    yield from _reserved_by_dates(contract)


def _reserved_by_dates(contract: Contract) -> Iterator[tuple[str, str]]:
    for name in contract.features.days_since:
        yield days_since_name(name), f"a feature, made from {name!r} (days_since)"
    for part in contract.features.calendar:
        yield calendar_name(contract.timestamp, part), f"a feature, made from {contract.timestamp!r} (calendar: {part})"


def _reserved_by_absent_roles(contract: Contract) -> Iterator[tuple[str, str]]:
    if not contract.has_entity:
        yield ROW_IDENTITY, "a column of the examples without entity"
    if not contract.has_timestamp:
        yield ROW_DAY, "a column of the examples without timestamp"


def _reserved_by_scores(contract: Contract) -> Iterator[tuple[str, str]]:
    for name in _SCORED:
        yield name, "a column of scored"
    for name in _SCORED_VIEWS:
        yield name, "a column of the views over scored"
    for name in _OUTCOMES:
        yield name, "a column of the matching of outcomes"
    yield from _probabilities(contract)


def _reserved_by_online(contract: Contract) -> Iterator[tuple[str, str]]:
    for name in _ONLINE:
        yield name, "a column of online_answers"
    yield from _probabilities(contract)


def _probabilities(contract: Contract) -> Iterator[tuple[str, str]]:
    for level, column in probability_columns(contract.classes).items():
        yield column, f"the column of the probability of the class {level!r}"


def online_names(contract: Contract) -> dict[str, str]:
    """The columns of the recorded answers that hold the columns of a row, by the contract's names.

    An attribute that has a name of Apex, or one that is too long for Postgres, gets another one.
    """
    names = {name: name for name in contract.named(*STORED_ROLES)}
    taken = {name.lower() for name, _ in _reserved_by_online(contract)} | {name.lower() for name in names}
    for name in contract.named("attribute"):
        own = name if len(name.encode()) <= MAX_IDENTIFIER else encoded(name)
        while own.lower() in taken:
            own = f"{own}_of_row"
        names[name] = own
        taken.add(own.lower())
    return names


def name_faults(contract: Contract, recipes: bool = True) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Every name of the contract that meets another one or one of the product's own: (place in the YAML, fault).

    DuckDB and most clients of Postgres take names that differ by case alone for one. Without `recipes`, as these have
    faults, what only they make is left out.
    """
    columns = contract.columns
    yield from _collisions({name: ("columns", name) for name in columns})
    target = ("columns", contract.target, "domain", "levels")
    places = {level: (*target, nr) for nr, level in enumerate(contract.classes)}
    everything = _by_folded_name(_reserved_everywhere(contract, recipes))
    of_scores, of_online = (_by_folded_name(taken(contract)) for taken in (_reserved_by_scores, _reserved_by_online))
    for name, column in columns.items():
        taken = dict(everything)
        if column.role in STORED_ROLES:
            taken |= of_scores
            taken |= of_online
        at = ("columns", name)
        if reserved := taken.get(name.lower()):
            own, what = reserved
            yield at, f"the column {name!r} meets {own!r}, {what}: rename the column in the data and here"
        elif re.fullmatch(r"raw [0-9]+", name.lower()):
            yield at, f"the column {name!r} meets 'raw <place>', a column of the row checks: rename it"
        if fault := _unfit(name, in_postgres=column.role in STORED_ROLES):
            yield at, f"the column {name!r} {fault}: rename it in the data and here"
    for level, where in places.items():
        if "\0" in level:
            yield where, f"the class {level!r} has a NUL character, which Postgres cannot hold"


def _unfit(name: str, *, in_postgres: bool) -> str:
    """Why a column cannot have this name; empty when it can."""
    if not name.strip():
        return "has no name"
    if any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name):
        return "has a control character"
    if in_postgres and (size := len(name.encode())) > MAX_IDENTIFIER:
        return f"is {size} bytes long, more than the {MAX_IDENTIFIER} that Postgres takes"
    return ""


def _by_folded_name(names: Iterator[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    by_name: dict[str, tuple[str, str]] = {}
    for name, what in names:
        by_name.setdefault(name.lower(), (name, what))
    return by_name


def _collisions(places: Mapping[str, tuple[int | str, ...]]) -> Iterator[tuple[tuple[int | str, ...], str]]:
    first: dict[str, str] = {}
    for name, place in places.items():
        other = first.setdefault(name.lower(), name)
        if other != name:
            yield place, f"the columns {name!r} and {other!r} differ by case alone: rename one in the data"
