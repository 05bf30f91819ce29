"""Expressions of derived columns: what they may hold, and the columns that they read.

An expression is one of DuckDB over the columns of a row. Only operators and functions are allowed whose result depends
on nothing but these values: no time of day, no random number, no setting, no other row, no file. The text is split into
tokens and each of them is checked; DuckDB itself then reads the whole (:mod:`apex_ml.adapters.duckdb.derived_types`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from apex_ml.contract.expression_growth import growth_faults
from apex_ml.contract.expression_tokens import TYPES, Token, ends_a_value, split_tokens
from apex_ml.text import shortened_line
from apex_ml.wording import did_you_mean

OF_DATES = """
    date_diff date_part date_sub date_trunc datediff day dayname dayofweek dayofyear epoch epoch_ms epoch_us hour isodow
    isoyear last_day make_date make_timestamp minute month monthname quarter second strftime strptime to_days to_hours
    to_minutes to_months to_seconds to_weeks to_years try_strptime week weekofyear year
"""
OF_TEXT = """
    ascii chr concat concat_ws contains ends_with instr left length lower lpad ltrim md5 nfc_normalize prefix
    regexp_extract regexp_full_match regexp_matches regexp_replace replace reverse right rpad rtrim sha256
    split_part starts_with str_split string_split strip_accents strlen strpos substr substring suffix translate trim
    unicode upper
"""
OF_NUMBERS = """
    abs acos asin atan atan2 cbrt ceil ceiling cos degrees exp floor fmod greatest isfinite isinf isnan least ln log
    log10 log2 mod pi pow power radians round sign sin sqrt tan trunc
"""
OF_NULLS = "coalesce if ifnull nullif"
_WORDS = """
    and as between case cast distinct else end escape false from ilike in is like not null or then true try_cast when
