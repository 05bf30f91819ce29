"""Guess the format of a CSV file from the beginning of its text."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

Rows = Sequence[Sequence[str]]
"""Rows of values, the names of the columns first."""
DELIMITERS = (",", ";", "\t", "|")
NULL_WORDS = ("NA", "N/A", "NULL", "null", "None", "NaN", "nan", "\\N", "-", "?", ".")
"""Texts that many programs write for a value that is not there."""
WIDTH_SHARE = 0.9
"""Share of the rows that must have as many values as the most frequent number of them."""
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
    for encoding in ("utf-8", "cp1252"):
        if len(lines) - count_decodable(lines, encoding) <= MAX_UNDECODABLE * len(lines):
            return encoding
    return "latin-1"


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
