"""The contract's normalisation of values, and cheap tests whether a value needs it: DuckDB SQL."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import trims_or_uppers
from apex_ml.contract.normalisation import MapValues, StripSuffix
from apex_ml.sql.casts import NOT_FINITE, cast_sql, is_cut, lost_times, too_fine_sql, with_loss
from apex_ml.sql.file_types import holds_text, local_time
from apex_ml.sql.quote import literal, literals
from apex_ml.text import INVISIBLE_RE2

_INVISIBLE_ENDS = f"^[{INVISIBLE_RE2}]+|[{INVISIBLE_RE2}]+$"


@dataclass(frozen=True)
class Normalised:
    """One declared change of values. `condition` is SQL that is true for a changed row."""

    column: str
    how: str
    condition: str


def text_steps_sql(column: Column, value: str) -> list[tuple[str, str]]:
    """The declared changes of a string, each as (name, SQL of the value after it)."""
    steps: list[tuple[str, str]] = []
    for step in column.normalise:
        if step == "trim":
            value = f"nullif(regexp_replace({value}, '{_INVISIBLE_ENDS}', '', 'g'), '')"
            steps.append(("trim", value))
        elif step == "upper":
            value = f"upper({value})"
            steps.append(("upper", value))
        elif isinstance(step, StripSuffix):
            end = literal(step.strip_suffix)
            value = (
                f"CASE WHEN ends_with({value}, {end}) THEN left({value}, -{len(step.strip_suffix)}) ELSE {value} END"
            )
            steps.append((f"strip_suffix {step.strip_suffix.strip()}", value))
        elif isinstance(step, MapValues):
            cases = " ".join(f"WHEN {literal(k)} THEN {literal(v)}" for k, v in step.map.items())
            value = f"CASE {value} {cases} ELSE {value} END"
            steps.append(("map", value))
    return steps


def normalised_sql(column: Column, kind: pa.DataType, source: str) -> str:
    """SQL of a value after its cast and its declared changes; its type must be one that can be cast."""
    cast = cast_sql(column, kind, source)
    assert cast is not None
    return text_steps_sql(column, cast)[-1][1] if column.type == "string" and column.normalise else cast


def lost_rule_sql(column: Column, kind: pa.DataType, source: str, value: str) -> str:
    """SQL of the rule that a value breaks which a cast loses, null for others; `value` is SQL of the value after it."""
    if column.type == "string":
        is_lost = f"NOT isfinite({source})" if pa.types.is_floating(kind) else "false"
        return f"CASE WHEN {is_lost} THEN {literal(NOT_FINITE)} END"
    cases = [f"WHEN {condition} THEN {literal(rule)}" for rule, condition in lost_times(column, kind, source)]
    rule = literal(with_loss(column, kind))
    if cases:
        rule = f"CASE {' '.join(cases)} ELSE {rule} END"
    return f"CASE WHEN {source} IS NOT NULL AND {value} IS NULL THEN {rule} END"


def not_normal_sql(column: Column, source: str, value: str) -> str:
    """SQL that is true when a string may not be in its normal form. It is much cheaper than normalising.

    White space and control characters sort before '!', and so does the empty string.
    """
    if not column.normalise:
        return "false"
    if column.domain is not None:
        return f"{source} NOT IN ({literals(column.domain.levels)})"
    if not trims_or_uppers(column):
        return f"{source} IS DISTINCT FROM {value}"
    tests = []
    if "trim" in column.normalise:
        beyond = f"{source} > '~' OR {source}[-1] > '~'"
        invisible = f"regexp_matches({source}, '{_INVISIBLE_ENDS}')"
        tests += [f"{source} < '!'", f"{source}[-1] < '!'", f"CASE WHEN {beyond} THEN {invisible} ELSE false END"]
    if "upper" in column.normalise:
        tests.append(f"{source} <> upper({source})")
    return " OR ".join(tests)


def normalised(column: Column, kind: pa.DataType, source: str, name: str, bad: str | None) -> list[Normalised]:
    """The declared changes of a column's values, counted by its own value `source` and the value after it, `name`."""
    if column.type == "string" and (steps := text_steps_sql(column, source)):
        how = " + ".join(step for step, _ in steps)
        changed = f"{cast_sql(column, kind, source)} IS DISTINCT FROM {name}"
        return [Normalised(column.name, how, f"{changed} AND {bad} IS NULL" if bad else changed)]
    if column.type == "date" and pa.types.is_timestamp(kind) and "day_of_timestamp" in column.normalise:
        local = local_time(kind, source)
        return [Normalised(column.name, "day_of_timestamp", f"{local} <> date_trunc('day', {local})")]
    changes = []
    if is_cut(column) and (fine := too_fine_sql(column, kind, source)) is not None:
        changes.append(Normalised(column.name, "microsecond_of_timestamp", fine))
    if column.type in ("date", "timestamp") and holds_text(kind):
        changes.append(Normalised(column.name, "date_formats", f"{name} IS NOT NULL"))
    return changes
