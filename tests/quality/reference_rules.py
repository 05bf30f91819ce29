"""The rules of the contract for accepted rows in plain Python. It shares no code with the row checks."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import date
from typing import Any

import pyarrow as pa

from apex_ml.contract.checks import PatternCheck, RangeCheck
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.normalisation import StripSuffix
from apex_ml.contract.per_use import Use
from apex_ml.contract.rules import BeforeAsOfRule, PairsRule, UniqueRule

PYTHON_TYPES = {"string": str, "double": float, "int64": int, "date": date}
STORED_TYPES = {"string": pa.string(), "double": pa.float64(), "int64": pa.int64(), "date": pa.date32()}


def _fault_of_value(column: Column, use: Use, value: Any) -> str | None:
    if value is None:
        return None if getattr(column.nullable, use) else "null"
    if type(value) is not PYTHON_TYPES[column.type]:
        return f"a {type(value).__name__}"
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if fault := _fault_of_form(column, value):
        return fault
    if column.domain is not None and getattr(column.domain.closed, use) and value not in column.domain.levels:
        return "outside of its domain"
    faults = (_fault_of_check(check, value) for check in column.checks if getattr(check.severity, use) == "error")
    return next((fault for fault in faults if fault), None)


def _fault_of_form(column: Column, value: Any) -> str | None:
    for step in column.normalise:
        if step == "trim" and value != value.strip(" \t\n\r\u00a0"):
            return "not trimmed"
        if step == "upper" and value != value.upper():
            return "not in upper case"
        if isinstance(step, StripSuffix) and value.endswith(step.strip_suffix):
            return f"ends with {step.strip_suffix}"
    return None


def _fault_of_check(check: Any, value: Any) -> str | None:
    if isinstance(check, PatternCheck) and not re.fullmatch(check.regex, value):
        return f"does not match {check.regex}"
    if isinstance(check, RangeCheck) and check.min is not None and value < check.min:
        return f"below {check.min}"
    if isinstance(check, RangeCheck) and check.max is not None and value > check.max:
        return f"above {check.max}"
    return None


def violations(table: pa.Table, contract: Contract, use: Use, as_of: date | None = None) -> list[str]:
    """Everything in which the accepted rows of one file break the contract, one line a kind of fault."""
    if table.column_names != list(contract.columns):
        return [f"columns {table.column_names}"]
    results = []
    values = {}
    for name, column in contract.columns.items():
        if table.schema.field(name).type != STORED_TYPES[column.type]:
            results.append(f"{name}: stored as {table.schema.field(name).type}")
        values[name] = table.column(name).to_pylist()
        faults = {(fault, value) for value in set(values[name]) if (fault := _fault_of_value(column, use, value))}
        results += [f"{name}: {value!r} is {fault}" for fault, value in sorted(faults, key=str)[:5]]
    for rule in contract.rules:
        if getattr(rule.severity, use) != "error":
            continue
        if isinstance(rule, PairsRule):
            pairs = set(zip(*(values[name] for name in rule.columns), strict=True))
            bad = [(a, b) for a, b in pairs if a in rule.allowed and b is not None and b not in rule.allowed[a]]
            results += [f"{rule.name}: {pair}" for pair in bad]
        elif isinstance(rule, BeforeAsOfRule) and as_of is not None:
            results += [f"{rule.name}: {day}" for day in set(values[rule.columns[0]]) if day >= as_of]
        elif isinstance(rule, UniqueRule):
            names = list(contract.columns) if rule.columns == "all" else list(rule.columns)
            counts = Counter(zip(*(values[name] for name in names), strict=True))
            results += [f"{rule.name}: {n} times {row}" for row, n in counts.items() if n > 1][:3]
    return results
