"""Words that must not come back, each with the better ones. A reminder: it does not replace reading the text aloud."""

from __future__ import annotations

import re

TEXT = {
    r"\b(?:is|are|was|were|be|been|being) told\b|\btells\b|\btelling\b": "reports, shows, error message",
    r"\bjudge[ds]?\b|\bjudging\b|\bjudgement\b": "evaluate, detect, predict, check",
    r"\bby hand\b|\bperson's word\b": "manual, manually, on the command line",
    r"\bsurely\b": "significantly, lower bound",
    r"\b(?:became|becomes?) of\b": "outcome of, result of",
    r"\bwhat proves it\b|\bwhat is not promised\b|\bhow it is kept\b": "Tests, Limitations, How it works",
    r"\bstands? (?:once|twice)\b": "is unique, occurs twice",
    r"\b(?:at most|for) so (?:long|many)\b|\bso (?:long|many) (?:later|after)\b|\bso long (?:as )?the\b": "timeout",
    r"\bturn(?:ed|s)? down\b": "rejected",
    r"\bas of the moment\b": "point in time",
    r"\bset aside\b": "quarantined, skipped",
    r"\bfor ever\b": "forever, permanently",
    r"\banew\b|\bafresh\b": "again",
    r"\bwhoever\b": "the user, the client, the next process",
    r"\blest\b|\bwhence\b|\bthence\b|\bnought\b|\bere\b|\bsave for\b|\bupon\b": "so that, except, on",
    r"\bthere(?:by|in|of|up(?:on))\b|\bwhere(?:in|of|up(?:on))\b|\bhere(?:by|in|of|up(?:on))\b": "name the thing",
    r"\bis made to\b|\bare made to\b": "must",
    r"\bone row an?\b": "one row for each",
    r"\bleash\b": "parent death, proxy",
}
"""Patterns in prose, comments, docstrings and texts, by the better words."""

LOCALS = re.compile(r"found|told|made|seen|wanted|said")
"""Names that say nothing about their content."""
PARTS = re.compile(r"judg(?:e|ed|es|ing|ement)|a(?:new)|sure(?:ly)|who(?:ever)|told")
"""Words within a name. The groups keep this line itself free of them."""
CONSTANTS = re.compile(r"_?(?:MOST|LEAST|FEW|AGAIN)_.*|_?PATIENCE|.*_AT_MOST")
"""Constants whose name does not say MAX, MIN, RETRY or TIMEOUT."""


def avoided_texts(text: str) -> list[str]:
    """The avoided words in a text, each with the better ones. A phrase can go over a line break."""
    line = re.sub(r"\s+", " ", text)
    return [f"{match[0]!r}: write {better}" for word, better in TEXT.items() for match in re.finditer(word, line, re.I)]


def avoided_name(name: str) -> str | None:
    """The problem of an avoided name of a variable, function or class; None for another name."""
    if LOCALS.fullmatch(name):
        return f"{name!r}: name the content: rows, drops, columns"
    if CONSTANTS.fullmatch(name):
        return f"{name!r}: write MAX_, MIN_, SMALL_, RETRY_ or TIMEOUT"
    if any(PARTS.fullmatch(word.lower()) for word in re.findall(r"[A-Z]?[a-z]+", name)):
        return f"{name!r}: write evaluate, detect, predict, check, report, again"
    return None
