"""The process file: columns, modes and quirks, checked when it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from apex_ml.errors import ConfigError
from apex_ml.simulate.process_columns import (
    TYPES,
    AbsNormal,
    Branch,
    Choice,
    Column,
    Entity,
    Model,
    Target,
    Timestamp,
    Weights,
    check_names,
    check_weights,
)
from apex_ml.wording import violated_rule

DEFAULT_PROCESS = Path(__file__).with_name("orders.yaml")
Kind = TypeVar("Kind", bound=Model)


class Drift(Model):
    """A change that starts on a day: of the target's logits, of the mix of orders over an attribute, of measures."""

    day: date
    logits: dict[str, float] = {}
    mix: dict[str, Weights] = {}
    scale: dict[str, Annotated[float, Field(gt=0)]] = {}

    @model_validator(mode="after")
    def _changes_something(self) -> Drift:
        if not (self.logits or self.mix or self.scale):
            raise ValueError("state logits, mix or scale")
        if len(self.mix) > 1:
            raise ValueError("mix: one attribute at a time")
        for column, weights in self.mix.items():
            check_weights(weights, f"mix.{column}")
        return self


class Mode(Model):
    """What is added to the logits of the target's table. Empty: nothing, the table is the process."""

    effect_sd: dict[str, Annotated[float, Field(ge=0, le=10)]] = {}
    persistence: float = Field(default=0.0, ge=-10, le=10)
    trend: dict[str, Annotated[float, Field(ge=-10, le=10)]] = {}
    drift: dict[str, Drift] = {}


class QuirkSettings(Model):
    """Which columns a quirk touches, and its value or factor."""

    columns: list[str] = []
    value: str = ""
    factor: float = 1.0


class Window(Model):
    """Days of the orders, both included."""

    start: date
    end: date

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}")
        return self


class Process(Model):
    """The process that generates orders. :func:`load_process` reads it.

    Refuses unknown keys, weights that do not add up to 1, and names of columns, levels or classes that do not exist.
    """

    name: str
    window: Window
    tree: dict[str, dict[str, list[Annotated[int, Field(gt=0)]]]] = {}
    columns: dict[str, Column]
    modes: dict[str, Mode] = {}
    quirks: dict[str, QuirkSettings] = {}

    @model_validator(mode="after")
    def _names_exist(self) -> Process:
        for kind in (Entity, Timestamp, Target):
            if len(self.named(kind)) != 1:
                raise ValueError(f"columns: need one of kind {kind.__name__.lower()}, found {len(self.named(kind))}")
        if self.named(Branch) and not any(agencies for regions in self.tree.values() for agencies in regions.values()):
            raise ValueError("tree: needed by the columns of kind branch")
        known_levels: dict[str, list[str]] = {}
        for name, column in self.columns.items():
            if isinstance(column, Choice | Target) and column.given:
                check_names([column.given], known_levels, f"columns.{name}.given (choice columns above it)")
                if set(column.table) != set(known_levels[column.given]):
                    raise ValueError(f"columns.{name}.table: rows must be the levels of {column.given}")
            if isinstance(column, Choice):
                known_levels[name] = column.levels
        for name, mode in self.modes.items():
            self.check_mode(mode, f"modes.{name}")
        return self

    def check_mode(self, mode: Mode, where: str) -> None:
        """Refuse, with ValueError, a mode that names a class, attribute or measure this process does not have."""
        check_names(mode.effect_sd, self.classes, f"{where}.effect_sd")
        check_names(mode.trend, self.classes, f"{where}.trend")
        for name, drift in mode.drift.items():
            check_names(drift.logits, self.classes, f"{where}.drift.{name}.logits")
            choices = self.named(Choice)
            check_names(drift.mix, choices, f"{where}.drift.{name}.mix")
            for column, weights in drift.mix.items():
                check_names(weights, choices[column].levels, f"{where}.drift.{name}.mix.{column}")
            check_names(drift.scale, self.named(AbsNormal), f"{where}.drift.{name}.scale")

    def named(self, kind: type[Kind]) -> dict[str, Kind]:
        """The columns of one kind."""
        return {name: column for name, column in self.columns.items() if isinstance(column, kind)}

    @property
    def entity(self) -> str:
        """Name of the entity column."""
        return next(iter(self.named(Entity)))

    @property
    def timestamp(self) -> str:
        """Name of the day column."""
        return next(iter(self.named(Timestamp)))

    @property
    def target(self) -> str:
        """Name of the class column."""
        return next(iter(self.named(Target)))

    @property
    def given(self) -> str:
        """Name of the attribute the class depends on."""
        return self.named(Target)[self.target].given

    @property
    def classes(self) -> list[str]:
        """Classes in the order of the file."""
        return self.named(Target)[self.target].classes

    @property
    def types(self) -> dict[str, Literal["string", "int64", "double", "date"]]:
        """The contract's type of every column, in the order of the files."""
        return {name: TYPES[type(column)] for name, column in self.columns.items()}

    def mode(self, name: str) -> Mode:
        """One mode by name; ConfigError lists the known ones."""
        if name not in self.modes:
            raise ConfigError(f"mode {name!r}: unknown; {self.name} has {', '.join(self.modes) or 'none'}")
        return self.modes[name]


def explain(error: ValidationError) -> str:
    """One line for at most five violations: key and rule."""
    faults = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {violated_rule(e)}" for e in error.errors()]
    return "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")


def load_process(path: Path = DEFAULT_PROCESS) -> Process:
    """Read and check a process file.

    Raises ConfigError that names the file, the key and the rule.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"process file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"process file {path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return Process.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"process file {path}: {explain(error)}") from error


def override_mode(process: Process, name: str, settings: Iterable[str]) -> Mode:
    """Mode `name`, changed by `key=value` settings: dotted keys, values in YAML, `null` removes a key.

    Raises ConfigError for a setting without '=', an unknown key, class or column, or a value out of range.

    >>> override_mode(load_process(), "signal", ["persistence=0.2", "drift=null"]).persistence
    0.2
    """
    content: dict[str, Any] = process.mode(name).model_dump()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"setting {setting!r}: write it as key=value, for example persistence=0.5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"setting {setting!r}: the value is not YAML") from error
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"setting {setting!r}: {parent} holds a value, not keys")
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return build_mode(process, content)


def build_mode(process: Process, content: Mapping[str, object]) -> Mode:
    """A mode from plain values, checked against the process; ConfigError otherwise."""
    try:
        mode = Mode.model_validate(content)
        process.check_mode(mode, "mode")
    except ValidationError as error:
        raise ConfigError(f"mode of {process.name}: {explain(error)}") from error
    except ValueError as error:
        raise ConfigError(f"mode of {process.name}: {error}") from error
    return mode
