"""An example row that satisfies a contract, derived from its rules, for the documentation of the API."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from functools import partial
from itertools import islice, product
from typing import Any
from zoneinfo import ZoneInfo

from apex_ml.contract.checks import PatternCheck, RangeCheck
from apex_ml.contract.column_types import level_of
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.contract.requests.values import ISO_DATE, date_formats
from apex_ml.contract.rules import PairsRule
from apex_ml.json_text import json_text

TRIED = 2000
"""Maximum combinations of values to try."""
LETTERS = "A1a0 -_.@/"
ALPHABET = [chr(n) for n in range(32, 127)]


def example_row(contract: Contract, reader: RequestReader, since: date, today: date) -> dict[str, Any] | None:
    """A row of today or, if the rules or `since` exclude today, of another time from `since` on.

    It has the required keys of a request. None when no combination of a few values of each column is valid.
    """
    day = max(since.date() if isinstance(since, datetime) else since, today)
    needed = [c for c in contract.file_columns.values() if c.required.score]
    values = [[value for value in _values(c, day, since) if reader.accepts(c.name, value)][:8] for c in needed]
    for chosen in islice(product(*values), TRIED):
        row = {column.name: value for column, value in zip(needed, chosen, strict=True)}
        for rule in contract.rules:
            if isinstance(rule, PairsRule) and (allowed := rule.allowed.get(row.get(rule.columns[0], ""))):
                row[rule.columns[1]] = allowed[0]
        try:
            reader.read(json_text({"rows": [row]}).encode(), since)
        except RefusedError:
            continue
        return row
    return None


def _values(column: Column, day: date, since: date) -> Iterator[Any]:
    """Possible values of a column, likely ones first."""
    if column.domain is not None:
        of_json = (str, int)  # a day or a decimal is text
        yield from (v if isinstance(v, of_json) else level_of(v) for v in column.level_values)
    bounds = [b for check in column.checks if isinstance(check, RangeCheck) for b in (check.min, check.max)]
    known = [b for b in bounds if b is not None]
    if column.type == "boolean":
        yield from (False, True)
    elif column.type == "timestamp":
        times = [column.bound(b) for b in (day, since, *(b for b in known if isinstance(b, date)), date(2000, 1, 1))]
        formats = date_formats(column)
        as_text = datetime.isoformat if formats == (ISO_DATE,) else partial(_formatted, formats[0])
        yield from (as_text(t) for t in times if isinstance(t, datetime))
    elif column.type == "date":
        dates = [day, since, *(b for b in known if isinstance(b, date)), date(2000, 1, 1)]
        clock = ZoneInfo(column.timezone) if column.timezone else None
        yield from (datetime.combine(d, time(12), clock).strftime(date_formats(column)[0]) for d in dates)
    elif column.type == "string":
        for check in column.checks:
            if isinstance(check, PatternCheck):
                yield from islice(matching(check.regex), 50)
        yield from ("A1", "A", "1", "a")
    else:
        numbers: list[float] = [1, 0, *(b for b in known if not isinstance(b, date))]
        numbers += [sum(numbers[2:]) / 2]
        yield from (int(n) for n in numbers) if column.type == "int64" else (float(n) for n in numbers)
    yield None


def _formatted(form: str, moment: datetime) -> str:
    return moment.strftime(form)


def matching(regex: str) -> Iterator[str]:
    """Texts that probably match a regular expression fully, short ones first.

    >>> next(matching("C[0-9]{6,9}")), next(matching("(?i)^(ab|c)+$")), next(matching(r"[^A]\\d?x*"))
    ('C000000', 'ab', '1')
    """
    parser: Any = re._parser  # type: ignore[attr-defined]  # the parser of the standard library; there is no public one
    tree = parser.parse(regex)
    for extra in (0, 1, 2):
        yield from (text for text in _texts(list(tree), extra) if re.fullmatch(regex, text, re.ASCII))


def _texts(parts: list[Any], extra: int) -> Iterator[str]:
    """A few texts of a parsed expression, with `extra` repetitions above the minimum where more are allowed."""
    if not parts:
        yield ""
        return
    (kind, about), rest = parts[0], parts[1:]
    for first in islice(_of(str(kind), about, extra), 4):
        for tail in islice(_texts(rest, extra), 4):
            yield first + tail


def _of(kind: str, about: Any, extra: int) -> Iterator[str]:
    if kind == "LITERAL":
        yield chr(about)
    elif kind == "NOT_LITERAL":
        yield from (c for c in LETTERS if ord(c) != about)
    elif kind == "ANY":
        yield "A"
    elif kind == "IN":
        yield from _of_a_set(about)
    elif kind in ("MAX_REPEAT", "MIN_REPEAT"):
        lowest, highest, what = about
        times = min(lowest + extra, int(highest))
        yield from ("".join([text] * times) for text in _texts(list(what), extra))
    elif kind == "SUBPATTERN":
        yield from _texts(list(about[-1]), extra)
    elif kind == "BRANCH":
        for branch in about[1]:
            yield from islice(_texts(list(branch), extra), 2)
    elif kind == "CATEGORY":
        yield from _of_a_set([(kind, about)])
    else:  # an anchor matches no letter
        yield ""


def _of_a_set(items: list[Any]) -> Iterator[str]:
    tests: dict[str, Callable[[str], bool]] = {
        "DIGIT": str.isdigit,
        "SPACE": str.isspace,
        "WORD": lambda c: c.isalnum() or c == "_",
    }
    negated = bool(items) and str(items[0][0]) == "NEGATE"

    def within(letter: str) -> bool:
        for kind, about in items:
            name = str(kind)
            if name == "LITERAL" and ord(letter) == about:
                return True
            if name == "RANGE" and about[0] <= ord(letter) <= about[1]:
                return True
            if name == "CATEGORY":
                category = str(about).removeprefix("CATEGORY_")
                if tests[category.removeprefix("NOT_")](letter) != category.startswith("NOT_"):
                    return True
        return False

    letters = [chr(about) for kind, about in items if str(kind) == "LITERAL"]
    letters += [chr(about[0]) for kind, about in items if str(kind) == "RANGE"]
    yield from (c for c in dict.fromkeys([*([] if negated else letters), *LETTERS, *ALPHABET]) if within(c) != negated)
