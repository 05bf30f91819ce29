"""The shape of a request, made from the contract: for pydantic, for people and for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import NotMatching, Outside, column_rules
from apex_ml.contract.model import Contract
from apex_ml.contract.normalisation import readable_format
from apex_ml.contract.requests.values import ISO_DATE, date_formats, written_time
from apex_ml.wording import counted

MAX_ROWS = 1000
KEY, FORMER_KEY = "rows", "orders"
"""The key of the rows in a request, and the one of the first edition, which is still read."""
NO_TEXT = "Input should be a string, a finite number, true or false"
_FINITE = Annotated[float, Field(allow_inf_nan=False)]
TEXT = Annotated[str | int | _FINITE | bool, Field(union_mode="left_to_right")]
"""A string in JSON. A number becomes text as the same number in a file does."""
DECIMAL = Annotated[str | int | _FINITE, Field(union_mode="left_to_right")]
"""A decimal in JSON. A number stands for its shortest decimal digits."""
_KINDS = {
    "string": TEXT,
    "date": str,
    "timestamp": str,
    "double": float,
    "int64": int,
    "boolean": bool,
    "decimal": DECIMAL,
}


def field_names(contract: Contract) -> dict[str, str]:
    """Name of each column's field, because a column's name can equal a method of pydantic."""
    return {name: f"c{place}" for place, name in enumerate(contract.file_columns)}


def request_model(contract: Contract) -> type[BaseModel]:
    """The model of a request; a row has a field for each column, with the column's name as its alias."""
    config = ConfigDict(extra="forbid", strict=True)
    names = field_names(contract)
    fields: dict[str, Any] = {names[column.name]: _field(column) for column in contract.file_columns.values()}
    for place, name in enumerate(contract.ignored):
        fields[f"ignored{place}"] = (Any, Field(None, alias=name, description="Not read."))
    row = create_model("Row", __config__=config, __doc__="A row, as in a drop.", **fields)
    rows = Field(
        min_length=1,
        max_length=MAX_ROWS,
        description=f"The rows. The former key `{FORMER_KEY}` is still read in this version.",
        validation_alias=AliasChoices(KEY, FORMER_KEY),
    )
    doc = "Rows to predict, in any order."
    return create_model("PredictRequest", __config__=config, __doc__=doc, rows=(list[row], rows))


def _field(column: Column) -> tuple[Any, Any]:
    """The type of a column's field with its limits, and its name, description and default."""
    kind: Any = _KINDS[column.type]
    if limits := _limits(column):
        kind = Annotated[kind, Field(**limits)]
    if column.nullable.score or not column.required.score:
        kind = kind | None
    default = ... if column.required.score else None
    return kind, Field(default, alias=column.name, description=_description(column), json_schema_extra=_extra(column))


def _description(column: Column) -> str:
    text = column.description
    if column.unit:
        text += f" In {column.unit}."
    if column.role in ("target", "measure"):
        text += " Known only later: checked, and not used."
    if column.role in ("key", "passthrough"):
        text += " Stays beside the score, and is not used for it."
    if column.domain is not None:
        text += f" One of {', '.join(column.domain.shown)}" + (
            "." if column.domain.closed.score else "; another value is taken as unknown, with a warning."
        )
    if column.type == "date" or date_formats(column) != (ISO_DATE,):
        text += f" Written as {' or '.join(map(readable_format, date_formats(column)))}."
    elif column.type == "timestamp":
        text += f" Written as {written_time(column)}."
    if column.type == "decimal":
        text += f" A number with at most {counted(column.decimals or 0, 'decimal')}, or its text."
    for rule in column_rules(column, "score"):
        if isinstance(rule.broken, NotMatching | Outside) and rule.severity == "error":
            text += f" {rule.text}."
    return text


def _extra(column: Column) -> dict[str, Any]:
    """What the schema of the field holds besides."""
    extra: dict[str, Any] = {"x-role": column.role}
    if column.domain is not None:
        extra["examples"] = list(column.domain.value_texts)
    if column.type in ("date", "timestamp"):
        extra["format"] = "date" if column.type == "date" else "date-time"
    for rule in column_rules(column, "score"):
        # no constraint: a value in another case or with spaces around it is normalized before it is matched
        if isinstance(rule.broken, NotMatching):
            extra["x-pattern"] = rule.broken.regex
    return extra


def _limits(column: Column) -> dict[str, Any]:
    """Bounds of a number."""
    limits: dict[str, Any] = {}
    if column.type == "double":
        limits["allow_inf_nan"] = False
    elif column.type == "int64":
        limits |= {"ge": -(2**63), "le": 2**63 - 1}
    for rule in column_rules(column, "score"):
        if isinstance(rule.broken, Outside) and rule.severity == "error" and column.type in ("double", "int64"):
            limits |= {} if rule.broken.low is None else {"ge": rule.broken.low}
            limits |= {} if rule.broken.high is None else {"le": rule.broken.high}
    return limits
