"""The shape of a request, made from the contract: for pydantic, for people and for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from apex_ml.contract.columns import Column
from apex_ml.contract.conditions import NotMatching, Outside, column_rules
from apex_ml.contract.model import Contract
from apex_ml.contract.requests.values import date_formats

MAX_ORDERS = 1000
NO_TEXT = "Input should be a string, a finite number, true or false"
TEXT = Annotated[str | int | Annotated[float, Field(allow_inf_nan=False)] | bool, Field(union_mode="left_to_right")]
"""A string in JSON. A number becomes text as the same number in a file does."""


def field_names(contract: Contract) -> dict[str, str]:
    """Name of each column's field, because a column's name can equal a method of pydantic."""
    return {name: f"c{place}" for place, name in enumerate(contract.columns)}


def request_model(contract: Contract) -> type[BaseModel]:
    """The model of a request; an order has a field for each column, with the column's name as its alias."""
    config = ConfigDict(extra="forbid", strict=True)
    names = field_names(contract)
    fields: dict[str, Any] = {names[column.name]: _field(column) for column in contract.columns.values()}
    order = create_model("Order", __config__=config, __doc__="An order, as a row of a drop.", **fields)
    orders = Annotated[list[order], Field(min_length=1, max_length=MAX_ORDERS, description="The orders.")]
    return create_model(
        "PredictRequest", __config__=config, __doc__="Orders to predict, in any order.", orders=(orders, ...)
    )


def _field(column: Column) -> tuple[Any, Any]:
    kind: Any = {"string": TEXT, "date": str, "double": float, "int64": int}[column.type]
    extra: dict[str, Any] = {"x-role": column.role}
    text = column.description
    limits: dict[str, Any] = {}
    if column.unit:
        text += f" In {column.unit}."
    if column.role in ("target", "measure"):
        text += " Known only after the order: checked, and not used."
    if column.domain is not None:
        text += f" One of {', '.join(column.domain.levels)}" + (
            "." if column.domain.closed.score else "; another value is taken as unknown, with a warning."
        )
        extra["examples"] = list(column.domain.levels)
    if column.type == "date":
        text += f" Written as {' or '.join(date_formats(column))}."
        extra["format"] = "date"
    elif column.type == "double":
        limits["allow_inf_nan"] = False
    elif column.type == "int64":
        limits |= {"ge": -(2**63), "le": 2**63 - 1}
    for rule in column_rules(column, "score"):
        broken = rule.broken
        if isinstance(broken, NotMatching | Outside) and rule.severity == "error":
            text += f" {rule.text}."
        # a value of another case or with surrounding blanks is normalised before it is matched
        if isinstance(broken, NotMatching):
            extra["x-pattern"] = broken.regex
        elif isinstance(broken, Outside) and rule.severity == "error" and column.type != "date":
            limits |= {} if broken.low is None else {"ge": broken.low}
            limits |= {} if broken.high is None else {"le": broken.high}
    kind = Annotated[kind, Field(**limits)] if limits else kind
    if column.nullable.score:
        kind = kind | None
    default = ... if column.required.score else None
    if default is None and not column.nullable.score:
        kind = kind | None
    return kind, Field(default, alias=column.name, description=text, json_schema_extra=extra)
