"""Characters that cannot be seen: which ones they are, how they are shown, and names that differ by them alone.

The sets are written out, so that Python, SQL and every version of Unicode agree on them.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable

_BLANK = ((0x09, 0x0D), (0x20, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
          (0x202F, 0x202F), (0x205F, 0x205F), (0x2800, 0x2800), (0x3000, 0x3000))  # fmt: skip
"""White space of Unicode, and the empty Braille cell."""
_UNSEEN = ((0x00, 0x08), (0x0E, 0x1F), (0x7F, 0x84), (0x86, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C),
           (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F),
           (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB),
           (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF))  # fmt: skip
"""Controls, formats and what Unicode asks to draw as nothing: zero-width characters, byte order marks, soft hyphens."""


def _class(ranges: Iterable[tuple[int, int]], form: str) -> str:
    return "".join(f"{form.format(low)}-{form.format(high)}" for low, high in sorted(ranges))


NO_NUL = "text: holds a NUL character, which the database cannot store"
"""The rule that a value breaks which is written to the database."""
_PYTHON = "\\U{:08x}"
INVISIBLE_RE2 = _class((*_BLANK, *_UNSEEN), "\\x{{{:x}}}")
"""Blank and unseen characters, as the inside of a character class of RE2."""
_INVISIBLE = _class((*_BLANK, *_UNSEEN), _PYTHON)
TRIMMED = "".join(chr(code) for low, high in (*_BLANK, *_UNSEEN) for code in range(low, high + 1))
"""Every blank and unseen character."""
_ALL = re.compile(f"[{_INVISIBLE}]")
_EXPECTED = ((0x09, 0x0D), (0x20, 0x20))  # JSON, in which SQL shows values, has signs of its own for the others
ESCAPED_RE2 = _class([(0x0B, 0x0C), *(r for r in (*_BLANK, *_UNSEEN) if r not in _EXPECTED)], "\\x{{{:x}}}")
"""As INVISIBLE_RE2, without the plain space, tabs and line breaks."""
_ESCAPED = re.compile(f"[{_class([r for r in (*_BLANK, *_UNSEEN) if r != (0x20, 0x20)], _PYTHON)}\ud800-\udfff]")


def trimmed(text: str) -> str:
    """Text without blank and unseen characters at its ends.

    >>> trimmed("\\ufeff\\u00a0 EC\\u200b\\x00\\n")
    'EC'
    """
    if text.isascii() and text[:1] >= "!" and "!" <= text[-1:] <= "~":
        return text
    return text.strip(TRIMMED)


def visible(text: str) -> str:
    r"""Text for people: a character that cannot be seen, or that looks like a plain space, is shown by its number.

    >>> print(visible("EC\u200b\x00"), visible("Perú a b"), visible("a\u00a0b\ufeff"))
    EC\u200b\x00 Perú a b a\u00a0b\ufeff
    """
    return _ESCAPED.sub(_number, text)


def visible_lines(text: str) -> str:
    r"""A message of several lines for people: as :func:`visible`, with its line breaks.

    >>> visible_lines("a\u200b\nb")
    'a\\u200b\nb'
    """
    return "\n".join(map(visible, text.split("\n")))


def one_line(text: str) -> str:
    r"""A message of several lines for people as one line, with what cannot be seen shown by its number.

    >>> print(one_line("a.parquet: columns are missing\n  day (date) → nothing\n  unknown: x\n"))
    a.parquet: columns are missing; day (date) → nothing; unknown: x
    >>> print(one_line("2 are bad:\na\u200b"), one_line("No end.\r\nb\x85"))
    2 are bad: a\u200b No end. b\u0085
    """
    lines = [line.strip(" \t") for line in re.split(r"[\r\n]+", text)]
    joined = ""
    for line in filter(None, lines):
        joined += f"{'' if not joined else ' ' if joined[-1] in ':;,.!?' else '; '}{line}"
    return visible(joined)


def shortened_line(text: str, longest: int) -> str:
    """A line of at most `longest` characters, cut between words with an ellipsis; a single long word is cut in it.

    >>> shortened_line("one two three", 9), shortened_line("one two", 9), shortened_line("abcdefghij", 5)
    ('one two …', 'one two', 'abcd…')
    """
    if len(text) <= longest:
        return text
    words, blank, _ = text[: longest - 1].rpartition(" ")
    return f"{words.rstrip(' ;,:')} …" if blank and words else f"{text[: longest - 1]}…"


def _number(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_bytes(content: bytes) -> str:
    r"""Bytes that should have been UTF-8, for people: what cannot be decoded is shown by its number.

    >>> print(visible_bytes(b"Espa\xf1a \xc3\xb1\x00"))
    Espa\xf1a ñ\x00
    """
    return visible(content.decode("utf-8", "backslashreplace"))


def folded(name: str) -> str:
    """A name without what people overlook: case, the form of a letter, blank and unseen characters, underscores.

    >>> {folded(n) for n in ("lead_time", "LEAD_TIME", "\\ufefflead_time ", "Lead time", "ｌeadTime\\u200b")}
    {'leadtime'}
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return _ALL.sub("", plain).replace("_", "")


class VisibleFormatter(logging.Formatter):
    """A log for people, as :func:`one_line`: an event is one line, and the lines of its traceback are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is that of logging
        """The record as one line, without its traceback."""
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, with its traceback."""
        return visible_lines(super().format(record)).replace("\n", "\n  ")
