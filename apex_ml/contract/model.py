"""The contract of a data set: read a YAML file, and refuse contradictions with file, line and key.

All code that depends on the columns of the data set uses this model. The model is frozen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, ValidationError, model_validator
from pydantic_core import to_json

from apex_ml.contract.batch import Batch, Quarantine
from apex_ml.contract.colliding_recipes import colliding_recipes
from apex_ml.contract.columns import Column
from apex_ml.contract.contradictions import Parts
from apex_ml.contract.fault_text import explain_errors
from apex_ml.contract.features import Features
from apex_ml.contract.file_format import PARQUET, FileFormat
from apex_ml.contract.former_names import replace_former_names, with_former_names
from apex_ml.contract.identity import ContractIdentity
from apex_ml.contract.names import ROW_DAY, ROW_IDENTITY, name_faults
from apex_ml.contract.options import Wording
from apex_ml.contract.part import ContradictionError, Place
from apex_ml.contract.policy import Promotion
from apex_ml.contract.reading import ContractFile
from apex_ml.contract.roles import ROLES_OF_A_DROP, Role
from apex_ml.contract.rules import Rule
from apex_ml.contract.salvage import cause_of, hidden_contradictions, with_name, without_ignored
from apex_ml.contract.split import Split
from apex_ml.contract.time_units import MICROSECONDS_A_DAY, MICROSECONDS_AN_HOUR
from apex_ml.json_text import json_text


class Contract(Wording):
    """The contract of a data set. :func:`load_contract` reads it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    description: str
    match: Literal["exact", "insensitive"] = Field(
        "exact",
        description="Matching of column names. exact: a similar name is refused. insensitive: case,"
        " blanks, underscores and invisible characters do not count.",
    )
    extra: Literal["ignore", "report", "refuse"] = Field(
        "ignore",
        exclude_if=lambda extra: extra == "ignore",
        description="Columns of a file that the contract does not mention: ignore (only the log lists them), report"
        " (a warning of the file), or refuse the file.",
    )
    repeated_keys: Literal["latest", "refuse"] = Field(
        "refuse",
        exclude_if=lambda rule: rule == "refuse",
        description="Several raw rows of one key: latest takes the one with the newest timestamp, of the same time the"
        " last one in the order of files and rows; refuse fails the run.",
    )
    ignored: tuple[str, ...] = Field(
        (),
        exclude_if=lambda names: not names,
        description="Columns that are not read; the same as columns with the role ignore.",
    )
    files: FileFormat = Field(
        PARQUET,
        exclude_if=lambda files: files == PARQUET,
        description="The format of raw files and drops: parquet, or CSV with its options.",
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
            columns, ignored = without_ignored(data["columns"])
            if ignored:
                given = data.get("ignored", ())
                data = {**data, "ignored": (*(given if isinstance(given, tuple) else ()), *ignored)}
            return {**data, "columns": {k: with_name(k, v) for k, v in columns.items()}}
        return data

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        parts = Parts(
            dict(self.columns),
            {name: column.role for name, column in self.columns.items()},
            list(enumerate(self.rules)),
            self.features.attributes,
            self.features.calendar,
            list(enumerate(self.features.history)),
            list(enumerate(self.batch.rules)),
            self.promotion.forbidden_features,
            self.match,
            self.features.grain,
            self.features.days_since,
            (self.features.history_lag_days, self.features.history_lag_hours),
        )
        faults = list(parts.contradictions())
        places = [place for place, _ in faults]
        if ("columns",) not in places:  # every role has its one column
            recipes = ("features", "history") not in [place[:2] for place in places]
            faults += name_faults(self, recipes)
            faults += colliding_recipes(self) if recipes else ()
        if faults:
            raise ContradictionError(faults)
        return self

    def _only(self, role: Role) -> Column:
        return next(c for c in self.columns.values() if c.role == role)

    @property
    def has_entity(self) -> bool:
        """Whether rows name an entity. Without it every row stands for itself."""
        return bool(self.named("entity"))

    @property
    def has_timestamp(self) -> bool:
        """Whether rows have a date. Without it no row is earlier than another."""
        return bool(self.named("timestamp"))

    @property
    def has_history(self) -> bool:
        """Whether an entity can have earlier rows: rows have an entity and a date."""
        return self.has_entity and self.has_timestamp

    @property
    def has_instants(self) -> bool:
        """Whether rows have a time of day, so that of one day some are earlier than others."""
        return self.has_timestamp and self._only("timestamp").type == "timestamp"

    @property
    def time_type(self) -> pa.DataType:
        """Arrow type of the timestamp column."""
        return self._only("timestamp").arrow_type if self.has_timestamp else pa.date32()

    @property
    def times_a_day(self) -> int:
        """Units of time of a day: 1 where rows are dated, microseconds where they have a time of day."""
        return MICROSECONDS_A_DAY if self.has_instants else 1

    @property
    def history_lag(self) -> int:
        """How long before a row the rows end that count for it, in the units of :attr:`times_a_day`."""
        if (hours := self.features.history_lag_hours) is not None:
            return hours * MICROSECONDS_AN_HOUR
        return self.features.history_lag_days * self.times_a_day

    def first_time(self, when: date) -> date:
        """A day as the timestamp column has it: where rows have a time of day, its first instant; a time unchanged."""
        first = self._only("timestamp").bound(when) if self.has_timestamp else when
        assert isinstance(first, date)
        return first

    @property
    def entity(self) -> str:
        """Name of the entity column; without one, of the column that stands for it in the examples."""
        return self._only("entity").name if self.has_entity else ROW_IDENTITY

    @property
    def timestamp(self) -> str:
        """Name of the timestamp column; without one, of the column that stands for it in the examples."""
        return self._only("timestamp").name if self.has_timestamp else ROW_DAY

    @property
    def target(self) -> str:
        """Name of the target column."""
        return self._only("target").name

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of every probability vector."""
        domain = self._only("target").domain
        assert domain is not None  # the model refuses a target without a domain
        return domain.levels

    def named(self, *roles: Role) -> tuple[str, ...]:
        """Names of the columns with one of the roles, in the contract's order."""
        return tuple(c.name for c in self.columns.values() if c.role in roles)

    @property
    def file_columns(self) -> dict[str, Column]:
        """The columns that a file holds: all but the derived ones."""
        return {name: column for name, column in self.columns.items() if column.derive is None}

    @property
    def derived(self) -> dict[str, Column]:
        """The columns that are computed from others of their row."""
        return {name: column for name, column in self.columns.items() if column.derive is not None}

    def sources(self, *roles: Role) -> tuple[str, ...]:
        """The columns that the expressions of derived columns with one of the roles read, in the contract's order."""
        read: set[str] = set()
        for column in self.columns.values():
            if column.expression is not None and column.role in roles:
                read.update(column.expression.columns(self.columns).values())
        return tuple(name for name in self.columns if name in read)

    def columns_of_drop(self) -> tuple[str, ...]:
        """The columns of a file to score, without what is known only later, in the contract's order."""
        read = self.sources(*ROLES_OF_A_DROP)
        return tuple(
            name
            for name, column in self.file_columns.items()
            if column.role in ROLES_OF_A_DROP or name in read or (column.role == "ignore" and column.required.score)
        )

    def arrow_schema(self) -> pa.Schema:
        """Arrow schema of accepted rows: every column of the contract, nullable, in the contract's order."""
        return pa.schema([pa.field(c.name, c.arrow_type) for c in self.columns.values()])

    def digest(self) -> str:
        """Sha256 of the contract's content; comments, layout of the YAML and the noun for rows do not count."""
        return hashlib.sha256(to_json(with_former_names(self.model_dump(mode="json", exclude={"rows"})))).hexdigest()

    def identity(self) -> ContractIdentity:
        """What its features and classes depend on."""
        return ContractIdentity.of(self)

    def features_digest(self) -> str:
        """Sha256 of everything that the features depend on: recipes, types and levels."""
        columns = {
            c.name: [c.type, c.role, c.decimals, *([c.derive] if c.derive else [])] for c in self.columns.values()
        }
        features = self.features.model_dump(mode="json", exclude={"suspicious_gain"})
        content = with_former_names({"features": features, "columns": columns, "classes": self.classes})
        if named := {c.name: c.domain.values for c in self.columns.values() if c.domain and c.domain.values}:
            content["values"] = named
        return hashlib.sha256(json_text(content, sort_keys=True).encode()).hexdigest()


def contract_faults(
    file: ContractFile, data: Any, schema: Callable[[], Mapping[str, Any]]
) -> tuple[Contract | None, list[tuple[Place, str]]]:
    """The contract in the data of a file, and its faults by their places; None when there are any.

    `schema` is called for advice about a fault.
    """
    replace_former_names(file)
    faults: list[tuple[Place, str]] = []
    try:
        return Contract.model_validate(data), faults
    except ValidationError as error:
        contradictions = [e for e in error.errors() if isinstance(cause_of(e), ContradictionError)]
        others = [e for e in error.errors() if e not in contradictions]
        faults += explain_errors(file, others, schema())
        faults += [((*e["loc"], *place), text) for e in contradictions for place, text in cause_of(e).faults]
        faults += hidden_contradictions(data)
    return None, faults
