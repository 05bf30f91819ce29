"""The typed model of the contract: read a YAML file, refuse contradictions with line and key.

Everything that depends on the columns of the data set starts here. The model is frozen; derive, never change.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import available_timezones

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from apex_ml.contract.names import name_faults
from apex_ml.contract.reading import ContractFile, Place, explained
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.text import folded, trimmed
from apex_ml.wording import did_you_mean

Use = Literal["train", "score"]
Severity = Literal["error", "warning"]
Role = Literal["entity", "timestamp", "target", "attribute", "measure"]
ColumnType = Literal["string", "double", "int64", "date"]
CalendarPart = Literal["day_of_week", "day_of_month", "month", "quarter", "weekend"]

USES: tuple[Use, ...] = ("train", "score")
EXACT_INTEGERS = 2**53
"""Beyond it a double no longer holds every integer."""
ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "double": pa.float64(),
    "int64": pa.int64(),
    "date": pa.date32(),
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _per_use(value: Any) -> Any:
    return value if isinstance(value, dict) else {"train": value, "score": value}


class ContradictionError(ValueError):
    """Parts of a contract disagree. `faults` are (place below the part that was read, text)."""

    def __init__(self, faults: Sequence[tuple[Place, str]]) -> None:
        super().__init__("; ".join(text for _, text in faults))
        self.faults = tuple(faults)


class _BoolPerUse(_Model):
    train: bool
    score: bool

    def on(self, use: Use) -> bool:
        """Return the value for one use."""
        return bool(getattr(self, use))


class _SeverityPerUse(_Model):
    train: Severity
    score: Severity

    def on(self, use: Use) -> Severity:
        """Return the value for one use."""
        value: Severity = getattr(self, use)
        return value


class _FloatPerUse(_Model):
    train: float = Field(ge=0, le=1)
    score: float = Field(ge=0, le=1)

    def on(self, use: Use) -> float:
        """Return the value for one use."""
        return float(getattr(self, use))


BoolPerUse = Annotated[_BoolPerUse, BeforeValidator(_per_use, json_schema_input_type=_BoolPerUse | bool)]
SeverityPerUse = Annotated[
    _SeverityPerUse, BeforeValidator(_per_use, json_schema_input_type=_SeverityPerUse | Severity)
]
FloatPerUse = Annotated[_FloatPerUse, BeforeValidator(_per_use, json_schema_input_type=_FloatPerUse | float)]
BOTH_ERROR = _SeverityPerUse(train="error", score="error")


_FORMAT_PARTS = "YymdjHMSfbBaAIp%"
"""Parts of a date that DuckDB and Python read alike, as in strptime."""
_PARTS_OF_A_DAY = {"year": "Yy", "month": "mbBj", "day": "dj"}


class StripSuffix(_Model):
    """Remove an ending from a string."""

    strip_suffix: str = Field(min_length=1)


class MapValues(_Model):
    """Replace whole values."""

    map: dict[str, str] = Field(min_length=1)


class DateFormats(_Model):
    """Read dates delivered as strings, by strptime formats tried in order."""

    date_formats: tuple[str, ...] = Field(min_length=1)

    @field_validator("date_formats")
    @classmethod
    def _says_a_day(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        for form in formats:
            used = re.findall("%(.?)", form)
            if unknown := [f"%{part}" for part in used if part not in _FORMAT_PARTS]:
                known = " ".join(f"%{part}" for part in _FORMAT_PARTS)
                raise ValueError(
                    f"{form!r} has {', '.join(unknown)}, which files and requests do not read alike: use {known}"
                )
            lacking = [name for name, parts in _PARTS_OF_A_DAY.items() if not set(parts) & set(used)]
            if lacking:
                raise ValueError(
                    f"{form!r} has no {', no '.join(lacking)}: write a format of the whole date, as %Y-%m-%d"
                )
        return formats


def _kind_of_step(step: Any) -> str | None:
    """Which change of values a part of `normalise` asks for."""
    if isinstance(step, str):
        return "name" if step in ("trim", "upper", "day_of_timestamp") else None
    if isinstance(step, _Model):
        return next(iter(type(step).model_fields))
    keys = step if isinstance(step, dict) else ()
    return next((key for key in ("strip_suffix", "map", "date_formats") if key in keys), None)


Normalisation = Annotated[
    Annotated[Literal["trim", "upper", "day_of_timestamp"], Tag("name")]
    | Annotated[StripSuffix, Tag("strip_suffix")]
    | Annotated[MapValues, Tag("map")]
    | Annotated[DateFormats, Tag("date_formats")],
    Discriminator(
        _kind_of_step,
        custom_error_type="normalise_step",
        custom_error_message="Input should be 'trim', 'upper', 'day_of_timestamp', {'strip_suffix': …}, {'map': …} or"
        " {'date_formats': […]}",
    ),
]


class Domain(_Model):
    """The levels a column may take."""

    levels: tuple[str, ...] = Field(min_length=1)
    closed: BoolPerUse = Field(description="Closed: another value is quarantined. Open: it is the unknown level.")

    @field_validator("levels")
    @classmethod
    def _distinct(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({level for level in levels if levels.count(level) > 1}):
            raise ValueError(_twice(twice))
        return levels


class RangeCheck(_Model):
    """A value lies between two bounds, both included."""

    rule: Literal["range"]
    min: float | date | None = None
    max: float | date | None = None
    severity: SeverityPerUse = BOTH_ERROR

    @field_validator("min", "max", mode="before")
    @classmethod
    def _exact(cls, bound: Any) -> Any:
        if isinstance(bound, int) and abs(bound) > EXACT_INTEGERS:
            raise ValueError(f"{bound} is more than a number holds exactly; at most {EXACT_INTEGERS} can be compared")
        return bound

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min or max: write the smallest or the largest value that is right")
        if self.min is not None and self.max is not None:
            if isinstance(self.min, date) != isinstance(self.max, date):
                raise ValueError(f"min {self.min} and max {self.max}: one is a date and the other a number")
            if self.min > self.max:  # type: ignore[operator]
                raise ValueError(f"min {self.min} is above max {self.max}: exchange them")
        return self


class PatternCheck(_Model):
    """A string matches a regular expression as a whole (RE2 syntax)."""

    rule: Literal["pattern"]
    regex: str
    severity: SeverityPerUse = BOTH_ERROR

    @field_validator("regex")
    @classmethod
    def _compiles(cls, regex: str) -> str:
        """Files are read by RE2, requests and expectations by Python: what one of them does not know is refused."""
        try:
            pc.match_substring_regex(pa.array([""]), regex)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                re.compile(regex)
        except (re.error, pa.ArrowInvalid, FutureWarning, OverflowError, RecursionError) as error:
            raise ValueError(
                f"not a regular expression that RE2 and Python read alike: {error}; found {regex!r}"
            ) from error
        if re.search(r"\{,\d+\}", regex):
            raise ValueError(
                f"not a regular expression that RE2 and Python read alike: write {{0,n}} for {{,n}} in {regex!r}"
            )
        return regex


Check = Annotated[RangeCheck | PatternCheck, Field(discriminator="rule")]


class Column(_Model):
    """One column of the raw data."""

    name: str = ""
    description: str = Field(min_length=1)
    type: ColumnType
    role: Role
    unit: str | None = None
    decimals: int | None = Field(None, ge=0, le=9, description="Decimals of a double measure; its sums are exact.")
    identifier: bool = Field(False, description="Names a thing; never a feature unless asked for.")
    required: BoolPerUse = Field(_BoolPerUse(train=True, score=True), description="The column must be in the file.")
    nullable: BoolPerUse = Field(_BoolPerUse(train=False, score=False), description="A value may be null.")
    normalise: tuple[Normalisation, ...] = ()
    domain: Domain | None = None
    checks: tuple[Check, ...] = ()
    timezone: str | None = Field(
        None, description="IANA zone on whose clock instants are read as days, where a file does not name its own."
    )

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow type of the column after the cast."""
        return ARROW_TYPES[self.type]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if faults := list(self._faults()):
            raise ContradictionError([((), text) for text in faults])
        return self

    def _faults(self) -> Iterator[str]:
        string_only = {"trim", "upper"}
        for step in self.normalise:
            if self.type != "string" and (isinstance(step, StripSuffix | MapValues) or step in string_only):
                yield f"normalise {_written(step)} is for strings, the type is {self.type}: remove it"
            if self.type != "date" and (isinstance(step, DateFormats) or step == "day_of_timestamp"):
                yield f"normalise {_written(step)} is for dates, the type is {self.type}: remove it"
        if self.timezone is not None and self.type != "date":
            yield f"a timezone is for dates, the type is {self.type}: remove it"
        elif self.timezone is not None and self.timezone not in (zones := available_timezones()):
            meant = did_you_mean(self.timezone, zones)
            yield f"timezone {self.timezone!r} is no IANA zone, such as Europe/Madrid{meant}"
        if self.domain is not None and self.type != "string":
            yield f"a domain of levels needs type string, not {self.type}: use a range, or type: string"
        elif self.domain is not None:
            for level in self.domain.levels:
                if (normal := self.normal_form(level)) != level:
                    yield (
                        f"the level {level!r} never occurs, as normalise makes it {normal!r}:"
                        + (" remove it" if normal in self.domain.levels else f" write the level as {normal!r}")
                    )
        for check in self.checks:
            if isinstance(check, PatternCheck) and self.type != "string":
                yield f"a pattern needs type string, not {self.type}: use a range, or type: string"
            if isinstance(check, RangeCheck):
                wants_date = self.type == "date"
                bounds = [b for b in (check.min, check.max) if b is not None]
                if self.type == "string" or any(isinstance(b, date) != wants_date for b in bounds):
                    written = ", ".join(map(str, bounds))
                    wanted = {"string": "use a pattern or a domain", "date": "write dates, as 2024-12-31"}
                    remedy = wanted.get(self.type, "write numbers")
                    yield f"the range [{written}] does not fit type {self.type}: {remedy}"
        if self.decimals is not None and self.type not in ("double", "int64"):
            yield f"decimals are those of a number, the type is {self.type}: remove them"
        if self.role == "timestamp" and self.type != "date":
            yield f"the timestamp column needs type date, not {self.type}: write type: date"
        if self.role == "target":
            yield from self._faults_of_a_target()
        if self.role == "measure" and self.type == "double" and self.decimals is None:
            yield "a double measure needs decimals, so that its sums do not depend on the order of rows: add them"
        for use in USES:
            if not self.required.on(use) and not self.nullable.on(use):
                yield (
                    f"not required for {use} but not nullable: an absent column is filled with nulls;"
                    f" make it nullable for {use}, too"
                )
        if self.role in ("entity", "timestamp") and (self.nullable.train or self.nullable.score):
            yield f"the {self.role} can not be nullable: every row needs one; remove nullable"

    def _faults_of_a_target(self) -> Iterator[str]:
        if self.domain is None:
            yield "the target needs a domain: its levels are the classes; add domain: {levels: […], closed: …}"
            return
        if len(self.domain.levels) < 2:
            yield f"the target has the one class {self.domain.levels[0]}: add the others to the levels"
        if not self.domain.closed.train or self.nullable.train or not self.required.train:
            yield (
                "a model learns from orders whose class is known: for train make the target required, closed and not"
                " nullable"
            )

    def normal_form(self, text: str) -> str | None:
        """A string as `normalise` leaves it; None for what becomes a null."""
        value: str | None = text
        for step in text_steps(self.normalise):
            if value is not None:
                value = step(value)
        return value


