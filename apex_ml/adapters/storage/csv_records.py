"""Divide the text of a CSV file into records: where each begins, on which line, and which cannot be parsed.

Text is UTF-8 in bytes. A record that is not well formed costs its first line only: the next line begins a new record,
so that a quote that is never closed does not swallow the rest of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from apex_ml.adapters.storage.text_rows import BAD_TEXT, MAX_KEPT, BadLine
from apex_ml.contract.file_format import FileFormat

MAX_RECORD = 1 << 20
"""Bytes of a record; a quote that is not closed within them counts as broken."""
BAD_QUOTE = "quote: not closed, or text after the closing quote"
TOO_FEW = "columns: fewer values than the header has"
TOO_MANY = "columns: more values than the header has"
LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass
class Records:
    """Well-formed records of a part of the file, one after the other, and the bad ones among them."""

    text: bytes = b""
    first_line: int = 1
    lines: list[int] | None = None
    """The line of each record; None when it is not known whether each has one line, from `first_line` on."""
    bad: list[BadLine] = field(default_factory=list)


class Grammar:
    """The signs of a CSV file as patterns of bytes."""

    def __init__(self, form: FileFormat) -> None:
        self.delimiter = form.delimiter.encode()
        self.quote, self.escape = form.quote.encode(), form.escape.encode()
        delimiter, quote, escape = map(re.escape, (self.delimiter, self.quote, self.escape))
        if self.escape:
            plain = rb"(?:[^%b\r\n%b]|%b.)*+" % (delimiter, escape, escape)
            inside = rb"(?:[^%b%b]|%b.)*+" % (quote, escape, escape)
            end = rb"%b?+" % escape  # what it escapes has not arrived
        else:
            plain = rb"[^%b\r\n]*+" % delimiter
            inside, end = rb"[^%b]*+" % quote, b""
        if self.quote:
            quoted = rb"%b%b(?:%b%b%b)*+" % (quote, inside, quote, quote, inside)
            value = rb"(?:%b%b|(?!%b)%b)" % (quoted, quote, quote, plain)
            unfinished = rb"(?:%b%b?|(?!%b)%b)" % (quoted, quote, quote, plain)
        else:
            value = unfinished = plain
        record = rb"%b(?:%b%b)*+" % (value, delimiter, value)
        flags = re.DOTALL
        self.record = re.compile(rb"(%b)(?:\r\n|\n|\r)" % record, flags)
        self.records = re.compile(rb"(?:%b(?:\r\n|\n|\r))*+" % record, flags)
        self.unfinished = re.compile(rb"(?:%b%b)*+%b%b\Z" % (value, delimiter, unfinished, end), flags)
        self.value = re.compile(rb"(%b)(?:%b|\Z)" % (value, delimiter), flags)

    def values(self, record: bytes) -> list[bytes]:
        """The values of a record without its line end, as they are written."""
        values, at = [], 0
        while True:
            match = self.value.match(record, at)
            assert match is not None  # the record is well formed
            values.append(match[1])
            if match.end(1) == len(record):
                return values
            at = match.end()

    def text_of(self, value: bytes) -> str:
        """The text of a value as it is written."""
        if self.quote and value.startswith(self.quote):
            value = value[1:-1].replace(self.quote * 2, self.quote)
        if self.escape:
            value = re.sub(re.escape(self.escape) + rb"(.)", rb"\1", value, flags=re.DOTALL)
        return value.decode()


class Splitter:
    """Divides text that arrives in parts into records of `width` values."""

    def __init__(self, grammar: Grammar, line: int, width: int) -> None:
        self._grammar, self._width = grammar, width
        self._line, self._rest = line, b""
        self._skips = False
        """Whether the text goes on within a line that is bad already."""

    def feed(self, part: bytes, *, last: bool = False) -> Records:
        """The records that are complete now. With `last` no text follows."""
        text, held = self._rest + part, b""
        if last:
            text += b"" if not text or text[-1:] in b"\r\n" else b"\n"
        elif text.endswith(b"\r"):  # the line end may have a second character
            text, held = text[:-1], b"\r"
        if self._skips:
            text = self._after_line(text)
        records, end = self._simple(text, last) or self._one_by_one(text, last)
        self._rest = text[end:] + held
        return records

    def feed_again(self, records: Records, *, last: bool) -> Records:
        """The records of :meth:`feed` once more, where some have several lines: each with its own line."""
        self._line = records.first_line
        again, end = self._one_by_one(records.text, last)
        self._rest = records.text[end:] + self._rest
        return again

    def _after_line(self, text: bytes) -> bytes:
        if (end := LINE_END.search(text)) is None:
            return b""
        self._skips = False
        self._line += 1
        return text[end.end() :]

    def _simple(self, text: bytes, last: bool) -> tuple[Records, int] | None:
        """The records of valid text, which may have a line each; None where they are to be examined one by one."""
        grammar = self._grammar
        if (grammar.quote and grammar.quote in text) or (grammar.escape and grammar.escape in text):
            match = grammar.records.match(text)
            assert match is not None  # it matches nothing at least
            end = match.end()
            if end < len(text) and (last or grammar.unfinished.match(text, end) is None):
                return None
        else:
            end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        records = Records(text[:end], self._line)
        if len(text) - end > MAX_RECORD or _has_blank_line(records.text) or not _is_utf8(records.text):
            return None
        self._line += count_line_ends(records.text)
        return records, end

    def _one_by_one(self, text: bytes, last: bool) -> tuple[Records, int]:
        """Examine record by record."""
        at, kept = 0, []
        lines: list[int] = []
        records = Records(b"", self._line, lines)
        while at < len(text):
            match = self._grammar.record.match(text, at)
            rule = BAD_QUOTE if match is None else self._fault(match[1])
            if match is None and self._may_go_on(text, at, last):
                break
            if match is not None and rule is None:
                next_at = match.end()
                if match[1]:  # a blank line is no record
                    kept.append(match[0])
                    lines.append(self._line)
            else:
                assert rule is not None
                end = LINE_END.search(text, at)
                stop, next_at = (len(text), len(text)) if end is None else end.span()
                self._skips = end is None
                records.bad.append(BadLine(self._line, rule, text[at : min(stop, at + MAX_KEPT)]))
            self._line += count_line_ends(text[at:next_at])
            at = next_at
        records.text = b"".join(kept)
        return records, at

    def _may_go_on(self, text: bytes, at: int, last: bool) -> bool:
        """Whether a record that does not end here may be completed by the text that follows."""
        if last or len(text) - at > MAX_RECORD:
            return False
        return self._grammar.unfinished.match(text, at) is not None or LINE_END.search(text, at) is None

    def _fault(self, record: bytes) -> str | None:
        """The rule that a well-formed record breaks."""
        if not _is_utf8(record):
            return BAD_TEXT
        if not (b"\n" in record or b"\r" in record):
            return None  # the parser counts the values of a single line
        values = len(self._grammar.values(record))
        return None if values == self._width else wrong_width(values, self._width)


def wrong_width(values: int, width: int) -> str:
    """The rule that a record breaks which has another number of values than the header."""
    return TOO_FEW if values < width else TOO_MANY


def count_line_ends(text: bytes) -> int:
    """Number of line ends, of Windows, Unix and old Macs."""
    carriage_returns = text.count(b"\r")
    return text.count(b"\n") + (carriage_returns - text.count(b"\r\n") if carriage_returns else 0)


def _has_blank_line(text: bytes) -> bool:
    if text[:1] in (b"\n", b"\r") or b"\n\n" in text:
        return True
    return b"\r" in text and (b"\n\r" in text or b"\r\r" in text)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
