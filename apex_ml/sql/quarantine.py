"""The reasons and values of a quarantined row, as text for people: DuckDB SQL."""

from __future__ import annotations

import pyarrow as pa

from apex_ml.sql.quote import literal
from apex_ml.sql.row_checks import RawColumn, Reason, RowChecks
from apex_ml.text import ESCAPED_RE2, visible

NULL = "null"
"""A value that is not there, as text for people."""
MAX_TEXT = 10_000
"""Characters kept of a quarantined value."""
MAX_VALUE = 200
"""Characters of a value in a reason."""


def select_raw_quarantine(schema: str) -> str:
    """The query of Postgres for people who look for quarantined raw rows."""
    return f"SELECT * FROM {schema}.quarantine WHERE source_kind = 'raw'"


def select_drop_quarantine(schema: str, sha256: str) -> str:
    """The query of Postgres for people who look for the quarantined rows of one drop."""
    return f"SELECT * FROM {schema}.quarantine WHERE left(source_sha256, 12) = '{sha256[:12]}'"


def is_true(condition: str) -> str:
    """SQL of a condition that is false instead of null."""
    return f"coalesce({condition}, false)"


def visible_sql(text: str) -> str:
    """SQL of a text for people, as :func:`apex_ml.text.visible` returns it except for blanks and line breaks."""
    code = "lower(to_hex(unicode(letter)))"
    number = (
        f"CASE WHEN unicode(letter) < 128 THEN '\\x' || lpad({code}, 2, '0')"
        f" WHEN unicode(letter) < 65536 THEN '\\u' || lpad({code}, 4, '0') ELSE '\\U' || lpad({code}, 8, '0') END"
    )
    # letter by letter would need a list as long as the text
    letters = f"list_distinct(regexp_extract_all({text}, '[{ESCAPED_RE2}]'))"
    return f"list_reduce({letters}, lambda shown, letter: replace(shown, letter, {number}), {text})"


def text_sql(column: RawColumn, longest: int = MAX_TEXT) -> str:
    """SQL of a file's own value as text for people, cut when it is very long."""
    text = f"left(CAST({column.source} AS VARCHAR), {longest})"
    if pa.types.is_binary(column.kind) or pa.types.is_fixed_size_binary(column.kind):
        # a blob is cast to text with every byte beyond ASCII as a number
        text = f"coalesce(left(TRY(decode({column.source})), {longest}), {text})"
    shown = visible_sql(text)
    return f"coalesce({shown}, left({column.undecodable}, {longest}))" if column.undecodable else shown


def value_sql(reason: Reason, checks: RowChecks, longest: int) -> str:
    """SQL of the values that a reason is about, as text for people."""
    known = {c.column: c for c in checks.raw_columns}
    parts = [known[p] for p in reason.columns or (reason.column,) if p in known]
    return " || ' / ' || ".join(f"coalesce({text_sql(c, longest)}, {literal(NULL)})" for c in parts) or "'absent'"


def reasons_sql(reasons: list[Reason], checks: RowChecks) -> str:
    """SQL of the list of all reasons of a row, each with column, value and rule."""
    items = []
    for reason in reasons:
        value = f"left({value_sql(reason, checks, MAX_VALUE)}, {MAX_VALUE})"
        struct = f"{{'column': {literal(reason.column)}, 'value': {value}, 'rule': {literal(reason.rule)}}}"
        items.append(f"CASE WHEN {is_true(reason.condition)} THEN {struct} END")
    return f"list_filter([{', '.join(items)}], lambda reason: reason IS NOT NULL)"


def own_values_sql(checks: RowChecks) -> str:
    """SQL of a row's own values as a JSON object that Postgres takes: numbers where JSON has them, else text."""
    pairs = []
    for column in checks.raw_columns:
        kind = column.kind
        if (pa.types.is_boolean(kind) or pa.types.is_integer(kind)) and not column.undecodable:
            value = f"to_json({column.source})"
        elif pa.types.is_floating(kind) and not column.undecodable:
            finite = f"isfinite({column.source})"
            value = f"CASE WHEN {finite} THEN to_json({column.source}) ELSE to_json({text_sql(column)}) END"
        else:
            value = f"to_json({text_sql(column)})"
        pairs.append(f"{literal(visible(column.name))}, {value}")
    return f"json_object({', '.join(pairs)})"
