"""Orders as they come in a request: a model made from the contract, and values read as those of a drop are.

An order is a row of a drop as a JSON object, under the same rules: `masks` compiles them to SQL for files, here they
are Python for a few rows at a time, as to begin a query takes longer than to answer a request. A test holds both side
by side. Rules over the rows of a file (`unique`, `before_as_of`) are none of a request.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json, to_json

from apex_ml.contract.checks import PatternCheck, RangeCheck
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.normalisation import DateFormats, text_steps
from apex_ml.contract.rules import PairsRule
from apex_ml.errors import DataError
from apex_ml.json_text import json_text
from apex_ml.text import NO_NUL, folded, visible
from apex_ml.wording import counted, did_you_mean

MOST_ORDERS = 1000
MOST_FAULTS = 1000
"""So many faults of a request are told; the others are counted."""
ISO_DATE = "%Y-%m-%d"
LONGEST_VALUE = 200
MOST_CELLS = 20_000
AROUND = 40
"""Characters shown on either side of what is no JSON."""
WIDEST_INTEGER = 2**127
"""From here on the text of a whole float is its shortest digits and zeros, as the files' engine has no such integer."""
NO_TEXT = "Input should be a string, a finite number, true or false"
TEXT = Annotated[str | int | Annotated[float, Field(allow_inf_nan=False)] | bool, Field(union_mode="left_to_right")]
"""What stands for a string in JSON: a number becomes text as the same number in a file does."""


class Fault(NamedTuple):
    """What is wrong with a request: where, which rule, the value as text with what is invisible escaped, what to do."""

    path: str
    rule: str
    value: str
    remedy: str = ""


class RefusedError(DataError):
    """A request breaks the contract. `faults` are its first ones in order, `total` counts them all."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults, self.total = tuple(faults[:MOST_FAULTS]), len(faults)
        first = "; ".join(f"{f.path}: {f.rule}" for f in faults[:3])
        super().__init__(f"{counted(self.total, 'fault')}: {first}")


class _Cell(NamedTuple):
    """A value as a drop's row would hold it, and the rule that it breaks, as an error or as a warning."""

    value: Any
    error: str | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Orders:
    """The orders of a request: values by column, all of one length, and warnings by order."""

    columns: dict[str, list[Any]]
    warnings: dict[int, list[str]]

    def __len__(self) -> int:
        """Number of orders."""
        return len(next(iter(self.columns.values())))


def number_text(value: float | Decimal) -> str:
    """A number, or a truth value, as the text that :func:`apex_ml.sql.row_checks.number_text` gives it in a file.

    >>> [number_text(v) for v in (240, 240.0, -0.0, 0.5, 1e-07, 1e20, True, Decimal("240.00"))]
    ['240', '240', '0', '0.5', '0.0000001', '100000000000000000000', 'true', '240']
    """
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value.is_integer() and abs(value) < WIDEST_INTEGER:
        return str(int(value))
    return format(Decimal(repr(value)), "f").removesuffix(".0")


_PLAIN = frozenset((str, type(None)))


def _as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else number_text(value)


def date_formats(column: Column) -> tuple[str, ...]:
    """The formats in which a date may be written, by strptime."""
    found = [f for step in column.normalise if isinstance(step, DateFormats) for f in step.date_formats]
    return tuple(found) or (ISO_DATE,)


def _day(formats: Sequence[str], text: str) -> date | None:
    text = text.strip(" ")
    if text.isascii():
        for form in formats:
            try:
                return datetime.strptime(text, form).date()
            except ValueError:
                continue
    return None