"""
FUNCTIONS = frozenset(f"{OF_DATES} {OF_TEXT} {OF_NUMBERS} {OF_NULLS}".split())
"""Functions of DuckDB whose result depends on their arguments alone."""
MAX_LENGTH = 10_000
"""Longest expression, in characters."""
MAX_DEPTH = 100
"""How deep brackets may be nested."""
MAX_FAULTS = 5
"""How many faults of an expression are reported together."""
_MAX_SHOWN = 200
_MAX_SHOWN_NAME = 80
_KEYWORDS = frozenset(_WORDS.split())
_BEFORE_PARENTHESIS = _KEYWORDS - {"as", "distinct", "end", "false", "null", "true"}
_TYPED_LITERALS = frozenset({"date", "timestamp", "interval"})
_NO_SUBQUERY = "an expression reads the columns of its own row, without subqueries"
_REMEDIES = {
    "exists": _NO_SUBQUERY,
    "extract": "write date_part('year', column) or year(column)",
    "format": "write concat, lpad(text, 10, ' ') or value::varchar; a width could fill the memory",
    "interval": "write to_days(n), to_hours(n), to_months(n) or the like",
    "position": "write strpos(text, part)",
    "printf": "write concat, lpad(text, 10, '0') or value::varchar; a width could fill the memory",
    "repeat": "write concat(text, text) or lpad('', 10, text); a number of times could fill the memory",
    "timestamptz": "give the column type: timestamp with a timezone; expressions read it on the clock of that zone",
}
_UNITS = frozenset({"second", "minute", "hour", "day", "week", "month", "year"})
_UNREPEATABLE = re.compile(
    r"current_\w+|now|today|get_current_\w+|random|uuid\w*|gen_random_uuid|nextval|age|\w+_timestamp"
)

FUNCTIONS_BY_KIND = {
    "dates and times": OF_DATES.split(),
    "text": OF_TEXT.split(),
    "numbers": OF_NUMBERS.split(),
    "nulls and cases": OF_NULLS.split(),
}


@dataclass(frozen=True)
class Expression:
    """An expression as tokens, with its faults: those of DuckDB's grammar and types are not among them."""

    tokens: tuple[Token, ...]
    faults: tuple[str, ...]

    @property
    def text(self) -> str:
        """The expression on one line, with one blank where the file has white space."""
        return "".join((" " if t.spaced else "") + _written(t) for t in self.tokens).strip()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it reads, as it writes them, each once."""
        return tuple(dict.fromkeys(t.text for t in self.tokens if t.kind == "column"))

    def columns(self, known: Iterable[str]) -> dict[str, str]:
        """The columns that it reads, by how it writes them: names are compared without regard to case."""
        by_word = {name.lower(): name for name in known}
        return {name: by_word[name.lower()] for name in self.names if name.lower() in by_word}

    def sql(self, inputs: Mapping[str, str]) -> str:
        """The expression with SQL in place of each name of a column."""
        parts = ((" " if t.spaced else "") + (inputs[t.text] if t.kind == "column" else t.text) for t in self.tokens)
        return "".join(parts).strip()


def shown_expression(text: str | None) -> str:
    """An expression as a message shows it: of a long one, the beginning."""
    return shortened_line(text or "", _MAX_SHOWN)


def column_reference(name: str) -> str:
    """The name of a column as an expression writes it, in quotes where it needs them.

    >>> column_reference("year"), column_reference("Ship City"), column_reference("case")
    ('year', '"Ship City"', '"case"')
    """
    if name.lower() in _KEYWORDS or not re.fullmatch(r"[^\W\d]\w*", name):
        return '"' + name.replace('"', '""') + '"'
    return name


def _written(token: Token) -> str:
    return column_reference(token.text) if token.kind == "column" else token.text


@lru_cache(maxsize=1024)
def parse_expression(text: str) -> Expression:
    """Split an expression into tokens, and look for what an expression may not hold."""
    if len(text) > MAX_LENGTH:
        fault = f"the expression has {len(text):,} characters, at most {MAX_LENGTH:,} are allowed: write a shorter one"
        return Expression((), (fault,))
    tokens, faults = split_tokens(text)
    if not faults:
        tokens, faults = _classified(tokens)
    if not faults:
        faults = list(_sign_faults(tokens)) or list(growth_faults(tokens))
    return Expression(tuple(tokens), tuple(dict.fromkeys(faults))[:MAX_FAULTS])


def _classified(tokens: list[Token]) -> tuple[list[Token], list[str]]:
    """The tokens with the names of columns marked, and the faults of names."""
    classified: list[Token] = []
    faults: list[str] = []
    for nr, token in enumerate(tokens):
        before = tokens[nr - 1] if nr else None
        after = tokens[nr + 1] if nr + 1 < len(tokens) else None
        if token.kind == "quoted":
            name = token.text[1:-1].replace('""', '"')
            token = Token("column", name, token.spaced)
            if after is not None and after.text == "(":
                shown = shortened_line(name, _MAX_SHOWN_NAME)
                faults.append(f"{shown!r} is not a function: write the names of functions without quotes")
        elif token.kind == "name":
            fault = _interval_fault(tokens[nr : nr + 3]) or _name_fault(token, before, after)
            if fault is None:
                token = Token("column", token.text, token.spaced)
            elif fault:
                faults.append(fault)
        classified.append(token)
    return classified, faults


def _interval_fault(tokens: Sequence[Token]) -> str:
    """What is wrong with an interval of which only the number is in quotes, or nothing is; empty when it is none."""
    if tokens[0].word != "interval" or len(tokens) < 3 or tokens[1].kind not in ("number", "text"):
        return ""
    unit = tokens[2].word.removesuffix("s")
    if tokens[2].kind != "name" or unit not in _UNITS:
        return ""
    written = " ".join(token.text for token in tokens)
    return f"{written} is not allowed: write to_{unit}s({tokens[1].text.strip(chr(39))})"


def _name_fault(token: Token, before: Token | None, after: Token | None) -> str | None:
    """What is wrong with a name; empty when it is a word of the language, None when it stands for a column."""
    word, follows = token.word, after.text if after is not None else ""
    shown = shortened_line(token.text, _MAX_SHOWN_NAME)
    if before is not None and (before.text == "::" or before.word == "as"):
        remedy = _REMEDIES.get(word) or f"the types are {', '.join(sorted(TYPES))}"
        return "" if word in TYPES else f"the type {shown} is not allowed: {remedy}"
    if word == "from" and (before is None or before.word != "distinct"):
        return f"{token.text} is not allowed, except after DISTINCT: an expression reads the columns of its own row"
    if word in _KEYWORDS:
        known = follows != "(" or word in _BEFORE_PARENTHESIS
        return "" if known else f"{token.text} is not a function"
    if follows == "(":
        return "" if word in FUNCTIONS else _function_fault(shown)
    if after is not None and after.kind == "text":
        return "" if word in _TYPED_LITERALS else f"{shown} before a text is not allowed: write a cast"
    return None


def _function_fault(name: str) -> str:
    if remedy := _REMEDIES.get(name.lower()):
        return f"the function {name} is not allowed: {remedy}"
    if _UNREPEATABLE.fullmatch(name.lower()):
        return f"the function {name} is not allowed: it gives another value each time; use columns of the row"
    return (
        f"the function {name} is not allowed{did_you_mean(name.lower(), sorted(FUNCTIONS))}; allowed are functions of"
        " one row whose result depends on their arguments alone: docs/reference/contract.md lists them"
    )


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The fault of a name that is no column."""
    if name.lower() == "select":
        return f"{name} is not allowed: {_NO_SUBQUERY}"
    if _UNREPEATABLE.fullmatch(name.lower()):
        return f"{name} is not allowed: it gives another value each time; use columns of the row"
    shown = shortened_line(name, _MAX_SHOWN_NAME)
    return f"the contract has no column {shown}{did_you_mean(name, known)}: an expression reads declared columns"


def _sign_faults(tokens: Iterable[Token]) -> Iterator[str]:
    closing = {"(": ")", "[": "]"}
    opened: list[str] = []
    before: Token | None = None
    for token in tokens:
        previous, before = before, token
        if token.kind != "sign":
            continue
        if token.text == "*" and not ends_a_value(previous):
            yield "* multiplies two values; it does not stand for all columns"
            return
        if token.text in closing:
            opened.append(closing[token.text])
            if len(opened) > MAX_DEPTH:
                yield f"its brackets are nested more than {MAX_DEPTH} deep: write it with fewer of them"
                return
        elif token.text in (")", "]") and (not opened or opened.pop() != token.text):
            yield f"{token.text} closes nothing"
            return
        elif token.text == "," and not opened:
            yield "a comma outside parentheses: write one value"
            return
    if opened:
        yield f"{opened[-1]} is missing"
