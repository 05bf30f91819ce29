"""Read the options of a pipeline's file without its contract, as Airflow does.

A value of the environment replaces one of the file. Its text is read as the type of that option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from apex_ml.contract.fault_text import explain_errors
from apex_ml.contract.options import SECTIONS, PipelineOptions, Wording
from apex_ml.contract.part import ContradictionError, Place
from apex_ml.contract.reading import ContractFile
from apex_ml.errors import ConfigError
from apex_ml.wording import did_you_mean, violated_rule

Faults = list[tuple[Place, str]]

LOGIN = re.compile(r"://[^/\s]*@")


@dataclass(frozen=True)
class OptionValue:
    """A value that replaces one of the file: a text, as a variable has it, or a value of Python."""

    section: str
    key: str
    value: Hashable
    variable: str
    where: str
    """Where the variable is set, for messages."""

    def __str__(self) -> str:
        """The variable with its value."""
        # a login in a URL is refused, and must not be shown
        return f"{self.variable}={LOGIN.sub('://…@', repr(self.value))}"


def opened(path: Path) -> bytes:
    """The bytes of a pipeline's file; ConfigError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the pipeline's file cannot be read: {error.strerror}") from error


def options_of(path: Path, values: tuple[OptionValue, ...] = ()) -> PipelineOptions:
    """Read the options alone. Raises as :func:`options_and_wording`."""
    return options_and_wording(path, values)[0]


def options_and_wording(path: Path, values: tuple[OptionValue, ...] = ()) -> tuple[PipelineOptions, Wording]:
    """Read the options and the pipeline's own words.

    Raises :class:`~apex_ml.errors.ConfigError` with file, line, key and rule of every fault in them.
    """
    return _parsed(path, opened(path), values)


@lru_cache(maxsize=1024)
def _parsed(path: Path, content: bytes, values: tuple[OptionValue, ...]) -> tuple[PipelineOptions, Wording]:
    file = ContractFile.read(path, content)
    options, faults = option_faults(file, values, PipelineOptions.model_json_schema)
    wording, wrong = _wording(file)
    if options is None or wording is None or faults or wrong or file.faults or file.odd:  # no step could read it
        raise file.refuse([*faults, *wrong])
    return options, wording


def _wording(file: ContractFile) -> tuple[Wording | None, Faults]:
    data = file.data if isinstance(file.data, dict) else {}
    try:
        return Wording.model_validate({name: data[name] for name in Wording.model_fields if name in data}), []
    except ValidationError as error:
        return None, explain_errors(file, error.errors(), Wording.model_json_schema())


def option_faults(
    file: ContractFile, values: tuple[OptionValue, ...], schema: Callable[[], Mapping[str, Any]]
) -> tuple[PipelineOptions | None, Faults]:
    """The options of a file and its faults in them; `schema` is called for advice about a fault.

    Raises :class:`~apex_ml.errors.ConfigError` for a value of `values` that no option accepts.
    """
    data = file.data if isinstance(file.data, dict) else {}
    sections = {name: _given(data[name]) for name in SECTIONS if data.get(name) is not None}
    for (section, key), value in typed_values(values).items():
        part = sections.get(section, {})
        if isinstance(part, dict):
            sections[section] = {**part, key: value}
    try:
        return PipelineOptions.model_validate(sections), []
    except ValidationError as error:
        faults: Faults = []
        plain = []
        for entry in error.errors():
            cause = entry.get("ctx", {}).get("error")
            if isinstance(cause, ContradictionError):
                faults += [((*entry["loc"], *place), text) for place, text in cause.faults]
            else:
                plain.append(entry)
        faults += explain_errors(file, plain, schema())
        replaced = {(value.section, value.key): value for value in values}
        return None, [
            (place, text + _replaced(replaced.get((str(place[0]), str(place[-1]))))) for place, text in faults
        ]


def _given(section: Any) -> Any:
    """A section without its empty keys: an empty one counts as absent."""
    if not isinstance(section, dict):
        return section
    return {key: value for key, value in section.items() if value is not None or not isinstance(key, str)}


def _replaced(value: OptionValue | None) -> str:
    return f" ({value}, {value.where})" if value else ""


def typed_values(values: tuple[OptionValue, ...]) -> dict[tuple[str, str], object]:
    """The values by section and key, each of the type of its option; the last one of an option wins.

    Raises :class:`~apex_ml.errors.ConfigError` with every value that its option does not accept.
    """
    typed: dict[tuple[str, str], object] = {}
    faults: list[str] = []
    winning = {(value.section, value.key): value for value in values}
    for value in winning.values():
        try:
            typed[value.section, value.key] = _typed_value(value)
        except ValidationError as error:
            rule = violated_rule(dict(error.errors()[0]))
            faults.append(f"{value}: {rule} ({value.where})")
        except ValueError as error:
            faults.append(f"{value}: {error} ({value.where})")
    if faults:
        raise ConfigError("settings: " + "; ".join(faults))
    return typed


def _typed_value(value: OptionValue) -> object:
    field = option_field(value.section, value.key)
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    given: object = value.value
    if isinstance(given, str) and _is_list(field.annotation):
        given = tuple(part.strip() for part in given.split(",") if part.strip())
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(given)


def _is_list(annotation: object) -> bool:
    return isinstance(annotation, GenericAlias) and get_origin(annotation) is tuple


def option_field(section: str, key: str) -> FieldInfo:
    """The field of an option; ValueError names the nearest section or key when there is none."""
    if section not in SECTIONS:
        raise ValueError(f"no section {section}; there are {', '.join(SECTIONS)}{did_you_mean(section, SECTIONS)}")
    part = PipelineOptions.model_fields[section].annotation
    fields: Mapping[str, FieldInfo] = getattr(part, "model_fields", {})
    if key not in fields:
        raise ValueError(f"no key {key} in {section}; there are {', '.join(fields)}{did_you_mean(key, fields)}")
    return fields[key]
