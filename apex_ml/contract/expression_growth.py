"""Limits on the memory that an expression needs for a row, whose values may be short.

A text of a few characters must not become one of gigabytes. The functions `lpad` and `rpad` name the length of their
result, which is limited. Others multiply the length of a text, or DuckDB computes an argument of theirs twice. Nested
in each other they grow with the power of their depth, so that the product of their factors is limited. The factors are
bounds, counted in characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from apex_ml.contract.expression_tokens import Token, ends_a_value

MAX_PADDED_LENGTH = 1000
"""Longest text that `lpad` and `rpad` make, in characters."""
MAX_GROWTH = 100
"""How many times as long nested functions may make a text."""
_GROWTH_OF_COLUMN = 100
"""Factor of a replacement or separator that is a column, whose length is known only with the row."""
_NEVER_EMPTY = re.compile(r"(?:[^*?{|()\\]|\\[dswDSW])+")
"""Regular expressions that, but for a lone ^ or $, match no empty text: they cannot match between all characters."""
_FACTORS = {"nullif": 2.0, "split_part": 3.0, "str_split": 3.0, "string_split": 3.0}
"""DuckDB computes the first argument of `nullif` and `split_part` twice; a list as text has quotes and commas."""
_WORDS_BEFORE_VALUES = "and between case else escape from ilike in is like not or then when"
_BEFORE_VALUES = frozenset(_WORDS_BEFORE_VALUES.split())
_FACTOR_OF_LIST = 2.0
"""The text of a list, as [a, b] or (a, b), escapes the quotes in the texts of its items."""


def growth_faults(tokens: Sequence[Token]) -> Iterator[str]:
    """Why the value of an expression may need far more memory than the row. Its brackets are known to match."""
    if any(_sized_arrays(tokens)):
        yield "a type with a number of items is not allowed: write the brackets without it, such as INTEGER[]"
        return
    factors = [1.0]
    names: list[str] = []
    for nr, token in enumerate(tokens):
        if token.kind != "sign" or token.text not in "([)]":
            continue
        if token.text in ")]":
            factors.pop()
            names.pop()
            continue
        name, factor = "", 1.0
        before = tokens[nr - 1] if nr else None
        if token.text == "(" and (before is None or before.kind == "sign" or before.word in _BEFORE_VALUES - {"in"}):
            if len(arguments(tokens, nr)) > 1:
                name, factor = "a list", _FACTOR_OF_LIST
        elif token.text == "(" and before is not None:
            name, given = before.word, arguments(tokens, nr)
            if fault := _argument_fault(name, given):
                yield fault
                return
            factor = _factor(name, given)
        elif token.text == "[" and not ends_a_value(before):
            name, factor = "a list", _FACTOR_OF_LIST
        factors.append(factors[-1] * factor)
        names.append(name if factor > 1 else "")
        if factors[-1] > MAX_GROWTH:
            nested = ", ".join(dict.fromkeys(filter(None, names)))
            yield (
                f"it could make a text more than {MAX_GROWTH} times as long ({nested}): nest fewer of them, or write"
                " shorter replacements; CASE, translate and one regexp_replace for several parts do not multiply"
            )
            return


def _sized_arrays(tokens: Sequence[Token]) -> Iterator[bool]:
    """For each pair of brackets of a type, whether a number is in it: DuckDB keeps as many items for every row."""
    for nr, token in enumerate(tokens[1:], 1):
        if token.kind != "name" or not (tokens[nr - 1].text == "::" or tokens[nr - 1].word == "as"):
            continue
        rest = tokens[nr + 1 :]
        if rest and rest[0].text == "(":  # digits of a decimal
            rest = rest[next((place for place, one in enumerate(rest) if one.text == ")"), 0) + 1 :]
        while len(rest) > 1 and rest[0].text == "[":
            yield rest[1].text != "]"
            rest = rest[2:]


def arguments(tokens: Sequence[Token], opened: int) -> list[Sequence[Token]]:
    """The arguments of a function, from its parenthesis on."""
    parts: list[Sequence[Token]] = []
    depth, start = 0, opened + 1
    for nr in range(opened, len(tokens)):
        text = tokens[nr].text if tokens[nr].kind == "sign" else ""
        depth += (text in ("(", "[")) - (text in (")", "]"))
        if depth == 0 or (depth == 1 and text == ","):
            parts.append(tokens[start:nr])
            start = nr + 1
        if depth == 0:
            break
    return parts


def _argument_fault(name: str, arguments: Sequence[Sequence[Token]]) -> str | None:
    """Why an argument that decides on the length of a text is not allowed."""
    if name in ("lpad", "rpad") and len(arguments) > 1:
        match arguments[1]:
            case [Token(kind="number", text=text)] if text.isdigit() and int(text[:9]) <= MAX_PADDED_LENGTH:
                return None if len(text) <= 9 else _padding_fault(name)
        return _padding_fault(name)
    if (name == "concat_ws" and not _is_short(arguments[0])) or (
        name in ("replace", "regexp_replace") and len(arguments) > 2 and not _is_short(arguments[2])
    ):
        what = "the separator" if name == "concat_ws" else "the replacement"
        return f"{what} of {name} must be one text in quotes or one column, so that its length is limited"
    return None


def _padding_fault(name: str) -> str:
    return (
        f"{name} needs its length as one whole number of at most {MAX_PADDED_LENGTH}: write for example"
        f" {name}(text, 10, '0')"
    )


def _is_short(argument: Sequence[Token]) -> bool:
    return len(argument) == 1 and argument[0].kind in ("text", "column", "name", "number")


def _factor(name: str, arguments: Sequence[Sequence[Token]]) -> float:
    """How many times as long as its first argument the result of a function may be."""
    if name == "concat_ws":
        return max(1.0, _length(arguments[0]))
    if name in ("replace", "regexp_replace") and len(arguments) > 2:
        length = _length(arguments[2])
        if name == "replace":
            known = len(arguments[1]) == 1 and arguments[1][0].kind == "text"
            return max(1.0, length / (max(1.0, _length(arguments[1])) if known else 1.0))
        return _factor_of_pattern(arguments[1], arguments[2], length)
    if name == "regexp_extract" and len(arguments) > 2 and len(arguments[2]) > 1:
        return float(len(arguments[2]))  # a list of names: every group may hold the whole text
    return _FACTORS.get(name, 1.0)


def _factor_of_pattern(pattern: Sequence[Token], replacement: Sequence[Token], length: float) -> float:
    plain = len(pattern) == 1 and pattern[0].kind == "text" and _NEVER_EMPTY.fullmatch(pattern[0].text[1:-1])
    if plain and replacement[0].kind == "text" and "\\" not in replacement[0].text:
        return max(1.0, length)
    return 1.0 + length


def _length(argument: Sequence[Token]) -> float:
    """Length of a replacement: of a text its characters; of what is known only with the row, a factor in its place."""
    if len(argument) == 1 and argument[0].kind in ("text", "number"):
        text = argument[0].text
        return float(len(text[1:-1].replace("''", "'")) if argument[0].kind == "text" else len(text))
    return float(_GROWTH_OF_COLUMN)
