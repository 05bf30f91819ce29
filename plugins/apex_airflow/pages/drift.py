"""The drift map of the Apex page: a cell for each feature and subject, coloured by its effect."""

from __future__ import annotations

import math
from collections import Counter

from apex_ml.adapters.postgres.views import ViewRow

HEAT_STEPS = (2, 5)
"""The color of a drift changes at these multiples of the minimum effect."""
DEFAULT_MIN_EFFECT = 0.05
"""The minimum effect of old measurements, which did not store it."""


def is_framed(cell: ViewRow) -> bool:
    """Whether a cell of the drift map is framed: its feature has drifted, by an effect that matters."""
    effect, least = cell["effect"], cell["min_effect"]
    return bool(cell["drifted"]) and (effect is None or least is None or effect >= least)


def heat(cell: ViewRow) -> str:
    """The color of a cell of the drift map: 0 and 1 for a feature without drift, 3 to 5 for a drifted feature.

    The steps are multiples of the effect from which a change matters. Empty where there was no test.

    >>> of = lambda effect, drifted: {"effect": effect, "min_effect": 0.1, "drifted": drifted}
    >>> [heat(of(*c)) for c in ((0.02, False), (0.09, False), (0.12, False), (0.12, True), (0.3, True), (2.0, True))]
    ['0', '1', '1', '3', '4', '5']
    >>> heat(of(0.001, True)), heat(of(None, False))
    ('0', '')
    """
    effect, least = cell["effect"], cell["min_effect"] or DEFAULT_MIN_EFFECT
    if effect is None or not math.isfinite(effect):
        return "3" if is_framed(cell) else ""
    if not is_framed(cell):
        return str(int(effect >= least / 2))
    return str(3 + sum(effect >= step * least for step in HEAT_STEPS))


def drift_map(rows: list[ViewRow]) -> ViewRow:
    """Rows of drift as a table: one line per feature, the largest drift first; one column per subject, newest last."""
    subjects = {row["subject"]: row for row in rows}
    cells = {(row["feature"], row["subject"]): row for row in rows}
    kinds = {row["feature"]: row["kind"] for row in rows}
    often = Counter(row["feature"] for row in rows if row["drifted"])
    features = sorted(kinds.items(), key=lambda item: (-often[item[0]], item[1], item[0]))
    return {"subjects": list(subjects.values()), "features": features, "cells": cells}
