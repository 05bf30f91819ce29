"""The result of a step as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apex_ml.text import visible

MAX_ITEMS = 10
"""Maximum entries of a list that are shown; the rest is counted."""
MAX_VALUES = 6
"""Maximum values of an entry that are shown."""
MAX_TEXT = 200


def result_text(result: Mapping[str, Any]) -> str:
    """A title, then one line per field. Long lists are shortened and nested evidence is counted; the ledger has all.

    >>> print(result_text({"step": "score", "run": "manual", "scored": 1, "rows_scored": 1200, "failed": 0}))
    score: done (run manual)
      scored       1
      rows scored  1,200
      failed       0
    >>> print(result_text({"step": "score", "skip": "no drops are waiting", "bad": []}))
    score: nothing to do: no drops are waiting
    """
    step = str(result.get("step", "step"))
    run = f" (run {visible(str(result['run']))})" if "run" in result else ""
    if "skip" in result:
        return f"{step}: nothing to do: {_scalar(result['skip'])}"
    fields = {name: value for name, value in result.items() if name not in ("step", "run") and value not in ([], {})}
    width = max((len(name) for name in fields), default=0)
    lines = [f"{step}: done{run}"]
    for name, value in fields.items():
        first, *more = _lines(value)
        lines.append(f"  {name.replace('_', ' '):<{width}}  {first}")
        lines += [f"  {'':<{width}}  {line}" for line in more]
    return "\n".join(lines)


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield _entry(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value[:MAX_ITEMS]:
            yield _entry(item) if isinstance(item, Mapping) else _scalar(item)
        if (more := len(value) - MAX_ITEMS) > 0:
            yield f"… {more:,} more"
    else:
        yield _scalar(value)


def _entry(entry: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in entry.items() if not isinstance(v, Mapping | list | tuple)}
    shown = [f"{str(name).replace('_', ' ')} {_scalar(value)}" for name, value in list(plain.items())[:MAX_VALUES]]
    more = len(entry) - len(shown)
    return ", ".join([*shown, f"… {more:,} more"] if more else shown)


def _scalar(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = visible(str(value))
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
