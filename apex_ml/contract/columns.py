"""A column of the raw data: its type, role, normal form, domain and checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from apex_ml.contract.checks import Check, PatternCheck
from apex_ml.contract.column_types import (
    CLASS_TYPES,
    LEVEL_TYPES,
    NUMBERS,
    Bound,
    ColumnType,
    Level,
    arrow_type_of,
    level_value,
    levels_as_text,
)
from apex_ml.contract.domain import Domain, name_faults
from apex_ml.contract.expressions import Expression, parse_expression, shown_expression
from apex_ml.contract.normalisation import DateFormats, MapValues, Normalisation, StripSuffix, key_of, text_steps
from apex_ml.contract.part import ContractPart, ContradictionError
from apex_ml.contract.per_use import ALWAYS, NEVER, USES, BoolPerUse
from apex_ml.contract.roles import Role
from apex_ml.contract.written_times import UTC_NAMES, has_offset, literal_utc
from apex_ml.wording import did_you_mean

KEY_TYPES = ("string", "int64", "date", "timestamp")
"""Types of keys: their values are equal exactly when their texts are."""
_AS_LEVELS = {
    "string": "",
    "boolean": ": write true or false",
    "int64": ": write whole numbers, as 3",
    "decimal": ": write numbers with no more decimals than the column has",
    "date": ": write dates, as 2024-12-31",
    "double": ": write numbers, as 0.5",
    "timestamp": ": write times, as 2024-12-31 12:00:00",
}
_BOUNDS = {
    "string": "use a pattern or a domain",
    "boolean": "use a domain",
    "date": "write dates, as 2024-12-31",
    "timestamp": "write times, as 2024-12-31 12:00:00",
}
"""How to write a range of a type; without an entry: as numbers."""


class Column(ContractPart):
    """One column of the raw data."""

    name: str = ""
    description: str = Field(min_length=1)
    type: ColumnType
    role: Role
    unit: str | None = None
    decimals: int | None = Field(None, ge=0, le=9, description="Decimals of a decimal, or of a double measure.")
    identifier: bool = Field(False, description="An identifier is a feature only if the contract lists it.")
    derive: str | None = Field(
        None,
        exclude_if=lambda expression: expression is None,
        description="Expression of DuckDB over other columns of the row, as make_date(year, month, day). The column is"
        " then in no file: its values are computed, cast to the type, normalised and checked.",
    )
    required: BoolPerUse = Field(ALWAYS, description="The column must be in the file.")
    nullable: BoolPerUse = Field(NEVER, description="A value may be null.")
    normalise: tuple[Normalisation, ...] = ()
    domain: Domain | None = None
    encoding: Literal["levels", "frequency"] = Field(
        "levels",
        exclude_if=lambda encoding: encoding == "levels",
        description="How a model sees the texts of an attribute without a domain. levels: each of them is learned as a"
        " level. frequency: as the share of the training rows that have the text, 0 for an unknown one.",
    )
    min_level_rows: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda rows: rows is None,
        description="Training rows that a learned level needs; one with fewer counts as unknown. By default 1, and 5"
        " for xgboost_native.",
    )
    checks: tuple[Check, ...] = ()
    timezone: str | None = Field(
        None,
        description="IANA time zone. Of a date: turns instants into days, unless the file names its own."
        " Of a timestamp: makes it an instant; without a zone it is a time on a clock.",
    )

    @property
    def expression(self) -> Expression | None:
        """The expression of a derived column; None for a column of the file."""
        return None if self.derive is None else parse_expression(self.derive)

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow type of the column after the cast."""
        return arrow_type_of(self.type, self.decimals, self.timezone)

    @property
    def is_instant(self) -> bool:
        """Whether its values are points in time, rather than times on a clock without a zone."""
        return self.type == "timestamp" and self.timezone is not None

    @property
    def is_categorical(self) -> bool:
        """Whether its values are levels for a model, rather than numbers."""
        return self.type in ("string", "boolean") or self.domain is not None

    @property
    def level_values(self) -> tuple[Level, ...]:
        """The levels of the domain as values of the column's type."""
        texts = self.domain.value_texts if self.domain else ()
        values = [level_value(self.type, self.decimals, text, self.timezone) for text in texts]
        return tuple(value for value in values if value is not None)

    def bound(self, written: float | date | None) -> Bound | None:
        """A bound of a range as a value of the column's type, with which its values are compared exactly."""
        if self.type == "decimal" and isinstance(written, int | float):
            return Decimal(repr(written))
        if self.type == "timestamp" and isinstance(written, date):
            moment = written if isinstance(written, datetime) else datetime.combine(written, time())
            if self.timezone is None or moment.tzinfo is not None:
                return moment
            return moment.replace(tzinfo=ZoneInfo(self.timezone))
        return written

    @property
    def scale(self) -> int:
        """Number of smallest units in one unit of a measure, a power of ten."""
        return int(10 ** (self.decimals or 0))

    @model_validator(mode="before")
    @classmethod
    def _read_levels(cls, data: Any) -> Any:
        domain = data.get("domain") if isinstance(data, dict) else None
        if isinstance(domain, dict) and "values" in domain:
            raise ContradictionError([(("domain", "values"), "not permitted: no such key here; remove it")])
        if isinstance(domain, dict) and data.get("type") == "string" and isinstance(domain.get("levels"), dict):
            text = "levels of type string need no names: write a list, and name them with normalise: [{map: {…}}]"
            raise ContradictionError([(("domain", "levels"), text)])
        return levels_as_text(data)

    @field_validator("derive")
    @classmethod
    def _on_one_line(cls, derive: str | None) -> str | None:
        expression = None if derive is None else parse_expression(derive)
        return derive if expression is None or expression.faults else expression.text

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if faults := list(self._faults()):
            raise ContradictionError([((), text) for text in faults])
        return self

    def _faults(self) -> Iterator[str]:
        yield from self._expression_faults()
        yield from self._normalisation_faults()
        yield from self._timezone_faults()
        yield from self._domain_faults()
        yield from self._check_faults()
        if self.decimals is not None and self.type not in NUMBERS:
            yield f"decimals need a number type, not {self.type}: remove them"
        if self.decimals is None and self.type == "decimal":
            yield "a decimal needs decimals, the number of digits behind the point: add them"
        yield from self._encoding_faults()
        yield from self._role_faults()
        for use in USES:
            if not self.required.on(use) and not self.nullable.on(use):
                yield (
                    f"not required for {use} but not nullable: an absent column is filled with nulls;"
                    f" make it nullable for {use}, too"
                )
        if self.role in ("entity", "timestamp", "key") and (self.nullable.train or self.nullable.score):
            yield f"the {self.role} cannot be nullable: every row needs one; remove nullable"

    def _expression_faults(self) -> Iterator[str]:
        if self.expression is None:
            return
        yield from (f"derive: {shown_expression(self.derive)}: {fault}" for fault in self.expression.faults)
        if "required" in self.model_fields_set:
            yield "a derived column is in no file: remove required"
        if self.role == "ignore":
            yield "nothing would use a derived column of the role ignore: give it another role"

    def _normalisation_faults(self) -> Iterator[str]:
        for step in self.normalise:
            if self.type != "string" and (isinstance(step, StripSuffix | MapValues) or step in ("trim", "upper")):
                yield f"normalise {key_of(step)} is for strings, the type is {self.type}: remove it"
            of_times = ("date", "timestamp") if isinstance(step, DateFormats) else ("date",)
            if self.type not in of_times and (isinstance(step, DateFormats) or step == "day_of_timestamp"):
                yield f"normalise {key_of(step)} is for dates, the type is {self.type}: remove it"
            if step == "microsecond_of_timestamp" and self.type != "timestamp":
                yield f"normalise {step} is for timestamps, the type is {self.type}: remove it"
            if isinstance(step, DateFormats):
                yield from self._offset_faults(step.date_formats)

    def _offset_faults(self, formats: Iterable[str]) -> Iterator[str]:
        """A time with an offset is an instant, which no clock may read as another one."""
        for form in formats:
            if has_offset(form) and self.timezone is None:
                clock = "" if self.type == "timestamp" else ", the zone on whose clock its days are"
                yield f"the format {form!r} reads instants: add timezone: UTC, or another zone{clock}"
            utc = literal_utc(form)
            if utc is not None and self.timezone not in (None, *UTC_NAMES):
                yield (
                    f"the format {form!r} has {utc} as plain text, so that its times would be read on the clock of"
                    f" {self.timezone}: write %z in the place of {utc}"
                )

    def _timezone_faults(self) -> Iterator[str]:
        if self.timezone is None:
            return
        if self.type not in ("date", "timestamp"):
            yield f"a timezone is for dates and timestamps, the type is {self.type}: remove it"
        elif self.timezone not in (zones := available_timezones()):
            hint = did_you_mean(self.timezone, zones)
            yield f"timezone {self.timezone!r} is no IANA zone, such as Europe/Madrid{hint}"

    def _domain_faults(self) -> Iterator[str]:
        if self.domain is None:
            return
        if self.type not in (CLASS_TYPES if self.role == "target" else LEVEL_TYPES):
            types = " or ".join(LEVEL_TYPES)
            yield f"a domain of levels needs type {types}, not {self.type}: use a range, or type: string"
            return
        yield from name_faults(self.domain, self.type, self.decimals, self.timezone)
        for level in self.domain.value_texts:
            if level_value(self.type, self.decimals, level, self.timezone) is None:
                yield f"the level {level!r} is no value of type {self.type}{_as_level(self)}"
                continue
            if (normal := self.normal_form(level)) != level:
                yield (
                    f"the level {level!r} never occurs, as normalise makes it {normal!r}:"
                    + (" remove it" if normal in self.domain.levels else f" write the level as {normal!r}")
                )

    def _encoding_faults(self) -> Iterator[str]:
        for key in ("encoding", "min_level_rows"):
            if getattr(self, key) in ("levels", None):
                continue
            if self.type != "string" or self.role != "attribute":
                yield f"{key} is for attributes of type string, this is {self.role} of type {self.type}: remove it"
            elif self.domain is not None:
                yield f"{key} is for texts that a model learns, but the domain declares the levels: remove one of both"

    def _check_faults(self) -> Iterator[str]:
        for check in self.checks:
            if isinstance(check, PatternCheck):
                if self.type != "string":
                    yield f"a pattern needs type string, not {self.type}: use a range, or type: string"
                continue
            bounds = [b for b in (check.min, check.max) if b is not None]
            if not all(self._can_bound(bound) for bound in bounds):
                written = ", ".join(map(str, bounds))
                remedy = _BOUNDS.get(self.type, "write numbers")
                yield f"the range [{written}] does not fit type {self.type}: {remedy}"

    def _can_bound(self, bound: float | date) -> bool:
        if self.type == "date":
            return isinstance(bound, date) and not isinstance(bound, datetime)
        if self.type == "timestamp":
            has_zone = isinstance(bound, datetime) and bound.tzinfo is not None
            return isinstance(bound, date) and not (has_zone and self.timezone is None)
        return self.type in NUMBERS and not isinstance(bound, date)

    def _role_faults(self) -> Iterator[str]:
        if self.role == "timestamp" and self.type not in ("date", "timestamp"):
            yield f"the timestamp column needs type date or timestamp, not {self.type}: write one of them"
        if self.role == "key" and self.type not in KEY_TYPES:
            yield f"a key needs type {' or '.join(KEY_TYPES)}, not {self.type}"
        if self.role == "target":
            yield from self._target_faults()
        if self.role == "measure" and self.type == "double" and self.decimals is None:
            yield "a double measure needs decimals, so that its sums do not depend on the order of rows: add them"

    def _target_faults(self) -> Iterator[str]:
        if self.domain is None:
            yield "the target needs a domain: its levels are the classes; add domain: {levels: […], closed: …}"
            return
        if len(self.domain.levels) < 2:
            yield f"the target has the one class {self.domain.levels[0]}: add the others to the levels"
        if not self.domain.closed.train or self.nullable.train or not self.required.train:
            yield (
                "a model learns from rows whose class is known: for train make the target required, closed and not"
                " nullable"
            )

    def normal_form(self, text: str) -> str | None:
        """A string after `normalise`; None if it becomes null."""
        value: str | None = text
        for step in text_steps(self.normalise):
            if value is not None:
                value = step(value)
        return value


def _as_level(column: Column) -> str:
    """How levels of the type are written."""
    zone = column.type == "timestamp" and column.timezone is None
    return _AS_LEVELS[column.type] + (", without a zone, as the column has no timezone" if zone else "")
