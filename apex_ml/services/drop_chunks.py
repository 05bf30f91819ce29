"""Divide the waiting drops into chunks, one for each mapped task."""

from __future__ import annotations

from collections.abc import Sequence

from apex_ml.adapters.storage.waiting import Waiting
from apex_ml.json_text import json_text
from apex_ml.services.scoring_results import DropChunk

MAX_NAMES_LENGTH = 100_000
"""Maximum length of a chunk's names, in characters: Linux refuses an argument of 128 KiB or more."""
MAX_LABEL = 200
"""Maximum length of a chunk's label, in characters: Airflow refuses more than 250."""
MAX_BAD = 200
"""Bad drops of a run that get a mapped task each; Airflow maps over 1,024 items at most, and each takes a second."""


def chunks(waiting: list[Waiting], max_drops: int, max_bytes: int) -> tuple[DropChunk, ...]:
    """Divide drops into chunks of limited number and size. A single larger drop is a chunk of its own."""
    parts: list[list[Waiting]] = []
    size = names = 0
    for drop in waiting:
        name = escaped_length(drop.name)
        if not parts or len(parts[-1]) >= max_drops or size + drop.size > max_bytes or names + name > MAX_NAMES_LENGTH:
            parts.append([])
            size = names = 0
        parts[-1].append(drop)
        size += drop.size
        names += name
    names_of_parts = [tuple(drop.name for drop in part) for part in parts]
    return tuple(DropChunk(label=chunk_label(part), drops=part) for part in names_of_parts)


def chunk_label(names: Sequence[str]) -> str:
    """Label of a chunk in the task list: its first drop and the number of the others."""
    first = short_label(names[0])
    return first if len(names) == 1 else f"{first} +{len(names) - 1}"


def short_label(name: str) -> str:
    """The name of a drop, cut to the maximum length of a label."""
    return name if len(name) <= MAX_LABEL else f"{name[:MAX_LABEL]}…"


def escaped_length(name: str) -> int:
    """The length of a name in a JSON list that is also escaped for HTML, as Airflow's templates do."""
    return len(json_text(name)) + 2 + 5 * sum(name.count(c) for c in "<>&'")
