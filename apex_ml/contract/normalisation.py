"""Declared changes of values, made before any check: trim, upper case, endings, whole values, formats of dates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator

from apex_ml.contract.part import ContractPart
from apex_ml.contract.written_times import has_offset, literal_offset
from apex_ml.text import trimmed

_FORMAT_PARTS = "YymdjHMSfbBaAIpz%"
"""Directives of strptime that DuckDB and Python read in the same way."""
_PARTS_OF_A_DAY = {"year": "Yy", "month": "mbBj", "day": "dj"}


class StripSuffix(ContractPart):
    """Remove an ending from a string."""

    strip_suffix: str = Field(min_length=1)


class MapValues(ContractPart):
    """Replace whole values."""

    map: dict[str, str] = Field(min_length=1)


class DateFormats(ContractPart):
    """Read dates delivered as strings, by strptime formats tried in row."""

    date_formats: tuple[str, ...] = Field(min_length=1)

    @field_validator("date_formats")
    @classmethod
    def _says_a_day(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        for form in formats:
            used = re.findall("%(.?)", form)
            if unknown := [f"%{part}" for part in used if part not in _FORMAT_PARTS]:
                known = " ".join(f"%{part}" for part in _FORMAT_PARTS)
                raise ValueError(
                    f"{form!r} has {', '.join(unknown)}, which files and requests read differently: use {known}"
                )
            lacking = [name for name, parts in _PARTS_OF_A_DAY.items() if not set(parts) & set(used)]
            if lacking:
                raise ValueError(
                    f"{form!r} has no {', no '.join(lacking)}: write a format of the whole date, as %Y-%m-%d"
                )
            if "z" in used and (used.count("z") > 1 or not has_offset(form)):
                raise ValueError(f"{form!r} has %z, which reads an offset from UTC at the end: write it once, there")
            if offset := literal_offset(form):
                raise ValueError(
                    f"{form!r} has the offset {offset} as plain text, which would be left out of the time: write"
                    f" {form.removesuffix(offset)}%z, and a timezone beside normalise"
                )
        return formats


_READABLE = {"%Y": "YYYY", "%y": "YY", "%m": "MM", "%d": "DD", "%H": "hh", "%M": "mm", "%S": "ss", "%z": "+hh:mm"}


def readable_format(form: str) -> str:
    """A format of strptime for people; directives without a usual sign stay.

    >>> readable_format("%d/%m/%Y"), readable_format("%Y-%m-%d %H:%M:%S"), readable_format("%d %b %y")
    ('DD/MM/YYYY', 'YYYY-MM-DD hh:mm:ss', 'DD %b YY')
    """
    return re.sub("%.", lambda directive: _READABLE.get(directive[0], directive[0]), form)


_Named = Literal["trim", "upper", "day_of_timestamp", "microsecond_of_timestamp"]


def _kind_of_step(step: Any) -> str | None:
    """The key of a step of `normalise`."""
    if isinstance(step, str):
        return "name" if step in get_args(_Named) else None
    if isinstance(step, ContractPart):
        return next(iter(type(step).model_fields))
    keys = step if isinstance(step, dict) else ()
    return next((key for key in ("strip_suffix", "map", "date_formats") if key in keys), None)


Normalisation = Annotated[
    Annotated[_Named, Tag("name")]
    | Annotated[StripSuffix, Tag("strip_suffix")]
    | Annotated[MapValues, Tag("map")]
    | Annotated[DateFormats, Tag("date_formats")],
    Discriminator(
        _kind_of_step,
        custom_error_type="normalise_step",
        custom_error_message="Input should be 'trim', 'upper', 'day_of_timestamp', 'microsecond_of_timestamp',"
        " {'strip_suffix': …}, {'map': …} or {'date_formats': […]}",
    ),
]


def upper(text: str) -> str:
    """Upper case letter by letter, as DuckDB does: a letter that would become two stays, except ß.

    >>> upper("lmi"), upper("ß"), upper("ñ"), upper("ŉ")
    ('LMI', 'ẞ', 'Ñ', 'ŉ')
    """
    if text.isascii():
        return text.upper()
    return "".join(u if len(u := c.upper()) == 1 else c for c in text.replace("ß", "ẞ"))


def text_steps(normalise: Iterable[Any]) -> Iterator[Callable[[str], str | None]]:
    """The steps for a string, in row. A step that returns None ends them."""
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


def key_of(step: Any) -> str:
    """A step of `normalise` as the file writes it."""
    return step if isinstance(step, str) else next(iter(type(step).model_fields))
