"""The typed model of the contract: read a YAML file, refuse contradictions with line and key.

Everything that depends on the columns of the data set starts here. The model is frozen; derive, never change.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from apex_ml.errors import ConfigError

Use = Literal["train", "score"]
Severity = Literal["error", "warning"]
Role = Literal["entity", "timestamp", "target", "attribute", "measure"]
ColumnType = Literal["string", "double", "int64", "date"]
CalendarPart = Literal["day_of_week", "day_of_month", "month", "quarter", "weekend"]

USES: tuple[Use, ...] = ("train", "score")
ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "double": pa.float64(),
    "int64": pa.int64(),
    "date": pa.date32(),
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _per_use(value: Any) -> Any:
    return value if isinstance(value, dict) else {"train": value, "score": value}


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


class StripSuffix(_Model):
    """Remove an ending from a string."""

    strip_suffix: str = Field(min_length=1)


class MapValues(_Model):
    """Replace whole values."""

    map: dict[str, str] = Field(min_length=1)


class DateFormats(_Model):
    """Read dates delivered as strings, by strptime formats tried in order."""

    date_formats: tuple[str, ...] = Field(min_length=1)


Normalisation = Literal["trim", "upper", "day_of_timestamp"] | StripSuffix | MapValues | DateFormats


class Domain(_Model):
    """The levels a column may take."""

    levels: tuple[str, ...] = Field(min_length=1)
    closed: BoolPerUse = Field(description="Closed: another value is quarantined. Open: it is the unknown level.")

    @field_validator("levels")
    @classmethod
    def _distinct(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({level for level in levels if levels.count(level) > 1}):
            raise ValueError(f"levels stand twice: {twice}")
        return levels


class RangeCheck(_Model):
    """A value lies between two bounds, both included."""

    rule: Literal["range"]
    min: float | date | None = None
    max: float | date | None = None
    severity: SeverityPerUse = BOTH_ERROR

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:  # type: ignore[operator]
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class PatternCheck(_Model):
    """A string matches a regular expression as a whole (RE2 syntax)."""

    rule: Literal["pattern"]
    regex: str
    severity: SeverityPerUse = BOTH_ERROR

    @field_validator("regex")
    @classmethod
    def _compiles(cls, regex: str) -> str:
        try:
            re.compile(regex)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
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

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow type of the column after the cast."""
        return ARROW_TYPES[self.type]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        string_only = {"trim", "upper"}
        for step in self.normalise:
            if self.type != "string" and (step in string_only or isinstance(step, StripSuffix | MapValues)):
                raise ValueError(f"normalise {step!r} is for strings, the type is {self.type}")
            if self.type != "date" and (step == "day_of_timestamp" or isinstance(step, DateFormats)):
                raise ValueError(f"normalise {step!r} is for dates, the type is {self.type}")
        if self.domain is not None and self.type != "string":
            raise ValueError(f"a domain of levels needs type string, not {self.type}")
        for check in self.checks:
            if isinstance(check, PatternCheck) and self.type != "string":
                raise ValueError(f"a pattern needs type string, not {self.type}")
            if isinstance(check, RangeCheck):
                wants_date = self.type == "date"
                bounds = [b for b in (check.min, check.max) if b is not None]
                if self.type == "string" or any(isinstance(b, date) != wants_date for b in bounds):
                    raise ValueError(f"the range {bounds} does not fit type {self.type}")
        if self.role == "timestamp" and self.type != "date":
            raise ValueError(f"the timestamp column needs type date, not {self.type}")
        if self.role == "target" and self.domain is None:
            raise ValueError("the target needs a domain: its levels are the classes")
        if self.role == "measure" and self.type == "double" and self.decimals is None:
            raise ValueError("a double measure needs decimals, so that its sums do not depend on the order of rows")
        for use in USES:
            if not self.required.on(use) and not self.nullable.on(use):
                raise ValueError(f"not required for {use} but not nullable: an absent column is filled with nulls")
        if self.role in ("entity", "timestamp") and (self.nullable.train or self.nullable.score):
            raise ValueError(f"the {self.role} can not be nullable")
        return self


class PairsRule(_Model):
    """The value of one column limits the values of another."""

    name: str
    description: str
    rule: Literal["pairs"]
    columns: tuple[str, str]
    allowed: dict[str, tuple[str, ...]]
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
    columns: Literal["all"] | tuple[str, ...]
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
        None, gt=0, description="Log loss that nothing honest reaches: a challenger surely below it knows the target."
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