def upper(text: str) -> str:
    """Upper case letter by letter, as DuckDB has it: one that would become two stays, but for ß.

    >>> upper("lmi"), upper("ß"), upper("ñ"), upper("ŉ")
    ('LMI', 'ẞ', 'Ñ', 'ŉ')
    """
    if text.isascii():
        return text.upper()
    return "".join(u if len(u := c.upper()) == 1 else c for c in text.replace("ß", "ẞ"))


def text_steps(normalise: Iterable[Any]) -> Iterator[Callable[[str], str | None]]:
    """The changes of a string, in order; one that gives None ends them."""
    for step in normalise:
        if isinstance(step, StripSuffix):
            yield partial(_without, step.strip_suffix)
        elif isinstance(step, MapValues):
            yield partial(_mapped, step.map)
        elif step == "trim":
            yield lambda v: trimmed(v) or None
        elif step == "upper":
            yield upper


def _without(end: str, value: str) -> str:
    return value.removesuffix(end)


def _mapped(values: Mapping[str, str], value: str) -> str:
    return values.get(value, value)


def _written(step: Any) -> str:
    """A part of `normalise` as the file has it."""
    return step if isinstance(step, str) else next(iter(type(step).model_fields))


class PairsRule(_Model):
    """The value of one column limits the values of another."""

    name: str
    description: str
    rule: Literal["pairs"]
    columns: tuple[str, str]
    allowed: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(min_length=1)
    severity: SeverityPerUse = BOTH_ERROR


