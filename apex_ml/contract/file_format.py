"""The format of a pipeline's raw files and drops: parquet, JSON lines, or CSV with its delimiter, quotes and nulls."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from apex_ml.contract.part import ContractPart, ContradictionError, Place

UTF8 = "utf-8"
_ONLY_CSV = "only CSV has it: write format: csv, or leave it out"
_ONLY_TEXT = "only CSV and JSON lines have it: write format: csv or format: jsonl, or leave it out"


def _check_sign(sign: str) -> str:
    if sign and (len(sign) != 1 or not sign.isascii() or sign in "\r\n\0"):
        raise ValueError(f'{sign!r} is not one ASCII character; a tab is written "\\t", in double quotes')
    return sign


def _check_encoding(name: str) -> str:
    try:
        "a".encode(name)
        codec = codecs.lookup(name)
    except LookupError as error:
        raise ValueError(f"{name!r} is no encoding of text; write utf-8, utf-16, latin-1 or cp1252") from error
    return UTF8 if codec.name == "utf-8-sig" else codec.name


Sign = Annotated[str, AfterValidator(_check_sign)]


class FileFormat(ContractPart):
    """The format of raw files and drops. A parquet file is known by its content, whatever the format says."""

    format: Literal["parquet", "csv", "jsonl"] = Field(
        "parquet",
        description="Format of raw files and drops. csv or jsonl: a file that is not parquet is read as CSV, or as JSON"
        " lines, one object a line.",
    )
    delimiter: Sign = Field(",", min_length=1, description='Character between two values. A tab is "\\t".')
    quote: Sign = Field('"', description='Character around a value. "": values have no quotes.')
    escape: Sign = Field(
        "",
        description='Character before a quote inside a value. "": the quote is doubled.',
    )
    names: tuple[str, ...] = Field(
        (),
        description="Names of the columns of files without a header, in order. Empty: the first row holds the names. A"
        " drop may leave out all columns that are known only later.",
    )
    encoding: Annotated[str, AfterValidator(_check_encoding)] = Field(
        UTF8, description="Encoding of the text: utf-8, utf-16, latin-1, cp1252 or another one that Python knows."
    )
    decimal: Literal[".", ","] = Field(
        ".", description="Decimal sign of numbers. With a comma, a number with a point is quarantined."
    )
    nulls: tuple[str, ...] = Field(
        ("",),
        description="Texts without quotes that stand for null. A text in quotes is never null, except an empty one in a"
        " column that is not text.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        faults: list[tuple[Place, str]] = []
        if self.format != "csv":
            faults += [((key,), _ONLY_CSV) for key in self._of_csv() if self._differs(key)]
        if self.format == "parquet" and self._differs("encoding"):
            faults.append((("encoding",), _ONLY_TEXT))
        signs = [self.delimiter, *filter(None, (self.quote, self.escape))]
        if len(set(signs)) < len(signs):
            if self.escape == self.quote:
                text = 'is the quote itself, which is doubled without it: write escape: ""'
                faults.append((("escape",), text))
            else:
                faults.append((("delimiter",), "is also the quote or the escape character"))
        if self.escape and not self.quote:
            faults.append((("escape",), "without a quote nothing is escaped: leave it out"))
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            faults.append((("names",), f"repeated: {', '.join(twice)}; name each column once"))
        if self.decimal == self.delimiter and not self.quote:
            faults.append((("decimal",), "is also the delimiter, and values have no quotes"))
        if faults:
            raise ContradictionError(faults)
        return self

    def _of_csv(self) -> Iterator[str]:
        """The keys that only CSV has."""
        return (key for key in type(self).model_fields if key not in ("format", "encoding"))

    def _differs(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    def as_yaml(self) -> dict[str, Any]:
        """The keys that differ from the defaults, as a pipeline's file has them."""
        return {
            key: list(value) if isinstance(value := getattr(self, key), tuple) else value
            for key in type(self).model_fields
            if self._differs(key)
        }


PARQUET = FileFormat()
