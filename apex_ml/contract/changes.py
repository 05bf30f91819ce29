"""What a change of a contract means: for the tables, for a model that was trained before it, for the pipeline."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from apex_ml.contract.columns import Column
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.expressions import shown_expression
from apex_ml.contract.history_state import LastTarget, column_of
from apex_ml.contract.identity import ColumnIdentity, ContractIdentity
from apex_ml.contract.model import Contract
from apex_ml.contract.names import calendar_name, days_since_name
from apex_ml.contract.roles import Role
from apex_ml.json_text import json_text

ChangeKind = Literal["same", "additive", "retrain", "new_pipeline"]
"""same: the identity is equal. additive: models of before can still score. retrain: a feature of before can no longer
be computed. new_pipeline: the tables cannot hold both, so that it must be a pipeline of its own."""
UNIQUE_ROLES: tuple[Role, ...] = ("entity", "timestamp", "target")


@dataclass(frozen=True)
class LostFeature:
    """A feature that cannot be computed any more."""

    feature: str
    reason: str

    def __str__(self) -> str:
        return f"the feature {self.feature} ({self.reason})"


@dataclass(frozen=True)
class ContractChange:
    """The differences of two contracts as sentences, and what follows from them."""

    differences: tuple[str, ...]
    refused: tuple[str, ...]
    """Why the tables cannot hold both."""
    lost: tuple[LostFeature, ...]
    """Features of the former contract that the present one cannot compute."""
    new_classes: tuple[str, ...]

    @property
    def kind(self) -> ChangeKind:
        """What the change means."""
        if self.refused:
            return "new_pipeline"
        if self.lost:
            return "retrain"
        return "additive" if self.differences else "same"


def compare_contracts(before: ContractIdentity, contract: Contract) -> ContractChange:
    """Compare the identity that the tables have with a contract."""
    now = ContractIdentity.of(contract)
    if before.digest() == now.digest():
        return ContractChange((), (), (), ())
    refused = tuple(_refusals(before, now))
    differences = [*_column_differences(before, now), *_feature_differences(before, now, contract)]
    lost = () if refused else lost_features(before, contract)
    new_classes = tuple(level for level in now.classes if level not in before.classes)
    return ContractChange(tuple(differences), refused, tuple(lost), () if refused else new_classes)


def other_column(role: Role, before: ContractIdentity, now: ContractIdentity) -> str | None:
    """That another column, or none, has a role of which there is at most one; None when it is the same."""
    old, new = before.name_of(role), now.name_of(role)
    return None if old == new else f"the {role} is {new or 'none'} and was {old or 'none'}"


def _refusals(before: ContractIdentity, now: ContractIdentity) -> Iterator[str]:
    for role in UNIQUE_ROLES:
        old, new = before.name_of(role), now.name_of(role)
        if moved := other_column(role, before, now):
            yield moved
        elif old is None or new is None:
            continue
        elif before.columns[old].type != now.columns[new].type:
            yield f"the {role} {new} is of type {now.columns[new].type} and was {before.columns[old].type}"
    if gone := [level for level in before.classes if level not in now.classes]:
        new_levels = [level for level in now.classes if level not in before.classes]
        instead = f"; instead there is {', '.join(new_levels)}" if new_levels else ""
        yield f"classes that no longer exist: {', '.join(gone)}{instead}"
    yield from _other_columns_of_classes(before, now)
    yield from _other_values_of_classes(before, now)
    for name, column in before.columns.items():
        other = now.columns.get(name)
        is_stored = column.role in ("attribute", "key", "passthrough")
        if is_stored and other is not None and other.role == column.role and column.type != other.type:
            yield f"the {column.role} {name} is of type {other.type} and was {column.type}"


def _other_columns_of_classes(before: ContractIdentity, now: ContractIdentity) -> Iterator[str]:
    """Classes that differ by case alone have their columns by their order."""
    new = probability_columns(now.classes)
    for level, column in probability_columns(before.classes).items():
        if new.get(level, column) != column:
            yield (
                f"the class {level} has the column {column}, and the order of the levels makes it {new[level]}: keep"
                " the levels in their order, and write new ones at the end"
            )


def _other_values_of_classes(before: ContractIdentity, now: ContractIdentity) -> Iterator[str]:
    old, new = (identity.columns.get(identity.name_of("target") or "") for identity in (before, now))
    for level in old.levels or () if old is not None and new is not None else ():
        values = old.value_of(level), new.value_of(level)  # type: ignore[union-attr]
        if None not in values and values[0] != values[1]:
            yield f"the class {level} is the value {values[1]} and was {values[0]}"


def _column_differences(before: ContractIdentity, now: ContractIdentity) -> Iterator[str]:
    for name, column in now.columns.items():
        if name not in before.columns:
            yield f"the column {name} is new ({column.role}, {column.type})"
    for name, old in before.columns.items():
        if name not in now.columns:
            yield f"the column {name} is gone ({old.role}, {old.type})"
        else:
            yield from _differences_of_column(name, old, now.columns[name])


def _differences_of_column(name: str, old: ColumnIdentity, new: ColumnIdentity) -> Iterator[str]:
    for key, one, other in (
        *(("type", old.type, new.type), ("role", old.role, new.role), ("decimals", old.decimals, new.decimals)),
        ("timezone", old.timezone, new.timezone),
    ):
        if one != other:
            yield f"the column {name}: {key} is {other or 'none'} and was {one or 'none'}"
    if old.derive != new.derive:
        yield f"the column {name} is {_derivation(new)} and was {_derivation(old)}"
    if old.normalise != new.normalise:
        yield f"the column {name}: normalise is another"
    if old.levels != new.levels:
        yield f"the column {name}: {_levels_text(old, new)}"
    elif old.values != new.values:
        yield f"the column {name}: its levels are names of other values"


def _derivation(column: ColumnIdentity) -> str:
    return "a column of the file" if column.derive is None else f"derived by {shown_expression(column.derive)}"


def _levels_text(old: ColumnIdentity, new: ColumnIdentity) -> str:
    what = "classes" if new.role == "target" else "levels"
    if old.levels is None or new.levels is None:
        return f"it has {'no ' if new.levels is None else ''}{what} now"
    added = [level for level in new.levels if level not in old.levels]
    gone = [level for level in old.levels if level not in new.levels]
    parts = [f"new {what} {', '.join(added)}"] if added else []
    parts += [f"{what} {', '.join(gone)} gone"] if gone else []
    return "; ".join(parts) or f"the {what} are in another order"


def _feature_differences(before: ContractIdentity, now: ContractIdentity, contract: Contract) -> Iterator[str]:
    old, new = _definitions(before.applied_to(contract)), _definitions(contract)
    for name in new:
        if name not in old:
            yield f"the feature {name} is new"
        elif old[name] != new[name]:
            yield f"the feature {name} is computed in another way"
    for name in old:
        if name not in new:
            yield f"the feature {name} is gone"
    if before.features.grain != now.features.grain:
        yield f"features.grain is {now.features.grain} and was {before.features.grain}"
    for key in ("history_lag_days", "history_lag_hours"):
        lag, former = getattr(now.features, key), getattr(before.features, key)
        if lag != former:
            texts = ["none" if value is None else value for value in (lag, former)]
            yield f"features.{key} is {texts[0]} and was {texts[1]}"


def _definitions(contract: Contract) -> dict[str, str]:
    """The parameters of every feature, as text."""
    features = contract.features
    defined = dict.fromkeys(features.attributes, "attribute")
    defined |= {days_since_name(name): "days_since" for name in features.days_since}
    defined |= {calendar_name(contract.timestamp, part): "calendar" for part in features.calendar}
    for recipe in features.history:
        # a recipe over several columns makes one feature of each: the others are not part of its definition
        text = json_text(recipe.model_dump(mode="json", exclude={"columns"}), sort_keys=True)
        defined |= {feature.column.name: text for feature in recipe.scoped(contract)}
    return defined


def _inputs(contract: Contract) -> dict[str, tuple[str, ...]]:
    """The columns that every feature is made of, beside the entity and the timestamp."""
    inputs: dict[str, tuple[str, ...]] = {name: (name,) for name in contract.features.attributes}
    inputs |= {days_since_name(name): (name,) for name in contract.features.days_since}
    inputs |= {calendar_name(contract.timestamp, part): () for part in contract.features.calendar}
    for recipe in contract.features.history:
        for feature in recipe.scoped(contract):
            columns = [contract.target] if any(_reads_target(state.aggregate) for state in feature.reads) else []
            aggregates = [state.aggregate for state in feature.reads]
            columns += [name for one in aggregates if (name := column_of(one)) is not None]
            columns += recipe.scope.by
            inputs[feature.column.name] = tuple(dict.fromkeys(columns))
    return inputs


def _reads_target(aggregate: object) -> bool:
    return isinstance(aggregate, LastTarget) or getattr(aggregate, "level", None) is not None


def lost_features(
    before: ContractIdentity, contract: Contract, only: Collection[str] | None = None
) -> tuple[LostFeature, ...]:
    """The features under an identity, or only some of them, that the data of a contract cannot give any more.

    A feature needs its columns with the same type and role, and a derived one with the same expression over columns of
    the same types. Another normal form, other levels and other recipes do not matter: a model's features are computed
    with its own.
    """
    lost = []
    for feature, columns in _inputs(before.applied_to(contract)).items():
        if only is not None and feature not in only:
            continue
        for name in (before.name_of("entity"), before.name_of("timestamp"), *columns):
            if name is not None and (reason := _unusable(name, before, contract)):
                lost.append(LostFeature(feature, reason))
                break
    return tuple(lost)


def _unusable(name: str, before: ContractIdentity, contract: Contract) -> str:
    """Why a column of before is not what it was; empty when it is."""
    old, now = before.columns[name], contract.columns.get(name)
    if now is None:
        return f"the contract has no column {name}"
    if now.role != old.role:
        return f"the column {name} is {now.role} and was {old.role}"
    if now.type != old.type:
        return f"the column {name} is of type {now.type} and was {old.type}"
    if now.derive != old.derive:
        return f"the column {name} is {_derivation(ColumnIdentity.of(now))} and was {_derivation(old)}"
    for source in now.expression.columns(contract.columns).values() if now.expression is not None else ():
        if (fault := _other_values(before.columns.get(source), contract.columns[source])) is not None:
            return f"the column {name} is derived from {source}, which {fault}"
    return ""


def _other_values(old: ColumnIdentity | None, now: Column) -> str | None:
    """Why an expression reads other values in a column than before; None when they are the same."""
    new = ColumnIdentity.of(now)
    if old is None:
        return "is new"
    if (new.type, new.decimals, new.timezone) != (old.type, old.decimals, old.timezone):
        return f"is of type {new.type} and was {old.type}" if new.type != old.type else "is read in another way"
    return "is normalised in another way" if new.normalise != old.normalise else None
