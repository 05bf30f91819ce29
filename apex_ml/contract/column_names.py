"""Find the contract's columns among the names of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apex_ml.contract.model import Contract
from apex_ml.text import folded


@dataclass(frozen=True)
class Matched:
    """The columns of the contract in a file; derived ones are in none.

    `near` holds similar names for absent columns, `ambiguous` all names of a file that match the same column, `derived`
    the names of a file that match a derived column.
    """

    places: dict[str, int]
    near: dict[str, tuple[str, ...]]
    ambiguous: dict[str, tuple[str, ...]]
    derived: dict[str, tuple[str, ...]]


def match_columns(contract: Contract, names: Sequence[str]) -> Matched:
    """Find the contract's columns in a file: by their exact names, or as `folded` when the contract says so."""
    alike: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name not in contract.columns:
            alike.setdefault(folded(name), []).append(place)
    matched = Matched({}, {}, {}, {})
    for column in contract.file_columns:
        exact = [place for place, name in enumerate(names) if name == column]
        near = alike.get(folded(column), [])
        if near and (exact or (contract.match == "insensitive" and len(near) > 1)):
            matched.ambiguous[column] = tuple(names[place] for place in exact + near)
        elif contract.match == "insensitive" and near:
            matched.places[column] = near[0]
        elif len(exact) == 1:
            matched.places[column] = exact[0]
        elif near:
            matched.near[column] = tuple(names[place] for place in near)
    for column in contract.derived:
        if delivered := [name for name in names if name == column or folded(name) == folded(column)]:
            matched.derived[column] = tuple(dict.fromkeys(delivered))
    return matched