class _ContradictionError(ValueError):
    """Two parts of a contract disagree; `place` is the key at which the second one stands."""

    def __init__(self, place: tuple[int | str, ...], text: str) -> None:
        super().__init__(text)
        self.place = place


class Contract(_Model):
    """A data set's contract. Made by :func:`load_contract`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    description: str
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
            columns = {k: {**v, "name": k} if isinstance(v, dict) else v for k, v in data["columns"].items()}
            return {**data, "columns": columns}
        return data

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for role in ("entity", "timestamp", "target"):
            names = [c.name for c in self.columns.values() if c.role == role]
            if len(names) != 1:
                raise _ContradictionError(
                    ("columns",), f"exactly one column has the role {role}, found {names or 'none'}"
                )
        for nr, rule in enumerate(self.rules):
            if fault := self._fault_of(rule):
                raise _ContradictionError(("rules", nr), f"rule {rule.name}: {fault}")
        for nr, name in enumerate(self.features.attributes):
            if name not in self.columns or self.columns[name].role != "attribute":
                raise _ContradictionError(
                    ("features", "attributes", nr), f"{name} is not a column with the role attribute"
                )
        for nr, recipe in enumerate(self.features.history):
            for name in recipe.columns if isinstance(recipe, MeanRecipe) else ():
                if name not in self.columns or self.columns[name].role != "measure":
                    raise _ContradictionError(
                        ("features", "history", nr, "columns"), f"{name} is not a column with the role measure"
                    )
            if isinstance(recipe, TargetTrendRecipe) and recipe.level not in self.classes:
                raise _ContradictionError(
                    ("features", "history", nr, "level"),
                    f"{recipe.level} is not a class; the classes are {', '.join(self.classes)}",
                )
        return self

    def _fault_of(self, rule: Rule) -> str | None:
        names = [] if rule.columns == "all" else list(rule.columns)
        if unknown := [n for n in names if n not in self.columns]:
            return f"no such column {unknown}"
        if isinstance(rule, PairsRule):
            first, second = (self.columns[n].domain for n in rule.columns)
            if first and (extra := sorted(set(rule.allowed) - set(first.levels))):
                return f"{extra} are not levels of {rule.columns[0]}"
            pairs = {v for values in rule.allowed.values() for v in values}
            if second and (extra := sorted(pairs - set(second.levels))):
                return f"{extra} are not levels of {rule.columns[1]}"
        if isinstance(rule, BeforeAsOfRule) and self.columns[rule.columns[0]].type != "date":
            return f"{rule.columns[0]} is not a date"
        return None

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
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _line_of(node: yaml.Node | None, path: tuple[int | str, ...]) -> int | None:
    """Line (from 1) of the deepest key of a path that exists in the YAML tree."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if k.value == str(part)]
            if not match:
                continue  # a name of pydantic's own, such as the branch of a union
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _tuples(data: Any) -> Any:
    """Turn the lists of YAML into the tuples that frozen models hold."""
    if isinstance(data, dict):
        return {k: _tuples(v) for k, v in data.items()}
    return tuple(_tuples(v) for v in data) if isinstance(data, list) else data


@lru_cache(maxsize=8)
def _load(path: Path, text: str) -> Contract:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = _tuples(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    try:
        return Contract.model_validate(data)
    except ValidationError as error:
        lines = []
        for e in error.errors():
            place = getattr(e.get("ctx", {}).get("error"), "place", e["loc"])
            line = _line_of(tree, place)
            where = f"{path}:{line}" if line else str(path)
            lines.append(f"{where}: {'.'.join(map(str, place)) or 'contract'}: {e['msg']}")
        raise ConfigError("the contract contradicts itself:\n  " + "\n  ".join(lines)) from error


def load_contract(path: Path) -> Contract:
    """Read a contract.

    Raises :class:`~apex_ml.errors.ConfigError` naming file, line, key and rule for every fault at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"APEX_CONTRACT={path}: cannot be read: {error.strerror}") from error
    return _load(path, text)


def json_schema() -> str:
    """JSON Schema of contract files, for editors."""
    schema = Contract.model_json_schema(mode="validation")
    schema["title"] = "A contract of Apex"
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"
