"""The logits of an order's class, from its attribute and its day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from apex_ml.contract.time_units import EPOCH
from apex_ml.simulate.draws import Codes, Days, Floats
from apex_ml.simulate.process import Mode, Process
from apex_ml.simulate.process_columns import Choice, Target

DAYS_A_YEAR = 365.25


def softmax(logits: Floats) -> Floats:
    """Probabilities of rows of logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


@dataclass(frozen=True)
class Logits:
    """The part of an order's logits that is known from its attribute and its day."""

    table: Floats  # (levels of the attribute, classes)
    trend: Floats  # (classes,) per year
    origin: int  # the day the trend starts from, days since 1970
    shifts: tuple[tuple[int, Floats], ...]  # (first day, (classes,))

    @classmethod
    def of(cls, process: Process, mode: Mode, origin: date) -> Logits:
        """Compile a mode."""
        classes = process.classes
        attribute = process.named(Choice)[process.given]
        table = process.named(Target)[process.target].table
        return cls(
            np.log([[table[level][name] for name in classes] for level in attribute.levels]),
            np.array([mode.trend.get(name, 0.0) for name in classes]),
            (origin - EPOCH).days,
            tuple(
                ((drift.day - EPOCH).days, np.array([drift.logits.get(name, 0.0) for name in classes]))
                for drift in mode.drift.values()
                if drift.logits
            ),
        )

    def at(self, levels: Codes, days: Days) -> Floats:
        """Logits (orders, classes) before the entity's effect and persistence."""
        logits: Floats = self.table[levels]
        if self.trend.any():
            logits = logits + ((days - self.origin) / DAYS_A_YEAR)[:, None] * self.trend
        for day, shift in self.shifts:
            logits = logits + np.where((days >= day)[:, None], shift, 0.0)
        return logits
