"""Contradictions between the parts of a contract, with their places in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from apex_ml.contract.batch import BatchRule, FreshnessRule, FutureDateOutlierRule
from apex_ml.contract.columns import Column
from apex_ml.contract.expressions import MAX_FAULTS, shown_expression, unknown_name
from apex_ml.contract.history_lag import lag_faults
from apex_ml.contract.part import Place
from apex_ml.contract.recipes.interface import Recipe
from apex_ml.contract.roles import ROLES_OF_A_DROP, Role
from apex_ml.contract.rules import BeforeAsOfRule, PairsRule, Rule
from apex_ml.text import folded
from apex_ml.wording import did_you_mean

TIMES = ("date", "timestamp")
"""Types of columns that have a place in time."""

_ONE_OF_EACH = {
    "entity": "the column with the entity of a row",
    "timestamp": "the column with the date of a row",
    "target": "the column that is predicted",
}
_OPTIONAL: tuple[Literal["entity", "timestamp"], ...] = ("entity", "timestamp")


@dataclass(frozen=True)
class Parts:
    """The parts of a contract that refer to each other. Of a faulty contract these are the readable parts.

    A column that cannot be read is None; its role is then taken from the file. Rules, recipes and batch rules have
    their places in the file.
    """

    columns: Mapping[str, Column | None]
    roles: Mapping[str, Any]
    rules: Sequence[tuple[int, Rule]]
    attributes: Sequence[Any]
    calendar: Sequence[Any]
    history: Sequence[tuple[int, Recipe]]
    batch: Sequence[tuple[int, BatchRule]]
    forbidden: Sequence[Any]
    match: Any = "exact"
    grain: Any = None
    days_since: Sequence[Any] = ()
    lag: tuple[Any, Any] = (0, None)
    """In days and in hours."""
    incomplete: frozenset[int] = frozenset()
    """Recipes of which a key cannot be read: what they would make is not known."""

    def contradictions(self) -> Iterator[tuple[Place, str]]:
        """Every contradiction of two parts, as (place of the second one, text)."""
        yield from self._column_faults()
        yield from self._expression_faults()
        yield from self._rule_faults()
        yield from self._attribute_faults()
        yield from lag_faults(*self.lag, self._when())
        yield from self._recipe_faults()
        yield from self._batch_faults()
        yield from self._absent_role_faults()
        whens = [name for name, role in self.roles.items() if role == "timestamp"]
        keys = ["_".join(recipe.scope.by) for _, recipe in self.history if recipe.scope.by]
        prefixes = ("history_", "days_since_", *(f"{name}_" for name in (*whens, *keys)))
        for nr, name in enumerate(self.forbidden):
            if isinstance(name, str) and name not in self.columns and not name.startswith(prefixes):
                hint = did_you_mean(name, self.columns)
                yield ("promotion", "forbidden_features", nr), f"there is no column or feature {name}{hint}"

    def _column_faults(self) -> Iterator[tuple[Place, str]]:
        for role, what in _ONE_OF_EACH.items():
            names = [name for name, assigned in self.roles.items() if assigned == role]
            if not names and self._lacks_a_role():
                continue
            if len(names) != 1 and (names or role not in _OPTIONAL):
                remedy = "leave it to one of them" if names else f"give it to {what}"
                yield ("columns",), f"exactly one column has the role {role}, found {names or 'none'}: {remedy}"
        by_name: dict[str, str] = {}
        for name in self.columns if self.match == "insensitive" else ():
            if (other := by_name.setdefault(folded(name), name)) != name:
                yield ("columns", name), f"match: insensitive cannot distinguish {name} from {other}: rename one"

    def _lacks_a_role(self) -> bool:
        """Whether the role of some column cannot be read, which is a fault of its own: it may be any role."""
        return any(role not in get_args(Role) for role in self.roles.values())

    def _expression_faults(self) -> Iterator[tuple[Place, str]]:
        for name, column in self.columns.items():
            if column is None or column.expression is None or column.expression.faults:
                continue
            sources = column.expression.columns(self.columns)
            faults = [unknown_name(n, self.columns) for n in column.expression.names if n not in sources]
            if not column.expression.names:
                faults.append("it names no column: a value that is the same in every row is no column")
            for source in sources.values():
                other = self.columns[source]
                if other is not None and other.derive is not None:
                    itself = "itself" if source == name else f"{source}, which is derived too"
                    faults.append(f"it reads {itself}: an expression reads columns of the file; write it out")
                elif column.role in ROLES_OF_A_DROP and self.roles[source] in ("target", "measure"):
                    faults.append(
                        f"it reads the {self.roles[source]} {source}, which is not known when a row is scored: give"
                        f" {name} the role measure or target"
                    )
            yield from (
                (("columns", name, "derive"), f"{shown_expression(column.derive)}: {fault}")
                for fault in faults[:MAX_FAULTS]
            )

    def _absent_role_faults(self) -> Iterator[tuple[Place, str]]:
        """Parts that need an entity or a timestamp where no column has this role."""
        absent = [role for role in _OPTIONAL if role not in self.roles.values()]
        if not absent or self._lacks_a_role():
            return
        need = " or ".join(f"a column with the role {role}" for role in absent)
        if self.history:
            yield ("features", "history"), f"a history needs {need}: give the role to one, or remove history"
        if self.grain == "last_row_per_entity":
            yield ("features", "grain"), f"the last row of an entity needs {need}: write grain: every_row"
        if "timestamp" in absent:
            if self.calendar:
                yield ("features", "calendar"), f"parts of the date need {need}: remove calendar"
            if self.days_since:
                yield ("features", "days_since"), f"days since a date need {need}: remove days_since"
            for nr, rule in self.batch:
                if isinstance(rule, FutureDateOutlierRule | FreshnessRule):
                    yield ("batch", "rules", nr), f"the rule {rule.rule} needs {need}: remove it"

    def _rule_faults(self) -> Iterator[tuple[Place, str]]:
        names = Counter(rule.name for _, rule in self.rules)
        for nr, rule in self.rules:
            faults = [*self._faults_of(rule)]
            if names[rule.name] > 1:
                faults.append("another rule has the same name: rename one, so that their reasons differ")
            yield from ((("rules", nr), f"rule {rule.name}: {fault}") for fault in faults)

    def _attribute_faults(self) -> Iterator[tuple[Place, str]]:
        for nr, name in enumerate(self.attributes):
            if fault := self.role_fault(name, "attribute"):
                yield ("features", "attributes", nr), fault
            elif name in self.attributes[:nr]:
                yield ("features", "attributes", nr), f"{name} is listed twice: remove one"
        yield from self._days_since_faults()
        yield from self._calendar_faults()

    def _days_since_faults(self) -> Iterator[tuple[Place, str]]:
        for nr, name in enumerate(self.days_since):
            column = self.columns.get(name) if isinstance(name, str) else None
            if fault := self.role_fault(name, "attribute"):
                yield ("features", "days_since", nr), fault
            elif column is not None and column.type not in TIMES:
                yield ("features", "days_since", nr), f"{name} is neither a date nor a time: its type is {column.type}"
            elif column is not None and column.is_instant and not self._knows_instants():
                yield (
                    ("features", "days_since", nr),
                    f"{name} is an instant, and the time of a row is none: give the column with the role timestamp the"
                    " type timestamp and a timezone",
                )
            elif column is not None and column.domain is not None:
                yield (
                    ("features", "days_since", nr),
                    f"the dates of {name} are levels: remove its domain, or days_since",
                )
            elif name in self.days_since[:nr]:
                yield ("features", "days_since", nr), f"{name} is listed twice: remove one"

    def _calendar_faults(self) -> Iterator[tuple[Place, str]]:
        for nr, part in enumerate(self.calendar):
            if part in self.calendar[:nr]:
                yield ("features", "calendar", nr), f"{part} is listed twice: remove one"
            elif part == "hour" and (when := self._when()) is not None and when.type != "timestamp":
                yield (
                    ("features", "calendar", nr),
                    f"{when.name} is of type {when.type}, which has no hour: write type: timestamp, or remove hour",
                )

    def _when(self) -> Column | None:
        """The timestamp column; None without one, or when it cannot be read."""
        return next((self.columns[name] for name, role in self.roles.items() if role == "timestamp"), None)

    def _knows_instants(self) -> bool:
        when = self._when()
        return when is None or when.is_instant

    def role_fault(self, name: Any, role: Role) -> str:
        """Why a name is not a column with the role; empty when it is."""
        if not isinstance(name, str) or self.roles.get(name) == role:
            return ""
        if name in self.roles and self.roles[name] not in get_args(Role):
            return ""  # the role itself is reported as a fault
        among = [n for n, assigned in self.roles.items() if assigned == role]
        text = f"{name} is not a column with the role {role}"
        if name in self.roles:
            return f"{text}: its role is {self.roles[name]}"
        return f"{text}: the contract has no such column{did_you_mean(name, among)}"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes; None when the target cannot be read."""
        target = next((c for n, c in self.columns.items() if self.roles[n] == "target"), None)
        return target.domain.levels if target is not None and target.domain is not None else None

    def _recipe_faults(self) -> Iterator[tuple[Place, str]]:
        products: set[str] = set()
        for nr, recipe in self.history:
            place: Place = ("features", "history", nr)
            faults = [*recipe.faults(self), *recipe.scope_faults(self)]
            yield from (((*place, *below), fault) for below, fault in faults)
            for product in (f"{product}{recipe.scope.text}" for product in recipe.products()):
                if nr in self.incomplete:
                    break
                if product in products:
                    yield place, f"two recipes make the feature {product}: remove one"
                products.add(product)

    def _batch_faults(self) -> Iterator[tuple[Place, str]]:
        shares = {rule.share: nr for nr, rule in self.batch if isinstance(rule, FutureDateOutlierRule)}
        if len(shares) > 1:
            written = " and ".join(f"{share:g}" for share in shares)
            yield (
                ("batch", "rules", max(shares.values())),
                f"rules future_date_outlier with the shares {written}: use the same share",
            )

    def _faults_of(self, rule: Rule) -> Iterator[str]:
        names = [] if rule.columns == "all" else list(rule.columns)
        if unknown := [n for n in names if n not in self.columns]:
            hint = "".join(did_you_mean(n, self.columns) for n in unknown)
            yield f"no such column {unknown}{hint or ': the columns are ' + ', '.join(self.columns)}"
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"the column {name} is listed twice: name each once"
        known = [self.columns.get(n) for n in names]
        if isinstance(rule, PairsRule):
            pairs = {v for values in rule.allowed.values() for v in values}
            for column, levels in zip(known, (set(rule.allowed), pairs), strict=True):
                if column is not None and column.type != "string":
                    yield f"{column.name} is of type {column.type}: pairs are of strings"
                elif column is not None and column.domain and (extra := sorted(levels - set(column.domain.levels))):
                    hint = "".join(did_you_mean(level, column.domain.levels) for level in extra)
                    yield f"{extra} are not levels of {column.name}{hint or ': add them there, or remove them here'}"
                elif column is not None:
                    yield from (
                        f"{level!r} never occurs in {column.name}, as normalise makes it {normal!r}"
                        for level in sorted(levels)
                        if (normal := column.normal_form(level)) != level
                    )
        if isinstance(rule, BeforeAsOfRule) and known[0] is not None and known[0].type not in TIMES:
            yield f"{known[0].name} is neither a date nor a time: its type is {known[0].type}"
