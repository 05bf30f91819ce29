"""Error rate and power of the gate, and its delay, on models and rows of the simulator.

The true gain of a model is known exactly: all looks draw their rows from one universe of feature vectors, and the
simulator knows their true class probabilities.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from statistics import median

import numpy as np
import pyarrow as pa
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.policy import Promotion
from apex_ml.core.candidates import candidate
from apex_ml.core.candidates.interface import FitContext, Part
from apex_ml.core.estimator import Encoder
from apex_ml.core.features import feature_columns
from apex_ml.core.promotion import Contender, Holdout, Serving, decide, level_of_look
from apex_ml.core.uncertainty import Clusters, lower_bound
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.simulate.draws import pick_each
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.log_loss import class_codes, truth_matrix
from apex_ml.simulate.process import load_process
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene

MODELS, UNIVERSE = 200, 200_000
TRAINING, VALIDATION = 90_000, 30_000
WINDOW, NIGHTLY = 30_000, 3_000
"""Rows of a holdout, and how many of them are new each night. With 150,000 clients and 1.25 million rows a year the
newest fifth of the clients' last rows covers about ten days."""
LOOKS, YEARS, NIGHTS = 2_000, 1_000, 365
HARD_LOOKS, POWER_LOOKS, YEARS_WITHOUT_MARGIN = 500, 300, 100
GAIN = 0.003
"""Relative gain beyond the margin that the gate must detect."""


