"""Read the rows of a request: each is a row of a drop as a JSON object, under the same rules.

The rules are compiled to Python from the same conditions as the row checks of files. Rules over the rows of a file
(`unique`, `before_as_of`) are none of a request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import NOT_NULL, NotAllowedWith, row_rules
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Severity
from apex_ml.contract.predicates import predicate
from apex_ml.contract.requests.derived import ComputeDerived, DerivedReader
from apex_ml.contract.requests.faults import (
    Fault,
    RefusedError,
    body_path,
    early_row,
    excerpt,
    repeated_keys,
    row_path,
    shown,
)
from apex_ml.contract.requests.model import FORMER_KEY, KEY, MAX_ROWS, NO_TEXT, field_names, request_model
from apex_ml.contract.requests.values import Cell, ValueReader
from apex_ml.json_text import json_text
from apex_ml.text import folded
from apex_ml.wording import counted, did_you_mean


@dataclass(frozen=True)
class Rows:
    """The rows of a request: values by column, all of one length, and warnings by row."""

    columns: dict[str, list[Any]]
    warnings: dict[int, list[str]]

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))


class RequestReader:
    """Reads the body of a request: `model` is its shape, for people and for OpenAPI. For one thread at a time."""

    def __init__(self, contract: Contract, compute: ComputeDerived | None = None) -> None:
        """`compute` gives the derived columns; a contract that has some needs it."""
        if contract.derived and compute is None:
            raise ValueError(f"{contract.name} has derived columns: pass what computes them")
        self._contract, self._compute = contract, compute
        self._derived = {name: DerivedReader(contract, column) for name, column in contract.derived.items()}
        self._fields = field_names(contract)
        self.model: type[BaseModel] = request_model(contract)
        self._validate = self.model.__pydantic_validator__.validate_json
        self._readers = {c.name: ValueReader(c) for c in contract.file_columns.values()}
        self._pairs = [
            (rule, rule.broken, predicate(rule.broken))
            for rule in row_rules(contract, "score", None)
            if isinstance(rule.broken, NotAllowedWith)
        ]
        self._keys = [json_text(name).encode() for name in contract.file_columns]

    def read(self, body: bytes, since: date | None = None) -> Rows:
        """Read the rows of a JSON body; none may be before `since`, a day or a time.

        Raises :class:`RefusedError` with every fault of the request and its path: the whole request is refused.
        """
        since = None if since is None else self._contract.first_time(since)
        try:
            request: Any = self._validate(body)
        except ValidationError as error:
            if (renamed := self._renamed(body, error)) is not None:
                return self.read(renamed, since)
            bare = self._without_rows(body)
            raise RefusedError([bare] if bare is not None else self._faults(body, error, since)) from None
        rows = [row.__dict__ for row in request.rows]
        # only a key with more occurrences than rows can be repeated; a level can have the same name, though
        often = any(body.count(json_text(key).encode()) > 1 for key in (KEY, FORMER_KEY))
        often = often or any(body.count(key) > len(rows) for key in self._keys)
        if often and (twice := repeated_keys(body)):
            raise RefusedError([*twice, *self._read_faults(_rows_in(from_json(body)), set(), since)])
        columns, faults, warnings = self._columns(rows)
        if since is not None and self._contract.has_timestamp:
            name = self._contract.timestamp
            days = enumerate(columns[name])
            faults += [
                (place, early_row(place, name, day, since)) for place, day in days if day is not None and day < since
            ]
        for place, fault, severity in self._broken_pairs(columns):
            if severity == "error":
                faults.append((place, fault))
            else:
                warnings.setdefault(place, []).append(f"{fault.path.split('.', 1)[1]}: {fault.rule}")
        if faults:
            raise RefusedError([fault for _, fault in sorted(faults, key=lambda f: f[0])])
        return Rows(columns, warnings)

    def _columns(
        self, rows: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], list[tuple[int, Fault]], dict[int, list[str]]]:
        """The values of every column, the faults of single values, and the warnings, by row."""
        columns: dict[str, list[Any]] = {}
        faults: list[tuple[int, Fault]] = []
        warnings: dict[int, list[str]] = {}
        wrong: set[tuple[int, str]] = set()
        for name, reader in self._readers.items():
            field = self._fields[name]
            columns[name], noted = reader.values([row[field] for row in rows])
            for place, cell in noted:
                value = rows[place][field]
                if cell.error is not None and (value is not None or self._is_needed(name)):
                    faults.append((place, self._fault(place, name, cell.error, value)))
                    wrong.add((place, name))
                elif cell.warning is not None:
                    warnings.setdefault(place, []).append(f"{name}: {cell.warning} (found {shown(value)})")
        if self._compute is None:
            return columns, faults, warnings
        for place, name, cell in self._derived_cells(columns, wrong):
            if cell.error is not None:
                sent = [rows[place][self._fields[source]] for source in self._derived[name].sources]
                faults.append((place, self._derived_fault(place, name, cell.error, sent)))
            elif cell.warning is not None:
                warnings.setdefault(place, []).append(f"{name}: {cell.warning} (found {shown(str(cell.value))})")
        return {name: columns[name] for name in self._contract.columns}, faults, warnings

    def _derived_cells(
        self, columns: dict[str, list[Any]], wrong: Collection[tuple[int, str]]
    ) -> Iterator[tuple[int, str, Cell]]:
        """Add the derived columns; returns their values that break a rule, with row and column.

        Of a row with a fault in one of the columns that an expression reads, nothing is known about its value.
        """
        if self._compute is None:
            return
        for name, values in self._compute(columns).items():
            reader = self._derived[name]
            cells = [reader.check(value) for value in values]
            columns[name] = [cell.value for cell in cells]
            for place, cell in enumerate(cells):
                is_known = not any((place, source) in wrong for source in reader.sources)
                if is_known and (cell.error is not None or cell.warning is not None):
                    yield place, name, cell

    def _derived_fault(self, place: int, name: str, rule: str, sent: Sequence[Any]) -> Fault:
        return Fault(row_path(place, name), rule, " / ".join(map(shown, sent)), self._derived[name].remedy())

    def accepts(self, name: str, value: Any) -> bool:
        """Whether a value of JSON satisfies every rule of its column, even those that only warn."""
        reader = self._readers[name]
        return reader.takes(value) and reader.read(value)[1:] == (None, None)

    def _renamed(self, body: bytes, error: ValidationError) -> bytes | None:
        """The body with the contract's own names where it has unknown keys that only nearly are, if any may be taken.

        A key stays, and is refused, when another key matches the same column.
        """
        unknown = any(e["type"] == "extra_forbidden" for e in error.errors(include_url=False, include_input=False))
        if self._contract.match != "insensitive" or not unknown or repeated_keys(body):
            return None
        own: dict[str, str] = {folded(name): name for name in self._contract.file_columns}
        content = from_json(body)  # it was JSON, or else its keys were not known to be wrong
        changed = False
        rows = content.get(KEY, content.get(FORMER_KEY))
        for nr, row in enumerate(rows if isinstance(rows, list) else []):
            if not isinstance(row, dict):
                continue
            targets: dict[str, list[str]] = {}
            for key in map(str, row):
                targets.setdefault(own.get(folded(key), key), []).append(key)
            names = {keys[0]: name for name, keys in targets.items() if len(keys) == 1}
            if any(names.get(key, key) != key for key in row):
                rows[nr] = {names.get(key, key): value for key, value in row.items()}
                changed = True
        return to_json(content) if changed else None

    def _without_rows(self, body: bytes) -> Fault | None:
        """The one fault of a body that is a row, or a list of rows, without the object around it."""
        try:
            content = from_json(body)
        except (ValueError, RecursionError):
            return None
        rows = content if isinstance(content, list) else [content]
        own = set(map(folded, self._contract.columns))
        if not rows or not all(isinstance(o, dict) and own.intersection(map(folded, o)) for o in rows):
            return None
        if isinstance(content, dict) and {KEY, FORMER_KEY} & content.keys():
            return None
        is_list = isinstance(content, list)
        rule = f"type: {'a list of rows' if is_list else 'a row'} without an object around it"
        remedy = f'wrap it: {{"rows": {"[{…}, …]" if is_list else "[{…}]"}}}'
        return Fault("body", rule, shown(content), remedy)

    def _is_needed(self, name: str) -> bool:
        """Whether a null is a fault: one of a column that may be left out is not."""
        return self._contract.columns[name].required.score

    def _broken_pairs(self, columns: dict[str, list[Any]]) -> Iterator[tuple[int, Fault, Severity]]:
        """Every pair of values that breaks a rule, with the row's place and the rule's severity."""
        for rule, pairs, is_broken in self._pairs:
            first, second = pairs.first, pairs.second
            for place, (one, other) in enumerate(zip(columns[first], columns[second], strict=True)):
                if is_broken(one, other):
                    path = f"{row_path(place, first)} + {second}"
                    remedy = f"with {first} {one} send one of {', '.join(dict(pairs.allowed)[one])}"
                    yield place, Fault(path, rule.text, f"{one} / {other}", remedy), rule.severity

    def _fault(self, place: int, name: str, rule: str, value: Any) -> Fault:
        return Fault(row_path(place, name), rule, shown(value), self._readers[name].remedy(rule, value))

    def _faults(self, body: bytes, error: ValidationError, since: date | None) -> list[Fault]:
        """What is wrong with the shape, and with every value whose shape is right."""
        faults: list[tuple[int, Fault]] = []
        wrong: set[tuple[int, str]] = set()
        for e in error.errors(include_url=False):
            place = e["loc"][1] if len(e["loc"]) > 1 and isinstance(e["loc"][1], int) else -1
            if len(e["loc"]) > 2:
                if len(e["loc"]) > 3 and (place, str(e["loc"][2])) in wrong:
                    continue  # a value for a text column has an error for each allowed type
                wrong.add((place, str(e["loc"][2])))
            faults.append((place, self._shape_fault(place, e)))
        try:
            twice = repeated_keys(body)
            rows = _rows_in(from_json(body))
        except (ValueError, TypeError, KeyError, RecursionError):
            return [fault for _, fault in faults]
        faults += [(-1, fault) for fault in twice]
        faults += [(place, fault) for place, fault in self._read(rows, wrong, since)]
        return [fault for _, fault in sorted(faults, key=lambda f: f[0])]

    def _read_faults(self, rows: Any, wrong: set[tuple[int, str]], since: date | None) -> list[Fault]:
        return [fault for _, fault in sorted(self._read(rows, wrong, since), key=lambda f: f[0])]

    def _read(self, rows: Any, wrong: set[tuple[int, str]], since: date | None) -> Iterator[tuple[int, Fault]]:
        """Faults of the values of rows, except for values that already have a fault; adds to `wrong` what has one."""
        when = self._contract.timestamp if self._contract.has_timestamp else None
        columns: dict[str, list[Any]] = {name: [] for name in self._contract.columns}
        for place, row in enumerate(rows[:MAX_ROWS] if isinstance(rows, list) else []):
            right: dict[str, list[Any]] = {name: [None] for name in self._contract.columns}
            yield from self._read_row(place, row, wrong, right)
            for name, values in right.items():
                columns[name] += values
            (day,) = right[when] if when is not None else (None,)
            if when is not None and since is not None and day is not None and day < since:
                yield place, early_row(place, when, day, since)
            for _, fault, severity in self._broken_pairs(right):
                if severity == "error":
                    yield place, fault._replace(path=fault.path.replace(row_path(0, ""), row_path(place, ""), 1))
        for place, name, cell in self._derived_cells(columns, wrong):
            if cell.error is not None and isinstance(rows[place], dict):
                sent = [rows[place].get(source) for source in self._derived[name].sources]
                yield place, self._derived_fault(place, name, cell.error, sent)

    def _read_row(
        self, place: int, row: Any, wrong: set[tuple[int, str]], right: dict[str, list[Any]]
    ) -> Iterator[tuple[int, Fault]]:
        """Faults of the values of one row; `right` gets the others."""
        for name, reader in self._readers.items() if isinstance(row, dict) else ():
            if (place, name) in wrong:
                continue
            if name not in row or not reader.takes(row[name]):
                if name in row or self._is_needed(name):
                    wrong.add((place, name))
                continue
            cell = reader.read(row[name])
            if cell.error is None:
                right[name] = [cell.value]
            elif row[name] is not None or self._is_needed(name):
                wrong.add((place, name))
                yield place, self._fault(place, name, cell.error, row[name])

    def _shape_fault(self, place: int, error: Any) -> Fault:
        """A fault of the shape, in the words of the contract."""
        kind, loc, value = error["type"], error["loc"], error["input"]
        if loc[:1] == (FORMER_KEY,) and (len(loc) > 1 or kind != "extra_forbidden"):
            loc = (KEY, *loc[1:])  # one name for the same place
        path, about = body_path(loc[:3]), error.get("ctx", {})
        column = self._contract.columns.get(str(loc[2])) if len(loc) > 2 else None
        if kind == "json_invalid":
            rule, text = str(error["msg"]).replace("Invalid JSON", "not JSON"), excerpt(value, str(error["msg"]))
            return Fault(path, rule, text, 'send JSON in UTF-8: {"rows": [{…}]}')
        if kind == "extra_forbidden":
            known = [KEY] if len(loc) == 1 else list(self._contract.file_columns)
            name = str(loc[-1])
            if len(loc) > 1 and (derived := self._derived.get(name)) is not None:
                return Fault(path, derived.rule, shown(value), "remove it")
            rule = f"unknown key; the keys are {', '.join(known)}"
            if near := [k for k in known if folded(k) == folded(name)]:
                return Fault(path, f"{rule}; it is nearly {near[0]}", shown(value), f"write the key as {near[0]}")
            return Fault(path, rule, shown(value), f"remove it{did_you_mean(name, known)}")
        if kind == "missing":
            of = self._contract.columns.get(str(loc[-1]))
            null = ", null where nothing is known" if of is not None and of.nullable.score else ""
            return Fault(path, f"required: the key must be there{null}", "", "add the key")
        if kind in ("too_long", "too_short"):
            is_too_long = kind == "too_long"
            limit = counted(about["max_length" if is_too_long else "min_length"], "row")
            rule = f"at {'most' if is_too_long else 'least'} {limit} in a request"
            return Fault(path, rule, counted(len(value), "row"), "send more requests" if is_too_long else "send a row")
        if column is not None:
            return self._fault(place, column.name, self._rule_of(column, kind, value), value)
        if loc in ((), (KEY,)) or len(loc) == 2:
            expected = "a list of rows" if loc == (KEY,) else "an object, with keys and values"
            return Fault(path, f"type: not {expected}", shown(value), f"send {expected}")
        return Fault(path, str(error["msg"]), shown(value))

    def _rule_of(self, column: Column, kind: str, value: Any) -> str:
        """The rule of the contract that a value breaks of which pydantic says that its shape is wrong."""
        reader = self._readers[column.name]
        if value is None:
            return NOT_NULL
        if column.type == "string":
            return NO_TEXT
        if kind in ("greater_than_equal", "less_than_equal") and reader.takes(value):
            return reader.read(value).error or f"type: not {column.type}"
        return f"type: not {column.type}"


def _rows_in(content: Any) -> Any:
    """The value of a body's key for the rows, be it the former one. Raises KeyError and TypeError without one."""
    return content[KEY] if KEY in content else content[FORMER_KEY]
