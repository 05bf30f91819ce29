"""The numbers and truth values in the text columns of CSV files, with the texts among them that are none."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from apex_ml.adapters.duckdb.engine import StrictConnection, one_row
from apex_ml.core.table_profile.findings import is_named_as_identifier
from apex_ml.core.table_profile.values import KEY_SHARE, Kind, OddTexts
from apex_ml.sql import table_profile as sql

SAMPLED_ROWS = 2000
MAX_ODD = 0.01
"""Share of texts that are no numbers up to which a column holds numbers."""
NEAR_SHARE = 0.9
"""Share of numbers from which the other texts of a text column are named."""
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class PlainReading:
    """What the texts of a column are. `sql` is None where they stay text."""

    kind: Kind
    sql: str | None = None
    odd: OddTexts | None = None


def read_plain(con: StrictConnection, name: str, column: str, signs: str, *, exact: bool) -> PlainReading | None:
    """Whether nearly all texts are numbers with one of some decimal signs, or all are truth values; None for others.

    A column with codes like 007 stays text. With `exact`, and where values name things, all must be numbers.
    """
    whole, number, truth = sql.whole_number(column), sql.number(column, signs), sql.truth_value(column)
    any_sign, code = sql.number(column, ".,"), sql.code_of_digits(column)
    try:
        values, numbers, truths = one_row(con, sql.count_readable(column, [any_sign, truth], SAMPLED_ROWS))
        if not values or max(numbers, truths) < (1 - 2 * (1 - NEAR_SHARE)) * values:
            return None
        counts = one_row(con, sql.count_readable(column, [whole, number, truth, any_sign, code]))
    except duckdb.InvalidInputException:  # a text that is not UTF-8
        return None
    values, wholes, numbers, truths, of_any_sign, codes = counts
    if truths == values:
        return PlainReading("boolean", truth)
    if wholes == values or numbers == values:
        return PlainReading("integer", whole) if wholes == values else PlainReading("number", number)
    if exact or codes or of_any_sign < NEAR_SHARE * values:
        return None
    reading, kind = (whole, "integer") if wholes == numbers else (number, "number")
    if values - numbers > MAX_ODD * values or (kind == "integer" and _names_things(con, name, column, values)):
        return PlainReading("text", odd=_odd(con, column, number, values - numbers))
    return PlainReading(
        "integer" if kind == "integer" else "number", reading, _odd(con, column, reading, values - numbers)
    )


def _names_things(con: StrictConnection, name: str, column: str, values: int) -> bool:
    """Whether whole numbers are names of things, of which another text is one as well."""
    return is_named_as_identifier(name) or one_row(con, sql.count_values(column))[1] >= KEY_SHARE * values


def _odd(con: StrictConnection, column: str, reading: str, rows: int) -> OddTexts:
    texts = con.execute(sql.unread_texts(column, reading, MAX_EXAMPLES)).fetchall()
    return OddTexts(rows, tuple(text for text, _ in texts))
