"""The tokens of an expression: how its text is split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from apex_ml.text import visible

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<comment>--|/\*|->|=>)"
    r"|(?P<text>'(?:[^']|'')*')"
    r'|(?P<quoted>"(?:[^"]|"")+")'
    r"|(?P<number>(?:[0-9]+(?:[.][0-9]*)?|[.][0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign>\|\||::|<=|>=|<>|!=|//|[-+*/%=<>(),\[\]])"
)
TYPE_NAMES = """
    bigint boolean date decimal double float hugeint int integer interval numeric real smallint text timestamp tinyint
    varchar
"""
TYPES = frozenset(TYPE_NAMES.split())
"""Types of casts. An instant is none: its date depends on the time zone of a session."""
_VALUES = frozenset({"end", "false", "null", "true"})
"""Words of the language with which a value ends."""
Kind = Literal["text", "quoted", "number", "name", "sign", "column"]


@dataclass(frozen=True)
class Token:
    """A part of an expression. A `column` is a name, unquoted, that stands for a column."""

    kind: Kind
    text: str
    spaced: bool
    """Whether white space stands before it."""

    @property
    def word(self) -> str:
        """The text as DuckDB compares names and keywords."""
        return self.text.lower()


def ends_a_value(token: Token | None) -> bool:
    """Whether a value or a type ends with this token: then * multiplies, and [ takes an item or belongs to the type.

    >>> [ends_a_value(Token("sign", text, False)) for text in ")],"], ends_a_value(None)
    ([True, True, False], False)
    >>> [ends_a_value(Token("name", text, False)) for text in ("END", "then", "integer", "abs")]
    [True, False, True, False]
    """
    if token is None or token.kind == "sign":
        return token is not None and token.text in (")", "]")
    return token.kind != "name" or token.word in _VALUES or token.word in TYPES


def split_tokens(text: str) -> tuple[list[Token], list[str]]:
    """The tokens of a text up to the first part that is none, and the fault of that part."""
    tokens: list[Token] = []
    place, spaced = 0, False
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup == "comment":
            part = visible(text[place : place + 2] if match else text[place])
            return tokens, [f"{part!r} is not part of an expression: write one value, without comments, arrows and ;"]
        place = match.end()
        if match.lastgroup == "space":
            spaced = True
            continue
        kind: Kind = match.lastgroup  # type: ignore[assignment]
        tokens.append(Token(kind, match[0], spaced))
        spaced = False
    return tokens, [] if tokens else ["the expression is empty: write one, or remove the key"]