class BeforeAsOfRule(_Model):
    """A date lies before the moment the run looks from."""

    name: str
    description: str
    rule: Literal["before_as_of"]
    columns: tuple[str]
    severity: SeverityPerUse = BOTH_ERROR


class UniqueRule(_Model):
    """A combination of columns stands once in a file; of several equal rows the first is kept."""

    name: str
    description: str
    rule: Literal["unique"]
    columns: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)]
    severity: SeverityPerUse = BOTH_ERROR


Rule = Annotated[PairsRule | BeforeAsOfRule | UniqueRule, Field(discriminator="rule")]


class Quarantine(_Model):
    """How much of a batch may be quarantined."""

    limit: FloatPerUse


class RowCountRule(_Model):
    """The number of rows lies within a band around the median of recent batches."""

    rule: Literal["row_count"]
    low: float = Field(gt=0, le=1, description="Lowest share of the recent median.")
    high: float = Field(ge=1, description="Highest multiple of the recent median.")
    severity: Severity = "error"


class NullRateRule(_Model):
    """The share of nulls of a column exceeds the highest of recent batches by no more than a limit."""

    rule: Literal["null_rate"]
    max_rise: float = Field(ge=0, le=1)
    severity: Severity = "error"


class CategoryShareRule(_Model):
    """The share of each level of a column differs from the mean of recent batches by no more than a limit."""

    rule: Literal["category_share"]
    max_change: float = Field(gt=0, le=1)
    severity: Severity = "error"


