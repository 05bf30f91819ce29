"""Guess the format of a CSV file from the beginning of its text."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Rows = Sequence[Sequence[str]]
"""Rows of values, the names of the columns first."""
DELIMITERS = (",", ";", "\t", "|")
NULL_WORDS = ("NA", "N/A", "NULL", "null", "None", "NaN", "nan", "\\N", "-", "?", ".")
"""Texts that many programs write for a value that is not there."""
WIDTH_SHARE = 0.9
"""Share of the rows that must have as many values as the most frequent number of them."""
NUMBER_SHARE = 0.95
"""Share of a column's values from which it says which decimal sign and which words for null the file has."""
MAX_UNDECODABLE = 0.2
"""Share of the lines beyond ASCII that may be no text in an encoding: with more, the file is in another one."""
_SAMPLE_BYTES = 4096
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # it begins as the one of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([.,])\d{3}(\1\d{3})*(?!\1)[.,]\d+|([.,])\d{3}(\3\d{3})+)")
_UNSURE = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?")


def guess_encoding(head: bytes) -> str:
    """The encoding of a text: of Unicode by its first bytes, UTF-8 where few lines are not, else that of Windows.

    >>> [guess_encoding("ñandú".encode(encoding)) for encoding in ("utf-8", "cp1252", "utf-16", "utf-16-be")]
    ['utf-8', 'cp1252', 'utf-16', 'utf-16-be']
    >>> guess_encoding(b"\\xc3\\xa1\\n" * 9 + b"\\xe1\\n")
    'utf-8'
    """
    if (marked := wide_encoding(head)) is not None:
        return marked
    lines = list(lines_beyond_ascii(head))
    others = [line for line in lines if not count_decodable([line], "utf-8")]
    if len(others) <= MAX_UNDECODABLE * len(lines):
        return "utf-8"
    odd = len(others) - count_decodable(others, "cp1252")
    return "cp1252" if odd <= MAX_UNDECODABLE * len(others) else "latin-1"


def wide_encoding(head: bytes) -> str | None:
    """The encoding of a text of two or four bytes a character: by its mark, or by the zeros in every second byte.

    >>> wide_encoding(b"a,b\\r\\n"), wide_encoding("a,b\\r\\n".encode("utf-16-le"))
    (None, 'utf-16-le')
    """
    for mark, encoding in _WIDE_MARKS:
        if head.startswith(mark):
            return encoding
    sample = head[:_SAMPLE_BYTES]
    first, second = sample[::2].count(0), sample[1::2].count(0)
    if 4 * max(first, second) < len(sample) or not sample:  # half of the characters at least are ASCII
        return None
    return "utf-16-le" if second > 8 * first else "utf-16-be" if first > 8 * second else None


def lines_beyond_ascii(head: bytes) -> Iterator[bytes]:
    """The lines with other characters than ASCII. The last one, which may be incomplete, only where it is the first."""
    lines = head.splitlines()
    if len(lines) > 1 and not head.endswith((b"\n", b"\r")):
        lines.pop()
    return (line for line in lines if not line.isascii())


def count_decodable(lines: Iterable[bytes], encoding: str) -> int:
    """How many lines are text in an encoding."""
    return sum(_is_text(line, encoding) for line in lines)


def _is_text(line: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(line)  # the last letter may be incomplete
    except UnicodeDecodeError:
        return False
    return True


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
    """The decimal sign of most numbers. Columns of nearly nothing but numbers count, with what separates thousands.

    >>> guess_decimal([["price"], *[["1,5"]] * 20, ["1.234,50"], ["9.5"]], ";")
    ','
    """
    sure, unsure = Counter[str](), Counter[str]()
    for column in _number_columns(rows):
        sure += column.signs
        unsure += column.unsure
    signs = sure or unsure
    return "," if delimiter != "," and signs[","] > signs["."] else "."


def looks_like_value(name: str) -> bool:
    """Whether the name of a column is a number, a date or nothing, as in a file without a row of names.

    >>> [looks_like_value(name) for name in ("12", "2024-01-05", "", "q1", "price")]
    [True, True, True, False, False]
    """
    text = name.strip()
    return not text or _NUMBER.fullmatch(text) is not None or _DATE.fullmatch(text) is not None


def guess_nulls(rows: Rows) -> dict[str, tuple[str, ...]]:
    """The words for null, with the columns that have nearly nothing but numbers or dates beside them.

    >>> guess_nulls([("id", "n", "word"), ("1", "NA", "NA"), ("2", "5", "x"), ("3", "", "y")])
    {'NA': ('n',)}
    """
    columns = list(_number_columns(rows))
    return {
        word: names
        for word in NULL_WORDS
        if (names := tuple(column.name for column in columns if word in column.nulls))
    }


@dataclass(frozen=True)
class _NumberColumn:
    """A column of numbers or dates."""

    name: str
    nulls: frozenset[str]
    """Its words for null."""
    signs: Counter[str] = field(default_factory=Counter)
    """Decimal signs in its values."""
    unsure: Counter[str] = field(default_factory=Counter)
    """Signs in values such as 1.234, in which they may separate thousands."""


def _number_columns(rows: Rows) -> Iterator[_NumberColumn]:
    """The columns of nearly nothing but numbers, or of dates, beside words for null."""
    for place, name in enumerate(rows[0] if rows else ()):
        values = Counter(row[place].strip() for row in rows[1:] if place < len(row))
        del values[""]
        nulls = frozenset(values.keys() & set(NULL_WORDS))
        for word in nulls:
            del values[word]
        least = NUMBER_SHARE * values.total()
        numbers = {value: n for value, n in values.items() if _NUMBER.fullmatch(value) or _THOUSANDS.fullmatch(value)}
        if values and sum(numbers.values()) >= least:
            column = _NumberColumn(name, nulls)
            for value, n in numbers.items():
                separators = re.findall("[.,]", value)
                if separators and separators.count(separators[-1]) == 1:
                    (column.unsure if _UNSURE.fullmatch(value) else column.signs)[separators[-1]] += n
            yield column
        elif values and sum(n for value, n in values.items() if _DATE.fullmatch(value)) >= least:
            yield _NumberColumn(name, nulls)