@dataclass(frozen=True)
class World:
    """A universe of n feature vectors: true probabilities (n, k), and every model's losses by class, (n, k) each.

    `shares` are the class shares.
    """

    truth: np.ndarray
    losses: list[np.ndarray]
    shares: np.ndarray
    classes: tuple[str, ...]

    def true_loss(self, losses: np.ndarray) -> float:
        """Expected log loss over the universe."""
        return float((self.truth * losses).sum(axis=1).mean())

    def drawn(self, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Places of n vectors and the drawn classes, (n,) each."""
        places = random.integers(0, len(self.truth), n)
        return places, pick_each(self.truth[places], random.random(n))

    def decided(
        self, ours: np.ndarray, theirs: np.ndarray, places: np.ndarray, y: np.ndarray, policy: Promotion, looks: int
    ) -> bool:
        """The gate's decision about two models, given by their losses, on drawn rows of different clients."""
        contenders = [Contender(np.exp(-losses[places]), self.classes, ("a",)) for losses in (ours, theirs)]
        serving = Serving(self.classes, ("a",))
        return decide(*contenders, Holdout(y, self.shares), policy, serving, looks=looks, seed=looks).promote

    def worse(self, losses: np.ndarray, gap: float) -> np.ndarray:
        """The model, blurred by a temperature until it expects `gap` nats more; it predicts the same classes."""
        target = self.true_loss(losses) + gap
        return _blurred(losses, float(brentq(lambda w: self.true_loss(_blurred(losses, w)) - target, 0, 0.99)))


def _blurred(losses: np.ndarray, weight: float) -> np.ndarray:
    scores = -losses * (1 - weight)
    result: np.ndarray = np.log(np.exp(scores).sum(axis=1, keepdims=True)) - scores
    return result


def _rows(n: int, seed: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    process = load_process()
    table, truth = simulate_orders(process, orders=n, clients=n, seed=seed, probabilities=True)
    texts = pa.table(
        {
            name: column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    )
    return texts, class_codes(table, process), truth_matrix(truth)


def _columns() -> tuple[tuple[FeatureColumn, ...], tuple[str, ...]]:
    contract = load_pipeline(Settings.load()).contract
    attributes = set(contract.features.attributes)
    return tuple(c for c in feature_columns(contract) if c.name in attributes), contract.classes


def build(models: int = MODELS, universe: int = UNIVERSE, training: int = TRAINING) -> World:
    """Train models on separate samples of the base process, on all attributes, without a search."""
    _, y, truth = _rows(universe, seed=1)
    _, classes = _columns()
    # started as new processes, because the threads of XGBoost do not survive a fork
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        losses = list(pool.map(partial(_trained, universe, training), range(models)))
    return World(truth, losses, np.bincount(y, minlength=len(classes)) / universe, classes)


@cache
def _universe(n: int) -> pa.Table:
    return _rows(n, seed=1)[0]


def _trained(universe: int, training: int, number: int) -> np.ndarray:
    """A model's losses by class for every vector of the universe, float32."""
    columns, classes = _columns()
    sample, y, _ = _rows(training + VALIDATION, seed=100 + number)
    encoder = Encoder.fit(columns, sample.slice(0, training))
    x = encoder.encode(sample)
    context = FitContext(classes, encoder.columns, seed=number, threads=1)
    kind = candidate("xgboost")
    parts = (Part(x[:training], y[:training]), Part(x[training:], y[training:]))
    fitted = kind.fit(kind.defaults(context), *parts, context)
    losses: np.ndarray = -np.log(kind.load(fitted.content).predict(encoder.encode(_universe(universe))))
    return losses


def looks(world: World, policy: Promotion, gap: float | None, seeds: range) -> int:
    """Promotions over single looks, one per seed, at two models of the pool, or at a model and a worse copy (`gap`)."""
    promoted = 0
    for seed in seeds:
        random = np.random.default_rng([1, seed])
        a, b = random.choice(len(world.losses), 2, replace=False)
        champion = world.losses[b] if gap is None else world.worse(world.losses[a], gap)
        promoted += world.decided(world.losses[a], champion, *world.drawn(WINDOW, random), policy, 1)
    return promoted


def years(world: World, policy: Promotion, seeds: range, *, nights: int = NIGHTS, nightly: int = NIGHTLY) -> list[int]:
    """Number of false promotions in every simulated year: of models whose true gain is not above the margin.

    Each night another model of the pool is the challenger, on a holdout with `nightly` new rows.
    """
    expected = np.array([world.true_loss(losses) for losses in world.losses])
    window = WINDOW * nightly // NIGHTLY
    results = []
    for seed in seeds:
        random = np.random.default_rng([2, seed])
        places, y = world.drawn(window + (nights - 1) * nightly, random)
        flat = places * len(world.classes) + y
        champion, look, false = int(random.integers(len(world.losses))), 0, 0
        for night in range(nights):
            look += 1
            challenger = int(random.integers(len(world.losses)))
            rows = slice(night * nightly, night * nightly + window)
            # every promotion needs this bound; checking it first saves the rest of most looks
            ours, theirs = (world.losses[model].ravel()[flat[rows]] for model in (challenger, champion))
            bound = lower_bound(Clusters.of(theirs - ours, None), level_of_look(policy, look), look)
            if bound.low > policy.margin and world.decided(
                world.losses[challenger], world.losses[champion], places[rows], y[rows], policy, look
            ):
                false += bool(expected[champion] - expected[challenger] <= policy.margin)
                champion, look = challenger, 0
        results.append(false)
    return results


def delay(world: World, policy: Promotion, gap: float, first: int, seeds: range, *, most: int = NIGHTS) -> list[int]:
    """Nights until a model that is truly better by `gap` nats, tried from look `first` on, becomes champion."""
    results = []
    for seed in seeds:
        random = np.random.default_rng([3, seed])
        champion = world.worse(world.losses[int(random.integers(len(world.losses)))], gap)
        places, y = world.drawn(WINDOW + most * NIGHTLY, random)
        for night in range(most):
            challenger = world.losses[int(random.integers(len(world.losses)))]
            rows = slice(night * NIGHTLY, night * NIGHTLY + WINDOW)
            differences = Clusters.of((champion - challenger)[places[rows], y[rows]], None)
            level = level_of_look(policy, first + night)
            if lower_bound(differences, level, night).low > policy.margin and world.decided(
                challenger, champion, places[rows], y[rows], policy, first + night
            ):
                break
        results.append(night + 1)
    return results


_world: World | None = None


def _call(work: Callable[[World, range], object], seeds: range) -> object:
    assert _world is not None
    return work(_world, seeds)


def _spread(pool: ProcessPoolExecutor, work: Callable[..., object], count: int) -> list[object]:
    parts = min(count, 16)
    bounds = np.linspace(0, count, parts + 1).astype(int)
    return list(pool.map(partial(_call, work), [range(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]))


@measurement
def gate(scene: Scene) -> Iterator[Row]:
    """Train 200 models on separate samples, and let the gate compare them for a thousand simulated years."""
    global _world
    _world = world = build()
    policy = load_pipeline(Settings.load()).contract.promotion
    single, sequential = (policy.model_copy(update={"mode": mode, "floor": None}) for mode in ("single", "sequential"))
    optimum = float(-(world.truth * np.log(world.truth)).sum(axis=1).mean())
    expected = [world.true_loss(losses) for losses in world.losses]
    yield Row(
        "pool, mean excess over the optimum", 100 * (np.mean(expected) / optimum - 1), "%", note=f"{MODELS} models"
    )
    yield Row("pool, largest true gain of one over another", max(expected) - min(expected), "nats")
    # forked after the models are trained, so that the workers share their memory
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        share = sum(_spread(pool, partial(_looks, single, None), LOOKS)) / LOOKS  # type: ignore[arg-type]
        yield Row("A/A, single looks that promote", 100 * share, "%", 5.0, note=f"{LOOKS:,} looks")
        share = sum(_spread(pool, partial(_looks, single, policy.margin), HARD_LOOKS)) / HARD_LOOKS  # type: ignore[arg-type]
        chance = Beside("what 5 % gives at most, 99 times in 100", 100 * binom.ppf(0.99, HARD_LOOKS, 0.05) / HARD_LOOKS)
        yield Row("gain of exactly the margin, single looks that promote", 100 * share, "%", chance.value, chance)
        gap = policy.margin + GAIN * optimum
        missed = 1 - sum(_spread(pool, partial(_looks, single, gap), POWER_LOOKS)) / POWER_LOOKS  # type: ignore[arg-type]
        yield Row(
            "0.3 % better beyond the margin, single looks that miss it",
            100 * missed,
            "%",
            10.0,
            note=f"{POWER_LOOKS} looks",
        )
        for margin, count in ((policy.margin, YEARS), (0.0, YEARS_WITHOUT_MARGIN)):
            policy_now = sequential.model_copy(update={"margin": margin})
            false = [n for part in _spread(pool, partial(_years, policy_now), count) for n in part]  # type: ignore[attr-defined]
            bad = sum(n > 0 for n in false)
            high = binomtest(bad, count).proportion_ci(0.9, method="exact").high
            note = f"{count:,} years; 95 % upper bound {100 * high:.2f} %"
            yield Row(f"years with a false promotion, margin {margin:g}", 100 * bad / count, "%", 5.0, note=note)
        for relative in (0.001, 0.003, 0.01):
            for first in (1, 180):
                gap = policy.margin + relative * optimum
                nights = [n for part in _spread(pool, partial(_delay, sequential, gap, first), 64) for n in part]  # type: ignore[attr-defined]
                yield Row(
                    f"{100 * relative:g} % better beyond the margin from look {first} on: nights until promoted",
                    median(nights),
                    "nights",
                    note=f"median of 64; 90 % within {np.quantile(nights, 0.9):g}",
                )


def _looks(policy: Promotion, gap: float | None, world: World, seeds: range) -> int:
    return looks(world, policy, gap, seeds)


def _years(policy: Promotion, world: World, seeds: range) -> list[int]:
    return years(world, policy, seeds)


def _delay(policy: Promotion, gap: float, first: int, world: World, seeds: range) -> list[int]:
    return delay(world, policy, gap, first, seeds)