class LoneFutureRule(_Model):
    """The newest date is not far beyond nearly all others, as it would move the moment the run looks from."""

    rule: Literal["lone_future"]
    max_days: int = Field(
        ge=1, description="Days the newest date may lie beyond the date that `share` of rows precede."
    )
    share: float = Field(0.999, gt=0.5, lt=1)
    severity: Severity = "error"


class FreshnessRule(_Model):
    """The newest date is recent by the clock on the wall. Old data is no fault of a run, so that it only warns."""

    rule: Literal["freshness"]
    max_days: int = Field(ge=0)
    severity: Literal["warning"] = "warning"


BatchRule = Annotated[
    RowCountRule | NullRateRule | CategoryShareRule | LoneFutureRule | FreshnessRule, Field(discriminator="rule")
]


class Batch(_Model):
    """What a batch of accepted rows must be beside the recent ones."""

    recent: int = Field(ge=1, description="How many earlier batches are compared with.")
    rules: tuple[BatchRule, ...] = ()


class CountRecipe(_Model):
    """Number of earlier orders."""

    recipe: Literal["count"]


class DaysSinceLastRecipe(_Model):
    """Days since the latest earlier order."""

    recipe: Literal["days_since_last"]


class LastTargetRecipe(_Model):
    """Target of the latest earlier order; of several on one day the level that stands last in the domain."""

    recipe: Literal["last_target"]


class TargetShareRecipe(_Model):
    """Share of each target level among earlier orders, smoothed towards equal shares by `smoothing` orders."""

    recipe: Literal["target_share"]
    smoothing: float = Field(gt=0)


class MeanRecipe(_Model):
    """Mean of measures over earlier orders."""

    recipe: Literal["mean"]
    columns: tuple[str, ...] = Field(min_length=1)


class TargetTrendRecipe(_Model):
    """Change of a target level's share per year over earlier orders.

    The slope of the level's indicator on time by least squares, with `shrinkage` (in squared years) added to the sum of
    squares of time; 0 when the earlier orders are of fewer than two days.
    """

    recipe: Literal["target_trend"]
    level: str
    shrinkage: float = Field(gt=0, allow_inf_nan=False)


HistoryRecipe = Annotated[
    CountRecipe | DaysSinceLastRecipe | LastTargetRecipe | TargetShareRecipe | MeanRecipe | TargetTrendRecipe,
    Field(discriminator="recipe"),
]


