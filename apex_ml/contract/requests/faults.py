"""What is wrong with a request, with the place, the rule, the value and what to do."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from apex_ml.errors import DataError
from apex_ml.json_text import json_text
from apex_ml.text import visible
from apex_ml.wording import counted

MAX_FAULTS = 1000
"""Maximum reported faults of a request; the others are counted."""
MAX_SHOWN = 200
"""Characters shown of a value."""
AROUND = 40
"""Characters shown on either side of what is no JSON."""


class Fault(NamedTuple):
    """What is wrong with a request: where, which rule, the value as text with what is invisible escaped, what to do."""

    path: str
    rule: str
    value: str
    remedy: str = ""


class RefusedError(DataError):
    """A request breaks the contract. `faults` are its first ones in order, `total` counts them all."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults, self.total = tuple(faults[:MAX_FAULTS]), len(faults)
        first = "; ".join(f"{f.path}: {f.rule}" for f in faults[:3])
        super().__init__(f"{counted(self.total, 'fault')}: {first}")


def early_row(place: int, name: str, day: date, since: date) -> Fault:
    """The fault of a row before the history snapshot."""
    what = "time" if isinstance(since, datetime) else "day"
    rule = f"on or after {since.isoformat()}, the {what} of the history snapshot"
    remedy = f"send a {what} from then on, or score the row in a drop: a file may hold earlier ones"
    return Fault(row_path(place, name), rule, day.isoformat(), remedy)


def repeated_keys(body: bytes) -> list[Fault]:
    """Repeated keys in an object of the body. A JSON reader would keep the last one without an error."""
    faults: list[Fault] = []

    class Pairs(dict[str, Any]):
        twice: tuple[str, ...] = ()

    def pairs(items: list[tuple[str, Any]]) -> Pairs:
        result = Pairs(items)
        if len(result) < len(items):
            result.twice = tuple(name for name, n in Counter(name for name, _ in items).items() if n > 1)
        return result

    def look(value: Any, path: str) -> None:
        if isinstance(value, Pairs):
            for name in value.twice:
                place = f"{path}.{name[:MAX_SHOWN]}".removeprefix(".")
                faults.append(Fault(place, "the key occurs twice", shown(value[name]), "send it once"))
            for name, below in value.items():
                look(below, f"{path}.{name}".removeprefix("."))
        elif isinstance(value, list):
            for nr, below in enumerate(value):
                look(below, f"{path}[{nr}]")

    look(json.loads(body, object_pairs_hook=pairs), "")
    return faults


def row_path(place: int, name: str) -> str:
    """A value of a row in the body, as ``rows[3].name``."""
    return f"rows[{place}].{name}"


def body_path(loc: Sequence[int | str]) -> str:
    """A place in the body, as ``rows[3].name``."""
    path = ""
    for part in loc:
        # a key of the sender's own may be as long as the body
        path += f"[{part}]" if isinstance(part, int) else f".{visible(part[:MAX_SHOWN])}"
    return path.removeprefix(".") or "body"


def shown(value: Any) -> str:
    """A value as text: shortened when it is long, with invisible characters escaped."""
    if isinstance(value, str):
        text = f"'{value}'"
    elif isinstance(value, float) and not math.isfinite(value):
        text = str(value)  # no JSON, but what was sent
    else:
        text = json_text(value, ensure_ascii=False, default=repr)
    text = visible(text[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def excerpt(body: Any, message: str) -> str:
    """The part of a body that is no JSON, around the place that a message names."""
    text = bytes(body).decode("utf-8", "backslashreplace") if isinstance(body, bytes | bytearray) else str(body)
    match = re.search(r"line (\d+) column (\d+)", message)
    lines = text.splitlines() or [""]
    line = lines[min(int(match[1]), len(lines)) - 1] if match else lines[0]
    middle = int(match[2]) if match else 0
    first = max(0, min(middle, len(line)) - AROUND)
    return f"{'…' if first else ''}{visible(line[first : middle + AROUND])}{'…' if len(line) > middle + AROUND else ''}"
