"""The identity of a contract: what its features and classes depend on, without descriptions, limits and policies.

A model version keeps the identity under which it was trained. By it a later contract knows which of the model's
features can still be computed, and computes them as they were in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError

from apex_ml.contract.column_types import ColumnType
from apex_ml.contract.columns import Column
from apex_ml.contract.domain import Domain
from apex_ml.contract.features import Features
from apex_ml.contract.former_names import with_present_names
from apex_ml.contract.normalisation import Normalisation
from apex_ml.contract.part import ContractPart
from apex_ml.contract.per_use import ALWAYS
from apex_ml.contract.roles import Role
from apex_ml.json_text import json_text

if TYPE_CHECKING:
    from apex_ml.contract.model import Contract

_POLICY = {"features": {"suspicious_gain"}}
"""Keys of the parts that are limits."""


class ColumnIdentity(ContractPart):
    """What features and classes depend on in a column. `levels` are those of its domain."""

    type: ColumnType
    role: Role
    decimals: int | None = None
    levels: tuple[str, ...] | None = None
    normalise: tuple[Normalisation, ...] = ()
    timezone: str | None = None
    derive: str | None = Field(None, exclude_if=lambda expression: expression is None)
    values: tuple[str, ...] | None = Field(None, exclude_if=lambda values: values is None)
    """The values that have the levels as names."""

    @classmethod
    def of(cls, column: Column) -> Self:
        """The identity of a column."""
        return cls(
            type=column.type,
            role=column.role,
            decimals=column.decimals,
            levels=column.domain.levels if column.domain else None,
            normalise=column.normalise,
            timezone=column.timezone,
            derive=column.derive,
            values=column.domain.values if column.domain else None,
        )

    def value_of(self, level: str) -> str | None:
        """The text of the value of a level; None without this level."""
        levels = self.levels or ()
        return dict(zip(levels, self.values or levels, strict=True)).get(level)


class ContractIdentity(ContractPart):
    """The columns and the features of a contract."""

    columns: dict[str, ColumnIdentity]
    features: Features

    @classmethod
    def of(cls, contract: Contract) -> Self:
        """The identity of a contract."""
        columns = {name: ColumnIdentity.of(column) for name, column in contract.columns.items()}
        return cls(columns=columns, features=contract.features)

    def name_of(self, role: Role) -> str | None:
        """Name of the one column with this role; None without one."""
        return next((name for name, column in self.columns.items() if column.role == role), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of every probability vector."""
        target = self.name_of("target")
        return self.columns[target].levels or () if target is not None else ()

    def digest(self) -> str:
        """Sha256 of the identity; the order of the columns does not count."""
        return hashlib.sha256(json_text(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return self.model_dump(mode="json", exclude=_POLICY)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> Self | None:
        """Read the result of :meth:`as_dict`; None for none, and for one that this version of Apex cannot read."""
        if content is None:
            return None
        try:
            return cls.model_validate_json(json_text(with_present_names(content)))
        except ValidationError:  # a recipe or a type that another version of Apex has
            return None

    def applied_to(self, contract: Contract) -> Contract:
        """A contract whose columns and features are those of this identity; everything else is that of `contract`.

        A model's features are computed by it as they were in training: with the classes, the levels and the recipes of
        that time.
        """
        if self.digest() == ContractIdentity.of(contract).digest():
            return contract
        # in the order of today's file: a record of an identity keeps none, and tables and batches follow the file
        names = [*(name for name in contract.columns if name in self.columns), *self.columns]
        columns = {name: _column(name, self.columns[name], contract.columns.get(name)) for name in names}
        return contract.model_copy(update={"columns": columns, "features": self.features})


def _column(name: str, part: ColumnIdentity, today: Column | None) -> Column:
    """The column of an identity; what the identity does not have is that of the column today."""
    closed = today.domain.closed if today is not None and today.domain is not None else ALWAYS
    domain = (
        None if part.levels is None else Domain.model_construct(levels=part.levels, closed=closed, values=part.values)
    )
    base = today or Column.model_construct(  # it was checked when it was in the contract
        name=name, description="No longer in the contract.", type=part.type, role=part.role
    )
    return base.model_copy(
        update={
            "type": part.type,
            "role": part.role,
            "decimals": part.decimals,
            "domain": domain,
            "normalise": part.normalise,
            "timezone": part.timezone,
            "derive": part.derive,
        }
    )