class Features(_Model):
    """What a model may know of an order, as of just before it."""

    grain: Literal["last_order_per_entity", "every_order"]
    history_lag_days: int = Field(0, ge=0)
    attributes: tuple[str, ...] = ()
    calendar: tuple[CalendarPart, ...] = ()
    history: tuple[HistoryRecipe, ...] = ()
    suspicious_gain: float = Field(
        0.5, gt=0, le=1, description="A feature that alone removes this share of the class prior's log loss is a leak."
    )


class Split(_Model):
    """How examples are divided."""

    class Fractions(_Model):
        """Shares of the parts."""

        train: float = Field(gt=0, lt=1)
        validation: float = Field(gt=0, lt=1)
        test: float = Field(gt=0, lt=1)

        @model_validator(mode="after")
        def _whole(self) -> Self:
            if abs(self.train + self.validation + self.test - 1) > 1e-9:
                raise ValueError(f"fractions sum to {self.train + self.validation + self.test:g}, not 1")
            return self

    fractions: Fractions
    gap_days: int = Field(0, ge=0)


class Promotion(_Model):
    """The policy of the gate. Losses are in nats an order, levels are one-sided error probabilities."""

    margin: float = Field(ge=0, description="Log loss a challenger must surely gain over the champion.")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Probability of a false promotion: a look's, or a year's.")
    mode: Literal["sequential", "single"] = Field(
        "sequential", description="sequential: alpha holds for a year of looks. single: for each look alone."
    )
    looks_a_year: int = Field(365, ge=1, description="Looks over which the sequential mode spreads half of alpha.")
    floor: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the log loss of the class shares alone that nothing honest reaches: a challenger surely"
        " below it knows the target. None: no such rule.",
    )
    max_ece: float = Field(0.05, gt=0, le=1, description="Largest classwise calibration error.")
    max_bias: float = Field(0.05, gt=0, le=1, description="Largest gap of a class's mean probability to its share.")
    collapse: float = Field(
        0.25, ge=0, lt=1, description="A class whose mean probability is below this part of its share has collapsed."
    )
    max_recall_drop: float = Field(0.05, ge=0, le=1, description="Largest fall of a class's recall.")
    segment_orders: int = Field(500, ge=1, description="Holdout orders from which on a segment is judged.")
    max_us_per_order: float = Field(1000, gt=0, description="Largest time of scoring, in microseconds an order.")
    forbidden_features: tuple[str, ...] = Field((), description="Features that no champion may use.")
    stale_after_days: int | None = Field(
        None, ge=1, description="Age of a champion from which on a challenger need only be no worse. None: never."
    )
    non_inferiority: float = Field(0.001, gt=0, description="Log loss by which such a challenger may be worse.")