class _Known(dict[Any, Any]):
    """Values by how they were written, read when they are first asked for."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def __missing__(self, written: Any) -> Any:
        cell = self._reader.read(written)
        if len(self) + len(self._reader.noted) > MOST_CELLS:
            self.clear()
        if cell.error is not None or cell.warning is not None:
            self._reader.noted[written] = cell
        else:
            self[written] = cell.value
        return cell.value


class _Reader:
    """Reads the values of one column. `noted` has those that break a rule, by how they were written."""

    def __init__(self, column: Column) -> None:
        self._column = column
        self._steps = tuple(text_steps(column.normalise))
        self._formats = date_formats(column)
        self._nullable = column.nullable.score
        self._domain = frozenset(column.domain.levels) if column.domain else None
        self._checks = tuple(_check(check) for check in column.checks)
        self.noted: dict[Any, _Cell] = {}
        # values that come again and again are read once; those of clients are too many to be kept
        self._known = None if column.role == "entity" else _Known(self)

    def values(self, written: Sequence[Any]) -> tuple[list[Any], list[tuple[int, _Cell]]]:
        """Read every value; also the places of those that break a rule, with what they break."""
        if self._column.type == "string" and not _PLAIN.issuperset(map(type, written)):
            written = list(map(_as_text, written))
        if self._known is None:
            cells = list(map(self.read, written))
            return [cell[0] for cell in cells], [(n, c) for n, c in enumerate(cells) if c[1] or c[2]]
        if len(self.noted) > MOST_CELLS:
            self.noted.clear()
        values = list(map(self._known.__getitem__, written))
        if self.noted.keys().isdisjoint(written):
            return values, []
        return values, [(n, self.noted[value]) for n, value in enumerate(written) if value in self.noted]

    def takes(self, value: Any) -> bool:
        """Whether a value of JSON is of a kind that can be read."""
        if value is None or isinstance(value, str):
            return value is None or self._column.type in ("string", "date")
        if self._column.type == "string":
            return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if self._column.type == "date":
            return False
        kinds = (int, float) if self._column.type == "double" else (int,)
        return isinstance(value, kinds) and not isinstance(value, bool)

    def read(self, value: Any) -> _Cell:
        """Read one value."""
        if value is not None:
            if self._column.type == "string":
                value = value if isinstance(value, str) else number_text(value)
                for step in self._steps:
                    if (value := step(value)) is None:
                        break
            elif self._column.type == "date":
                if (day := _day(self._formats, value)) is None:
                    return _Cell(None, "type: not date")
                value = day
        if value is None:
            return _Cell(None) if self._nullable else _Cell(None, "not_null")
        error = warning = None
        if self._column.role == "entity" and "\0" in str(value):
            error = NO_NUL
        if self._domain is not None and value not in self._domain:
            assert self._column.domain is not None
            rule = f"domain: one of {', '.join(self._column.domain.levels)}"
            if self._column.domain.closed.score:
                error = rule
            else:
                warning = f"{rule}; taken as unknown"
        for broken, severity, rule in self._checks:
            if broken(value):
                if severity == "error":
                    error = rule if error is None else f"{error}; {rule}"
                else:
                    warning = rule if warning is None else f"{warning}; {rule}"
        return _Cell(value, error, warning)

    def remedy(self, rule: str, value: Any) -> str:
        """What to do about a rule that a value breaks."""
        column = self._column
        if rule == "not_null":
            return "send a value"
        if rule.startswith("domain") and column.domain is not None:
            meant = did_you_mean(value, column.domain.levels) if isinstance(value, str) else ""
            return f"send one of its levels{meant}"
        if rule.startswith("pattern"):
            return "send a value that matches the pattern as a whole"
        if rule.startswith("range"):
            return "send a value in this range"
        if column.type == "date":
            return f"write it as {' or '.join(self._formats)}, in quotes"
        if column.type == "string":
            return "write it in quotes"
        if column.type == "double":
            return "write a finite number, without quotes"
        return "write a whole number of 64 bits, without quotes"


def early(place: int, name: str, day: date, since: date) -> Fault:
    """What is said of an order dated before the history snapshot."""
    rule = f"on or after {since}, the day of the history snapshot"
    remedy = "send a day from then on, or score the order in a drop: a file may hold earlier ones"
    return Fault(_path(place, name), rule, day.isoformat(), remedy)


def _check(check: PatternCheck | RangeCheck) -> tuple[Callable[[Any], bool], str, str]:
    """Whether a value breaks it, severity, and the rule in words, as for a drop."""
    severity = check.severity.score
    if isinstance(check, PatternCheck):
        pattern = re.compile(check.regex, re.ASCII)
        return lambda v: pattern.fullmatch(v) is None, severity, f"pattern: {check.regex}"
    low, high = check.min, check.max
    words = [f">= {low}"] if low is not None else []
    words += [f"<= {high}"] if high is not None else []

    def outside(value: Any) -> bool:
        return (low is not None and value < low) or (high is not None and value > high)

    return outside, severity, "range: " + " and ".join(words)


def _field(column: Column) -> tuple[Any, Any]:
    kind: Any = {"string": TEXT, "date": str, "double": float, "int64": int}[column.type]
    extra: dict[str, Any] = {"x-role": column.role}
    text = column.description
    limits: dict[str, Any] = {}
    if column.unit:
        text += f" In {column.unit}."
    if column.role in ("target", "measure"):
        text += " Known only after the order: checked, and not used."
    if column.domain is not None:
        text += f" One of {', '.join(column.domain.levels)}" + (
            "." if column.domain.closed.score else "; another value is taken as unknown, with a warning."
        )
        extra["examples"] = list(column.domain.levels)
    if column.type == "date":
        text += f" Written as {' or '.join(date_formats(column))}."
        extra["format"] = "date"
    elif column.type == "double":
        limits["allow_inf_nan"] = False
    elif column.type == "int64":
        limits |= {"ge": -(2**63), "le": 2**63 - 1}
    for check in column.checks:
        if check.severity.score == "error":
            text += f" {_check(check)[2]}."
        # a value of another case or with blanks around it is brought into its normal form before it is matched
        if isinstance(check, PatternCheck):
            extra["x-pattern"] = check.regex
        elif check.severity.score == "error" and column.type != "date":
            limits |= {} if check.min is None else {"ge": check.min}
            limits |= {} if check.max is None else {"le": check.max}
    kind = Annotated[kind, Field(**limits)] if limits else kind
    if column.nullable.score:
        kind = kind | None
    default = ... if column.required.score else None
    if default is None and not column.nullable.score:
        kind = kind | None
    return kind, Field(default, alias=column.name, description=text, json_schema_extra=extra)


class RequestReader:
    """Reads the body of a request: `model` is its shape, for people and for OpenAPI. For one thread at a time."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        config = ConfigDict(extra="forbid", strict=True)
        # a field has a name of its own and the column's as its alias: a column may be called as pydantic's own methods
        self._fields = {name: f"c{place}" for place, name in enumerate(contract.columns)}
        fields: dict[str, Any] = {self._fields[c.name]: _field(c) for c in contract.columns.values()}
        order = create_model("Order", __config__=config, __doc__="An order, as a row of a drop.", **fields)
        orders = Annotated[list[order], Field(min_length=1, max_length=MOST_ORDERS, description="The orders.")]
        self.model: type[BaseModel] = create_model(
            "PredictRequest", __config__=config, __doc__="Orders to be judged, in any order.", orders=(orders, ...)
        )
        self._validate = self.model.__pydantic_validator__.validate_json
        self._readers = {c.name: _Reader(c) for c in contract.columns.values()}
        self._pairs = [r for r in contract.rules if isinstance(r, PairsRule)]
        self._keys = [json_text(name).encode() for name in contract.columns]

    def read(self, body: bytes, since: date | None = None) -> Orders:
        """Read the orders of a JSON body; none may be dated before `since`.

        Raises :class:`RefusedError` with every fault of the request and its path: the whole request is refused.
        """
        try:
            found: Any = self._validate(body)
        except ValidationError as error:
            if (renamed := self._renamed(body, error)) is not None:
                return self.read(renamed, since)
            raise RefusedError(self._faults(body, error, since)) from None
        rows = [order.__dict__ for order in found.orders]
        # only a key that is there more often than there are orders can stand twice; a level may have its name, though
        often = body.count(b'"orders"') > 1 or any(body.count(key) > len(rows) for key in self._keys)
        if often and (twice := _twice(body)):
            raise RefusedError([*twice, *self._read_faults(from_json(body)["orders"], set(), since)])
        columns: dict[str, list[Any]] = {}
        faults: list[tuple[int, Fault]] = []
        warnings: dict[int, list[str]] = {}
        for name, reader in self._readers.items():
            field = self._fields[name]
            columns[name], noted = reader.values([row[field] for row in rows])
            for place, cell in noted:
                if cell.error is not None and (rows[place][field] is not None or self._is_needed(name)):
                    faults.append((place, self._fault(place, name, cell.error, rows[place][field])))
                elif cell.warning is not None:
                    warnings.setdefault(place, []).append(
                        f"{name}: {cell.warning} (found {_shown(rows[place][field])})"
                    )
        if since is not None:
            name = self._contract.timestamp
            days = enumerate(columns[name])
            faults += [
                (place, early(place, name, day, since)) for place, day in days if day is not None and day < since
            ]
        for rule in self._pairs:
            for place, fault in self._broken(rule, columns):
                if rule.severity.score == "error":
                    faults.append((place, fault))
                else:
                    warnings.setdefault(place, []).append(f"{fault.path.split('.', 1)[1]}: {fault.rule}")
        if faults:
            raise RefusedError([fault for _, fault in sorted(faults, key=lambda f: f[0])])
        return Orders(columns, warnings)

    def accepts(self, name: str, value: Any) -> bool:
        """Whether a value of JSON breaks no rule of its column, not even one that only warns."""
        reader = self._readers[name]
        return reader.takes(value) and reader.read(value)[1:] == (None, None)

    def _renamed(self, body: bytes, error: ValidationError) -> bytes | None:
        """The body with the contract's own names where it has unknown keys that only nearly are, if any may be taken.

        A key beside another one that means the same column stays, and is refused.
        """
        unknown = any(e["type"] == "extra_forbidden" for e in error.errors(include_url=False, include_input=False))
        if self._contract.match != "insensitive" or not unknown or _twice(body):
            return None
        own: dict[str, str] = {folded(name): name for name in self._contract.columns}
        content = from_json(body)  # it was JSON, or else its keys were not known to be wrong
        changed = False
        for nr, order in enumerate(content["orders"] if isinstance(content.get("orders"), list) else []):
            if not isinstance(order, dict):
                continue
            meant: dict[str, list[str]] = {}
            for key in map(str, order):
                meant.setdefault(own.get(folded(key), key), []).append(key)
            names = {keys[0]: name for name, keys in meant.items() if len(keys) == 1}
            if any(names.get(key, key) != key for key in order):
                content["orders"][nr] = {names.get(key, key): value for key, value in order.items()}
                changed = True
        return to_json(content) if changed else None

    def _is_needed(self, name: str) -> bool:
        """Whether a null is a fault: one of a column that may be left out is not."""
        return self._contract.columns[name].required.score

    def _broken(self, rule: PairsRule, columns: dict[str, list[Any]]) -> Iterator[tuple[int, Fault]]:
        first, second = rule.columns
        for place, (one, other) in enumerate(zip(columns[first], columns[second], strict=True)):
            if other is not None and one in rule.allowed and other not in rule.allowed[one]:
                path = f"{_path(place, first)} + {second}"
                remedy = f"with {first} {one} send one of {', '.join(rule.allowed[one])}"
                yield place, Fault(path, f"{rule.name}: {rule.description}", f"{one} / {other}", remedy)

    def _fault(self, place: int, name: str, rule: str, value: Any) -> Fault:
        return Fault(_path(place, name), rule, _shown(value), self._readers[name].remedy(rule, value))

    def _faults(self, body: bytes, error: ValidationError, since: date | None) -> list[Fault]:
        """What is wrong with the shape, and with every value whose shape is right."""
        found: list[tuple[int, Fault]] = []
        wrong: set[tuple[int, str]] = set()
        for e in error.errors(include_url=False):
            place = e["loc"][1] if len(e["loc"]) > 1 and isinstance(e["loc"][1], int) else -1
            if len(e["loc"]) > 2:
                if len(e["loc"]) > 3 and (place, str(e["loc"][2])) in wrong:
                    continue  # a value that stands for text has an error for each type that it may have
                wrong.add((place, str(e["loc"][2])))
            found.append((place, self._told(place, e)))
        try:
            twice = _twice(body)
            orders = from_json(body)["orders"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return [fault for _, fault in found]
        found += [(-1, fault) for fault in twice]
        found += [(place, fault) for place, fault in self._read(orders, wrong, since)]
        return [fault for _, fault in sorted(found, key=lambda f: f[0])]

    def _read_faults(self, orders: Any, wrong: set[tuple[int, str]], since: date | None) -> list[Fault]:
        return [fault for _, fault in sorted(self._read(orders, wrong, since), key=lambda f: f[0])]

    def _read(self, orders: Any, wrong: set[tuple[int, str]], since: date | None) -> Iterator[tuple[int, Fault]]:
        """What is wrong with the values of orders, but for those that are wrong already."""
        when = self._contract.timestamp
        for place, order in enumerate(orders[:MOST_ORDERS] if isinstance(orders, list) else []):
            right: dict[str, list[Any]] = {name: [None] for name in self._readers}
            for name, reader in self._readers.items() if isinstance(order, dict) else ():
                if name not in order or (place, name) in wrong or not reader.takes(order[name]):
                    continue
                cell = reader.read(order[name])
                if cell.error is None:
                    right[name] = [cell.value]
                elif order[name] is not None or self._is_needed(name):
                    yield place, self._fault(place, name, cell.error, order[name])
            (day,) = right[when]
            if since is not None and day is not None and day < since:
                yield place, early(place, when, day, since)
            for rule in self._pairs:
                if rule.severity.score == "error":
                    for _, fault in self._broken(rule, right):
                        yield place, fault._replace(path=f"{_path(place, rule.columns[0])} + {rule.columns[1]}")

    def _told(self, place: int, error: Any) -> Fault:
        """A fault of the shape, in the words of the contract."""
        kind, loc, value = error["type"], error["loc"], error["input"]
        path, about = _dotted(loc[:3]), error.get("ctx", {})
        column = self._contract.columns.get(str(loc[2])) if len(loc) > 2 else None
        if kind == "json_invalid":
            rule, shown = str(error["msg"]).replace("Invalid JSON", "not JSON"), _excerpt(value, str(error["msg"]))
            return Fault(path, rule, shown, 'send JSON in UTF-8: {"orders": [{…}]}')
        if kind == "extra_forbidden":
            known = ["orders"] if len(loc) == 1 else list(self._contract.columns)
            name = str(loc[-1])
            rule = f"unknown key; the keys are {', '.join(known)}"
            if near := [k for k in known if folded(k) == folded(name)]:
                return Fault(path, f"{rule}; it is nearly {near[0]}", _shown(value), f"write the key as {near[0]}")
            return Fault(path, rule, _shown(value), f"remove it{did_you_mean(name, known)}")
        if kind == "missing":
            of = self._contract.columns.get(str(loc[-1]))
            null = ", null where nothing is known" if of is not None and of.nullable.score else ""
            return Fault(path, f"required: the key must be there{null}", "", "add the key")
        if kind in ("too_long", "too_short"):
            most = kind == "too_long"
            limit = counted(about["max_length" if most else "min_length"], "order")
            rule = f"at {'most' if most else 'least'} {limit} in a request"
            return Fault(path, rule, counted(len(value), "order"), "send more requests" if most else "send an order")
        if column is not None:
            return self._fault(place, column.name, self._rule_of(column, kind, value), value)
        if loc in ((), ("orders",)) or len(loc) == 2:
            wanted = "a list of orders" if loc == ("orders",) else "an object, with keys and values"
            return Fault(path, f"type: not {wanted}", _shown(value), f"send {wanted}")
        return Fault(path, str(error["msg"]), _shown(value))

    def _rule_of(self, column: Column, kind: str, value: Any) -> str:
        """The rule of the contract that a value breaks of which pydantic says that its shape is wrong."""
        reader = self._readers[column.name]
        if value is None:
            return "not_null"
        if column.type == "string":
            return NO_TEXT
        if kind in ("greater_than_equal", "less_than_equal") and reader.takes(value):
            return reader.read(value).error or f"type: not {column.type}"
        return f"type: not {column.type}"


def _twice(body: bytes) -> list[Fault]:
    """Keys that stand twice in an object of the body; JSON readers keep the last one without a word."""
    found: list[Fault] = []

    class Pairs(dict[str, Any]):
        twice: tuple[str, ...] = ()

    def pairs(items: list[tuple[str, Any]]) -> Pairs:
        made = Pairs(items)
        if len(made) < len(items):
            made.twice = tuple(name for name, n in Counter(name for name, _ in items).items() if n > 1)
        return made

    def look(value: Any, path: str) -> None:
        if isinstance(value, Pairs):
            for name in value.twice:
                place = f"{path}.{name[:LONGEST_VALUE]}".removeprefix(".")
                found.append(Fault(place, "the key stands twice", _shown(value[name]), "send it once"))
            for name, below in value.items():
                look(below, f"{path}.{name}".removeprefix("."))
        elif isinstance(value, list):
            for nr, below in enumerate(value):
                look(below, f"{path}[{nr}]")

    look(json.loads(body, object_pairs_hook=pairs), "")
    return found


def _path(place: int, name: str) -> str:
    return f"orders[{place}].{name}"


def _dotted(loc: Sequence[int | str]) -> str:
    """A place in the body, as ``orders[3].name``."""
    path = ""
    for part in loc:
        # a key of the sender's own may be as long as the body
        path += f"[{part}]" if isinstance(part, int) else f".{visible(part[:LONGEST_VALUE])}"
    return path.removeprefix(".") or "body"


def _shown(value: Any) -> str:
    """A value as text: cut when it is long, and what cannot be seen escaped."""
    if isinstance(value, str):
        text = f"'{value}'"
    elif isinstance(value, float) and not math.isfinite(value):
        text = str(value)  # no JSON, but what was sent
    else:
        text = json_text(value, ensure_ascii=False, default=repr)
    text = visible(text[: LONGEST_VALUE + 1])
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _excerpt(body: Any, message: str) -> str:
    """The part of a body that is no JSON, around the place that a message names."""
    text = bytes(body).decode("utf-8", "backslashreplace") if isinstance(body, bytes | bytearray) else str(body)
    found = re.search(r"line (\d+) column (\d+)", message)
    lines = text.splitlines() or [""]
    line = lines[min(int(found[1]), len(lines)) - 1] if found else lines[0]
    middle = int(found[2]) if found else 0
    first = max(0, min(middle, len(line)) - AROUND)
    return f"{'…' if first else ''}{visible(line[first : middle + AROUND])}{'…' if len(line) > middle + AROUND else ''}"
