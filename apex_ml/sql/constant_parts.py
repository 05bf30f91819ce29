"""Parts of an expression that are the same in every row: DuckDB SQL that fails where they fail in every row.

DuckDB reads a regular expression, a unit of time and a date only when a row comes, whose value would get the blame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apex_ml.contract.expression_growth import arguments
from apex_ml.contract.expression_tokens import Token
from apex_ml.contract.expressions import Expression

_BY_PATTERN = frozenset({"regexp_extract", "regexp_full_match", "regexp_matches", "regexp_replace"})
_BY_UNIT = frozenset({"date_diff", "date_sub", "datediff"})
_LITERALS = frozenset({"date", "interval", "timestamp"})
_MOMENT = "TIMESTAMP '2000-01-01 00:00:00'"


def constant_parts(expression: Expression) -> Iterator[tuple[str, str]]:
    """The parts that are the same in every row, as they are written, each with a query that fails if it does."""
    tokens = expression.tokens
    for nr, token in enumerate(tokens[:-1]):
        after = tokens[nr + 1]
        if token.kind != "name":
            continue
        if after.kind == "text" and token.word in _LITERALS:
            yield f"{token.text} {after.text}", f"SELECT {token.text} {after.text}"
        elif after.text != "(":
            continue
        elif token.word in _BY_PATTERN:
            yield from _pattern(token.word, arguments(tokens, nr + 1)[1:])
        elif token.word in _BY_UNIT and _is_constant(unit := arguments(tokens, nr + 1)[0]):
            yield _written(unit), f"SELECT {token.word}({_written(unit)}, {_MOMENT}, {_MOMENT})"


def _pattern(function: str, rest: Sequence[Sequence[Token]]) -> Iterator[tuple[str, str]]:
    """A regular expression alone, and with the arguments behind it where they are constant, too."""
    if not rest or not _is_constant(rest[0]):
        return
    pattern = _written(rest[0])
    yield pattern, f"SELECT regexp_matches('', {pattern})"
    if len(rest) > 1 and all(map(_is_constant, rest)):
        written = ", ".join(map(_written, rest))
        yield written, f"SELECT {function}('', {written})"


def _is_constant(argument: Sequence[Token]) -> bool:
    return bool(argument) and all(token.kind in ("text", "number", "sign") for token in argument)


def _written(argument: Sequence[Token]) -> str:
    return "".join((" " if token.spaced else "") + token.text for token in argument).strip()