class Contract(_Model):
    """A data set's contract. Made by :func:`load_contract`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    description: str
    match: Literal["exact", "insensitive"] = Field(
        "exact",
        description="How names of columns are matched. exact: a name that nearly matches is refused. insensitive: case,"
        " blanks, underscores and invisible characters do not count.",
    )
    columns: dict[str, Column]
    rules: tuple[Rule, ...] = ()
    quarantine: Quarantine
    batch: Batch
    features: Features
    split: Split
    promotion: Promotion

    @model_validator(mode="before")
    @classmethod
    def _name_columns(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("columns"), dict):
            columns = {k: _named(k, v) for k, v in data["columns"].items()}
            return {**data, "columns": columns}
        return data

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        parts = _Parts(
            dict(self.columns),
            {name: column.role for name, column in self.columns.items()},
            list(enumerate(self.rules)),
            self.features.attributes,
            self.features.calendar,
            list(enumerate(self.features.history)),
            list(enumerate(self.batch.rules)),
            self.promotion.forbidden_features,
            self.match,
        )
        faults = list(parts.contradictions())
        if ("columns",) not in [place for place, _ in faults]:  # every role has its one column
            faults += name_faults(self)
        if faults:
            raise ContradictionError(faults)
        return self

    def _only(self, role: Role) -> Column:
        return next(c for c in self.columns.values() if c.role == role)

    @property
    def entity(self) -> str:
        """Name of the entity column."""
        return self._only("entity").name

    @property
    def timestamp(self) -> str:
        """Name of the timestamp column."""
        return self._only("timestamp").name

    @property
    def target(self) -> str:
        """Name of the target column."""
        return self._only("target").name

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of every probability vector."""
        domain = self._only("target").domain
        assert domain is not None  # the model refuses a target without one
        return domain.levels

    def named(self, *roles: Role) -> tuple[str, ...]:
        """Names of the columns with one of the roles, in the contract's order."""
        return tuple(c.name for c in self.columns.values() if c.role in roles)

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of accepted rows: every column of the contract, nullable, in the contract's order."""
        return pa.schema([pa.field(c.name, c.arrow_type) for c in self.columns.values()])

    def digest(self) -> str:
        """Sha256 of the contract's content; comments and layout of the YAML do not count."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def features_digest(self) -> str:
        """Sha256 of what the features depend on: recipes, types and levels."""
        columns = {c.name: [c.type, c.role, c.decimals] for c in self.columns.values()}
        features = self.features.model_dump(mode="json", exclude={"suspicious_gain"})
        content = {"features": features, "columns": columns, "classes": self.classes}
        return hashlib.sha256(json_text(content, sort_keys=True).encode()).hexdigest()


_ONE_OF_EACH = {
    "entity": "the column that names whose orders they are",
    "timestamp": "the column that holds the date of an order",
    "target": "the column that is predicted",
}


@dataclass(frozen=True)
class _Parts:
    """What the parts of a contract say of each other; of a faulty contract those parts that can be read.

    A column that cannot be read is None, its role is then what the file says. Rules, recipes and batch rules stand
    beside their places in the file.
    """

    columns: Mapping[str, Column | None]
    roles: Mapping[str, Any]
    rules: Sequence[tuple[int, Rule]]
    attributes: Sequence[Any]
    calendar: Sequence[Any]
    history: Sequence[tuple[int, HistoryRecipe]]
    batch: Sequence[tuple[int, BatchRule]]
    forbidden: Sequence[Any]
    match: Any = "exact"

    @classmethod
    def salvaged(cls, data: Mapping[str, Any]) -> _Parts:
        """The parts of a contract that is not valid as a whole."""

        def below(*keys: str) -> Any:
            found: Any = data
            for key in keys:
                found = found.get(key) if isinstance(found, dict) else None
            return found

        def items(*keys: str) -> tuple[Any, ...]:
            found = below(*keys)
            return found if isinstance(found, tuple) else ()

        def each(kind: Any, *keys: str) -> list[tuple[int, Any]]:
            read = [(nr, _salvage(kind, value)[0]) for nr, value in enumerate(items(*keys))]
            return [(nr, value) for nr, value in read if value is not None]

        raw = data["columns"]
        return cls(
            {name: _salvage(TypeAdapter(Column), _named(name, column))[0] for name, column in raw.items()},
            {name: column.get("role") if isinstance(column, dict) else None for name, column in raw.items()},
            each(TypeAdapter(Rule), "rules"),
            items("features", "attributes"),
            items("features", "calendar"),
            each(TypeAdapter(HistoryRecipe), "features", "history"),
            each(TypeAdapter(BatchRule), "batch", "rules"),
            items("promotion", "forbidden_features"),
            data.get("match"),
        )

    def contradictions(self) -> Iterator[tuple[Place, str]]:
        """Every way in which two parts disagree, as (place of the second one, text)."""
        for role, what in _ONE_OF_EACH.items():
            names = [name for name, found in self.roles.items() if found == role]
            if len(names) != 1:
                remedy = "leave it to one of them" if names else f"give it to {what}"
                yield ("columns",), f"exactly one column has the role {role}, found {names or 'none'}: {remedy}"
        twice = {name for name, n in Counter(rule.name for _, rule in self.rules).items() if n > 1}
        by_name: dict[str, str] = {}
        for name in self.columns if self.match == "insensitive" else ():
            if (other := by_name.setdefault(folded(name), name)) != name:
                yield ("columns", name), f"match: insensitive cannot tell {name} from {other}: rename one"
        for nr, rule in self.rules:
            faults = [*self._faults_of(rule)]
            if rule.name in twice:
                faults.append("another rule has this name, too: give each its own, so that reasons can be told apart")
            yield from ((("rules", nr), f"rule {rule.name}: {fault}") for fault in faults)
        for nr, name in enumerate(self.attributes):
            if fault := self._lacks(name, "attribute"):
                yield ("features", "attributes", nr), fault
            elif name in self.attributes[:nr]:
                yield ("features", "attributes", nr), f"{name} stands twice: remove one"
        for nr, part in enumerate(self.calendar):
            if part in self.calendar[:nr]:
                yield ("features", "calendar", nr), f"{part} stands twice: remove one"
        yield from self._recipe_faults()
        yield from self._batch_faults()
        for nr, name in enumerate(self.forbidden):
            made = ("history_", *(f"{when}_" for when, role in self.roles.items() if role == "timestamp"))
            if isinstance(name, str) and name not in self.columns and not name.startswith(made):
                meant = did_you_mean(name, self.columns)
                yield ("promotion", "forbidden_features", nr), f"there is no column or feature {name}{meant}"

    def _lacks(self, name: Any, role: Role) -> str:
        """What is wrong when a name should be that of a column with a role."""
        if not isinstance(name, str) or self.roles.get(name) == role:
            return ""
        if name in self.roles and self.roles[name] not in get_args(Role):
            return ""  # the role is a fault of its own
        among = [n for n, found in self.roles.items() if found == role]
        text = f"{name} is not a column with the role {role}"
        if name in self.roles:
            return f"{text}: its role is {self.roles[name]}"
        return f"{text}: there is no such column{did_you_mean(name, among)}"

    def _recipe_faults(self) -> Iterator[tuple[Place, str]]:
        made: set[str] = set()
        target = next((c for n, c in self.columns.items() if self.roles[n] == "target"), None)
        classes = target.domain.levels if target is not None and target.domain is not None else None
        for nr, recipe in self.history:
            place: Place = ("features", "history", nr)
            names: list[str] = [recipe.recipe]
            if isinstance(recipe, MeanRecipe):
                names = [f"mean of {name}" for name in recipe.columns]
                for name in recipe.columns:
                    if fault := self._lacks(name, "measure"):
                        yield (*place, "columns"), fault
                    elif (column := self.columns[name]) is not None and column.type not in ("double", "int64"):
                        yield (
                            (*place, "columns"),
                            f"{name} is of type {column.type}, which has no mean: use double or int64",
                        )
            if isinstance(recipe, TargetTrendRecipe):
                names = [f"target_trend of {recipe.level}"]
                if classes is not None and recipe.level not in classes:
                    meant = did_you_mean(recipe.level, classes)
                    text = f"{recipe.level} is not a class; the classes are {', '.join(classes)}{meant}"
                    yield (*place, "level"), text
            for name in names:
                if name in made:
                    yield place, f"the feature {name} is made twice: remove one"
                made.add(name)

    def _batch_faults(self) -> Iterator[tuple[Place, str]]:
        shares = {rule.share: nr for nr, rule in self.batch if isinstance(rule, LoneFutureRule)}
        if len(shares) > 1:
            written = " and ".join(f"{share:g}" for share in shares)
            yield (
                ("batch", "rules", max(shares.values())),
                f"rules lone_future with the shares {written}: use the same share",
            )

    def _faults_of(self, rule: Rule) -> Iterator[str]:
        names = [] if rule.columns == "all" else list(rule.columns)
        if unknown := [n for n in names if n not in self.columns]:
            meant = "".join(did_you_mean(n, self.columns) for n in unknown)
            yield f"no such column {unknown}{meant or ': the columns are ' + ', '.join(self.columns)}"
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"the column {name} stands twice: name each once"
        known = [self.columns.get(n) for n in names]
        if isinstance(rule, PairsRule):
            pairs = {v for values in rule.allowed.values() for v in values}
            for column, levels in zip(known, (set(rule.allowed), pairs), strict=True):
                if column is not None and column.type != "string":
                    yield f"{column.name} is of type {column.type}: pairs are of strings"
                elif column is not None and column.domain and (extra := sorted(levels - set(column.domain.levels))):
                    meant = "".join(did_you_mean(level, column.domain.levels) for level in extra)
                    yield f"{extra} are not levels of {column.name}{meant or ': add them there, or remove them here'}"
                elif column is not None:
                    yield from (
                        f"{level!r} never occurs in {column.name}, as normalise makes it {normal!r}"
                        for level in sorted(levels)
                        if (normal := column.normal_form(level)) != level
                    )
        if isinstance(rule, BeforeAsOfRule) and known[0] is not None and known[0].type != "date":
            yield f"{known[0].name} is not a date: its type is {known[0].type}"


_TELLING = {"type", "role", "domain", "required", "nullable", "decimals"}
"""Keys of a column without which it may seem to contradict itself."""


def _named(name: str, column: Any) -> Any:
    return {**column, "name": name} if isinstance(column, dict) else column


def _salvage(kind: TypeAdapter[Any], data: Any) -> tuple[Any, set[Any], tuple[str, ...]]:
    """A part of a contract without those of its keys that are wrong: (part, those keys, contradictions in the rest).

    The part is None when it cannot do without them, or contradicts itself.
    """
    removed: set[Any] = set()
    while isinstance(data, dict):
        try:
            return kind.validate_python(data), removed, ()
        except ValidationError as error:
            contradiction = next((c for c in map(_cause, error.errors()) if isinstance(c, ContradictionError)), None)
            if contradiction is not None:
                return None, removed, tuple(text for _, text in contradiction.faults)
            wrong = {part for e in error.errors() for part in e["loc"][:2] if part in data}
            if not wrong:
                break
            removed |= wrong
            data = {key: value for key, value in data.items() if key not in wrong}
    return None, removed, ()


@lru_cache(maxsize=8)
def _load(path: Path, content: bytes) -> Contract:
    file = ContractFile.read(path, content)
    faults: list[tuple[Place, str]] = []
    contract: Contract | None = None
    try:
        contract = Contract.model_validate(file.data)
    except ValidationError as error:
        contradictions = [e for e in error.errors() if isinstance(_cause(e), ContradictionError)]
        others = [e for e in error.errors() if e not in contradictions]
        faults += explained(file, others, Contract.model_json_schema(mode="validation"))
        faults += [((*e["loc"], *place), text) for e in contradictions for place, text in _cause(e).faults]
        faults += _hidden(file.data)
    if contract is None or faults or file.faults or file.odd:
        raise file.refuse(faults)
    return contract


def _cause(error: Any) -> Any:
    return error.get("ctx", {}).get("error")


def _hidden(data: Any) -> Iterator[tuple[Place, str]]:
    """Contradictions that pydantic does not come to, as other keys of the same part are wrong."""
    columns = data.get("columns") if isinstance(data, dict) else None
    if not isinstance(columns, dict):
        return
    for name, column in columns.items():
        twice, kept = _readable_levels(column)
        if twice:
            yield ("columns", name, "domain", "levels"), _twice(twice)
        _, removed, texts = _salvage(TypeAdapter(Column), _named(name, kept))
        if not removed & _TELLING:
            yield from ((("columns", name), text) for text in texts)
    yield from _Parts.salvaged(data).contradictions()


def _readable_levels(column: Any) -> tuple[list[str], Any]:
    """Levels that stand twice, and the column with each of its levels that is a text once."""
    domain = column.get("domain") if isinstance(column, dict) else None
    if not isinstance(domain, dict) or not isinstance(levels := domain.get("levels"), tuple):
        return [], column
    counts = Counter(level for level in levels if isinstance(level, str))
    twice = sorted(level for level, times in counts.items() if times > 1)
    if len(counts) < 2:  # of what cannot be read, one may be the second class
        return twice, column
    return twice, {**column, "domain": {**domain, "levels": tuple(counts)}}


def _twice(levels: Sequence[str]) -> str:
    return f"levels stand twice: {levels}"


def load_contract(path: Path) -> Contract:
    """Read a contract.

    Raises :class:`~apex_ml.errors.ConfigError` naming file, line, key and rule for every fault at once.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"APEX_CONTRACT={path}: cannot be read: {error.strerror}; set it to a contract, a YAML file"
        ) from error
    return _load(path, content)


def json_schema() -> str:
    """JSON Schema of contract files, for editors."""
    schema = Contract.model_json_schema(mode="validation")
    schema["title"] = "A contract of Apex"
    return json_text(schema, indent=1, sort_keys=True) + "\n"
