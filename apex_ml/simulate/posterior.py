"""The best possible prediction without knowledge of the entities' effects."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.errors import ConfigError, DataError
from apex_ml.simulate.draws import Codes, Days, Floats
from apex_ml.simulate.log_loss import class_codes
from apex_ml.simulate.logits import Logits
from apex_ml.simulate.process import Mode, Process
from apex_ml.simulate.process_columns import Choice
from apex_ml.simulate.turns import Turns, remember
from apex_ml.wording import counted

ENTITIES_AT_ONCE = 4096  # keeps (entities, nodes, classes) under 100 MB at 15 nodes in two dimensions
MAX_DIMENSIONS = 3


def effect_nodes(sd: Floats, nodes: int) -> tuple[Floats, Floats]:
    """Gauss-Hermite nodes of the effects as factors of the odds (nodes, classes), and their weights (nodes,).

    Probabilities feel only differences of the effects to one of them, so n classes with an effect need at most n - 1
    dimensions. `sd` holds the standard deviation of each class's own, independent shift.
    Raises ConfigError when more than three dimensions remain.
    """
    contrast = np.concatenate([np.eye(len(sd) - 1), -np.ones((len(sd) - 1, 1))], axis=1)
    variances, axes = np.linalg.eigh(contrast @ np.diag(sd**2) @ contrast.T)
    kept = variances > 1e-12
    if kept.sum() > MAX_DIMENSIONS:
        raise ConfigError(f"effect_sd: {kept.sum()} dimensions; the quadrature takes {MAX_DIMENSIONS} at most")
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    grid, mass = np.zeros((1, 0)), np.ones(1)
    for _ in range(int(kept.sum())):
        grid = np.column_stack([np.repeat(grid, nodes, axis=0), np.tile(points, len(grid))])
        mass = np.outer(mass, weights).ravel()
    shifts = grid @ (axes[:, kept] * np.sqrt(variances[kept])).T
    return np.exp(np.column_stack([shifts, np.zeros(len(shifts))])), mass


def posterior_predictive(
    process: Process, orders: pa.Table, *, mode: str | Mode, start: date | None = None, nodes: int = 11
) -> Floats:
    """Class probabilities (orders, classes) from all that a model can know: the best possible model on average.

    Known are the attribute of an order, its day, the mode's parameters, and the days and classes of the same
    entity's orders of earlier days, among `orders`. The entity's effect is integrated out by Gauss-Hermite quadrature
    with `nodes` points a dimension; without effects the result equals the true probabilities. `start` is the day that
    :func:`~apex_ml.simulate.generate.simulate_orders` was given, by default the window's.

    Raises ConfigError for an unknown mode or more than three dimensions of effects; DataError when the table has
    levels or classes the process does not know (damaged orders).
    """
    if isinstance(mode, str):
        mode = process.mode(mode)
    logits = Logits.of(process, mode, start or process.window.start)
    factors, prior = effect_nodes(np.array([mode.effect_sd.get(name, 0.0) for name in process.classes]), nodes)
    levels = _level_codes(orders, process)
    classes = class_codes(orders, process)
    entities = _entity_codes(orders, process)
    days: Days = orders.column(process.timestamp).cast(pa.timestamp("s")).cast(pa.int64()).to_numpy() // 86_400
    odds = np.exp(logits.at(levels, days))
    result = np.empty_like(odds)
    by_entity = np.argsort(entities, kind="stable")
    firsts = np.arange(0, entities.max(initial=-1) + 1 + ENTITIES_AT_ONCE, ENTITIES_AT_ONCE)
    edges = np.searchsorted(entities[by_entity], firsts)
    for a, b in pairwise(edges):
        rows = by_entity[a:b]
        if len(rows):
            local = entities[rows] - entities[rows].min()
            result[rows] = _predict(
                local, days[rows], classes[rows], odds[rows], factors, prior, np.exp(mode.persistence)
            )
    return result


def _predict(
    entities: Codes, days: Days, classes: Codes, odds: Floats, factors: Floats, prior: Floats, persistence: float
) -> Floats:
    """Filter forward in turns: predict with the current weights, then weight every node by the drawn class."""
    size = int(entities.max()) + 1
    weights = np.tile(prior, (size, 1))
    last = np.full(size, -1, np.int8)
    result = np.empty_like(odds)
    for rows in Turns.of(entities, days):
        owners = entities[rows]
        turn, previous = odds[rows], last[owners]
        known = np.flatnonzero(previous >= 0)
        turn[known, previous[known]] *= persistence
        joint = turn[:, None, :] * factors  # (orders, nodes, classes)
        joint /= joint.sum(axis=2, keepdims=True)
        result[rows] = np.einsum("on,onc->oc", weights[owners], joint)
        came = joint[np.arange(len(rows)), :, classes[rows]]
        np.multiply.at(weights, owners, came)  # orders of one day are independent given the effect
        changed = np.unique(owners)
        weights[changed] /= weights[changed].sum(axis=1, keepdims=True)
        remember(last, owners, classes[rows])
    return result


def _level_codes(orders: pa.Table, process: Process) -> Codes:
    levels = pa.array(process.named(Choice)[process.given].levels, pa.string())
    codes = pc.index_in(orders.column(process.given).cast(pa.string()), levels)
    if codes.null_count:
        raise DataError(f"{process.given}: {counted(codes.null_count, 'order')} with an unknown level")
    return _codes(codes)


def _entity_codes(orders: pa.Table, process: Process) -> Codes:
    column = orders.column(process.entity).cast(pa.string()).combine_chunks().dictionary_encode()
    return _codes(column.indices)


def _codes(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int32]:
    return np.asarray(
        array.to_numpy(zero_copy_only=False) if isinstance(array, pa.Array) else array.to_numpy(), np.int32
    )
