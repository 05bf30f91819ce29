"""Nights of scoring with directly drawn features: nothing is trained or written, but the step's rules are applied.

The attributes are drawn by the simulator's own process. History grows from night to night and the calendar moves on;
every sixth night is a holiday with few orders. None of that is drift.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.model import Contract
from apex_ml.core.drift import detect_drift
from apex_ml.core.features import feature_columns, kind_of
from apex_ml.core.profile import Bins, ModelProfile, Profile, bins_of
from apex_ml.core.unknown_values import MIN_LOST, UnknownJump, unknown_jumps
from apex_ml.pipelines import load_pipeline
from apex_ml.services.drift_monitoring import WINDOW_RUNS, Batch, compared
from apex_ml.settings import Settings
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.process import load_process

TRAINED_ON, NEWEST, ORDERS, HOLIDAY = 90_000, 25_000, 10_000, 2_000
CLASSES, REMEMBERED = 3, 3
COUNT, DAYS_SINCE = "history_orders", "history_days_since_last"


@dataclass
class Nights:
    """A model over time: its training examples and its scored orders of many nights."""

    contract: Contract
    seed: int
    population: pa.Table
    settled: tuple[str, float] | None = None
    """A change before the training: half of the examples, the newest orders and every night have it."""
    random: np.random.Generator = field(init=False)
    recent: deque[Profile] = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng([self.seed, 7])
        self.recent = deque(maxlen=WINDOW_RUNS)
        expected = {*self.contract.features.attributes, COUNT, DAYS_SINCE, self.calendar}
        self.columns: tuple[FeatureColumn, ...] = tuple(c for c in feature_columns(self.contract) if c.name in expected)
        older, newer = (self._orders(TRAINED_ON // 2, night=0, drift=change) for change in (None, self.settled))
        examples = pa.concat_tables([older, newer])
        bins: dict[str, Bins] = bins_of(self.columns, examples)
        trained = self._profile(bins, examples)
        newest = Profile(bins, CLASSES)
        newest.add_features(self._orders(NEWEST, night=0, drift=self.settled))
        recent = {name: newest.features[name].tolist() for name in self.contract.features.attributes}
        self.model: ModelProfile = trained.of_model(recent)
        self.bins = bins
        self.alpha, self.min_rows = (
            load_pipeline(Settings.load()).options.monitoring.drift_alpha,
            load_pipeline(Settings.load()).options.monitoring.drift_min_rows,
        )

    @property
    def calendar(self) -> str:
        return f"{self.contract.timestamp}_day_of_week"

    def _orders(self, n: int, night: int, drift: tuple[str, float] | None = None) -> pa.Table:
        weights = None
        if drift is not None:
            name, times = drift
            values = self.population.column(name).combine_chunks().dictionary_encode()
            codes = values.indices.to_numpy()
            counts = np.bincount(codes) / len(codes)
            largest = int(counts.argmax())
            others = (1 - times * counts[largest]) / (1 - counts[largest])
            weights = np.where(codes == largest, times, others)
            weights /= weights.sum()
        rows = self.random.choice(self.population.num_rows, n, replace=True, p=weights)
        columns = {
            name: self.population.column(name).take(pa.array(rows)) for name in self.contract.features.attributes
        }
        columns[COUNT] = pa.chunked_array([self.random.poisson(8.0 + night / 60, n).astype(float)])
        columns[DAYS_SINCE] = pa.chunked_array([self.random.geometric(1 / 60, n).astype(float)])
        columns[self.calendar] = pa.chunked_array([np.full(n, float(night % 7))])
        return pa.table(columns)

    def _profile(self, bins: dict[str, Bins], orders: pa.Table) -> Profile:
        profile = Profile(bins, CLASSES)
        profile.add_features(orders)
        # what is named follows one attribute, as it does on the real orders
        name = self.contract.features.attributes[REMEMBERED]
        codes = orders.column(name).combine_chunks().dictionary_encode()
        levels = np.array(sorted(codes.dictionary.to_pylist()))
        places = np.searchsorted(levels, np.array(codes.dictionary.to_pylist()))[codes.indices.to_numpy()]
        profile.add_predictions(places % CLASSES, 0.4 + 0.15 * places)
        return profile

    def score(self, night: int, drift: tuple[str, float] | None = None) -> Profile:
        """Score a night's orders. `drift` multiplies the frequency of an attribute's largest level."""
        return self._profile(
            self.bins, self._orders(HOLIDAY if night % 6 == 0 else ORDERS, night, drift or self.settled)
        )

    def drifted(self, *profiles: Profile) -> set[str]:
        """The features that are found to have drifted in one drop, or in a day of several."""
        window = _summed(self.recent) if self.recent else None
        held = compared(self.contract, _summed(profiles), self.model, window)
        verdicts = detect_drift({name: c for name, (c, _, _) in held.items()}, alpha=self.alpha, min_rows=self.min_rows)
        return {verdict.feature for verdict in verdicts if verdict.drifted}

    def unknown_jumps(self, profile: Profile) -> list[UnknownJump]:
        """What the check at scoring time finds in a drop."""
        kinds = {c.name: kind_of(self.contract, c.name) for c in self.columns}
        tested: dict[str, str] = {name: kind for name, kind in kinds.items() if kind in MIN_LOST}
        categorical = {c.name: c.kind == "categorical" for c in self.columns}
        references = [counts for counts in (self.model.features, self.model.recent) if counts]
        return unknown_jumps(profile.features, references, tested, categorical, alpha=self.alpha)

    def healthy(self, number: int) -> Iterator[set[str]]:
        """False alarms in unchanged nights of one drop each."""
        for night in range(1, number + 1):
            profile = self.score(night)
            drifted = self.drifted(profile)
            if not drifted:
                self.recent.append(profile)
            yield drifted

    def finds(self, drift: tuple[str, float], after: int = 8) -> bool:
        """Whether a drift after healthy nights is detected in its first two drops, or in the day of both."""
        for _ in self.healthy(after):
            pass
        first, second = (self.score(after + 1, drift) for _ in range(2))
        return any(drift[0] in self.drifted(*drops) for drops in ((first,), (second,), (first, second)))


def _summed(profiles: Collection[Profile]) -> Batch:
    rows = sum(int(p.predicted.sum()) for p in profiles)
    return Batch(
        features={name: np.sum([p.features[name] for p in profiles], axis=0) for name in profiles[0].features},
        predicted=np.sum([p.predicted for p in profiles], axis=0),
        confidence=np.sum([p.confidence for p in profiles], axis=0),
        quarantine=np.array([rows, rows // 1000]),
        rows=rows,
    )


def population(seed: int = 3, orders: int = 200_000) -> pa.Table:
    """Orders of the simulator's base process."""
    return simulate_orders(load_process(), orders=orders, clients=150_000, seed=seed, mode="base")
