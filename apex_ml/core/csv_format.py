"""Guess the format of a CSV file from the beginning of its text."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Rows = Sequence[Sequence[str]]
"""Rows of values, the names of the columns first."""
DELIMITERS = (",", ";", "\t", "|")
NULL_WORDS = ("NA", "N/A", "NULL", "null", "None", "NaN", "nan", "\\N", "-", "?", ".")
"""Texts that many programs write for a value that is not there."""
WIDTH_SHARE = 0.9
"""Share of the rows that must have as many values as the most frequent number of them."""
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?")


def guess_encoding(head: bytes) -> str:
    """The encoding of a text: by its byte order mark, UTF-8 where that is possible, else that of Windows.

    >>> [guess_encoding("ñandú".encode(encoding)) for encoding in ("utf-8", "cp1252", "utf-16")]
    ['utf-8', 'cp1252', 'utf-16']
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(head)  # the last letter may be incomplete
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def guess_delimiter(rows_by: Callable[[str], Rows]) -> str:
    """The delimiter that divides most rows into the same number of values, of two such the one of more values.

    `rows_by` returns the rows as a delimiter divides them. A comma where none divides them.
    """
    best, best_width = DELIMITERS[0], 1
    for delimiter in DELIMITERS:
        widths = Counter(map(len, rows_by(delimiter)))
        if not widths:
            continue
        width, rows = widths.most_common(1)[0]
        if width > best_width and rows >= WIDTH_SHARE * widths.total():
            best, best_width = delimiter, width
    return best


def guess_decimal(rows: Rows, delimiter: str) -> str:
    """The decimal sign: a comma where numbers have one, and none has a point."""
    signs = {column[1] for column in _number_columns(rows, ()) if column[1]}
    return "," if delimiter != "," and signs == {","} else "."


def looks_like_value(name: str) -> bool:
    """Whether the name of a column is a number, a date or nothing, as in a file without a row of names.

    >>> [looks_like_value(name) for name in ("12", "2024-01-05", "", "q1", "price")]
    [True, True, True, False, False]
    """
    text = name.strip()
    return not text or _NUMBER.fullmatch(text) is not None or _DATE.fullmatch(text) is not None


def guess_nulls(rows: Rows) -> tuple[str, ...]:
    """The texts for null: an empty one, and the words beside which a column has nothing but numbers or dates.

    >>> guess_nulls([("id", "n", "word"), ("1", "NA", "NA"), ("2", "5", "x"), ("3", "", "y")])
    ('', 'NA')
    """
    words = {word for _, _, nulls in _number_columns(rows, NULL_WORDS) for word in nulls}
    return ("", *(word for word in NULL_WORDS if word in words))


def _number_columns(rows: Rows, words: Iterable[str]) -> Iterable[tuple[int, str, set[str]]]:
    """Columns of nothing but numbers or dates beside some words: place, decimal sign or nothing, the words there."""
    known = set(words)
    for place in range(len(rows[0]) if rows else 0):
        values = {row[place].strip() for row in rows[1:] if place < len(row)} - {""}
        nulls = values & known
        rest = values - nulls
        if rest and all(_NUMBER.fullmatch(value) for value in rest):
            signs = {sign[0] for value in rest if (match := _NUMBER.fullmatch(value)) and (sign := match[1])}
            yield place, signs.pop() if len(signs) == 1 else "." if signs else "", nulls
        elif rest and all(_DATE.fullmatch(value) for value in rest):
            yield place, "", nulls
