"""What the original project did: its features and its selection rules, kept for comparison.

It took each client's last order, summed the measures over *all* of the client's orders, the target order included, and
divided at random. Both leak, so that nothing made this way may be promoted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats.contingency import association, crosstab

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.features import CalendarPart
from apex_ml.contract.model import Contract
from apex_ml.core.calibration import expected_calibration_error
from apex_ml.core.estimator import Model
from apex_ml.core.evaluation import class_shares, order_losses
from apex_ml.core.features import calendar_part
from apex_ml.core.selection import FeatureVerdict
from apex_ml.errors import ConfigError
from apex_ml.sql.features import exact_sql
from apex_ml.sql.quote import identifier

CALENDAR: tuple[CalendarPart, ...] = ("day_of_week", "quarter")


def legacy_columns(contract: Contract) -> tuple[FeatureColumn, ...]:
    """The features before selection: attributes, the summed measures, two parts of the date."""
    attributes = [contract.columns[name] for name in contract.features.attributes]
    return (
        *(
            FeatureColumn(c.name, "categorical", c.domain.levels if c.domain else None)
            if c.type == "string"
            else FeatureColumn(c.name, "numeric")
            for c in attributes
        ),
        *(FeatureColumn(name, "numeric") for name in contract.named("measure")),
        *(FeatureColumn(f"{contract.timestamp}_{part}", "numeric") for part in CALENDAR),
    )


def legacy_identifiers(contract: Contract) -> tuple[str, ...]:
    """The columns that name things: the entity, and attributes marked as identifiers."""
    return (contract.entity, *(n for n in contract.named("attribute") if contract.columns[n].identifier))


def legacy_sums_sql(contract: Contract, orders: str) -> str:
    """SQL: the sum of each measure over all orders of an entity, one row an entity. It knows the target order: a leak.

    Sums are of integers in the measure's smallest unit, so that they do not depend on the order of rows.
    """
    sums = [
        f"sum({exact_sql(contract, measure, 'o')}) / {contract.columns[measure].scale} AS {identifier(measure)}"
        for measure in contract.named("measure")
    ]
    entity = identifier(contract.entity)
    return f"SELECT {', '.join([f'o.{entity}', *sums])} FROM {orders} AS o GROUP BY o.{entity}"


def legacy_examples(contract: Contract, examples: pa.Table, sums: pa.Table) -> pa.Table:
    """The examples, one a client, with the sums of :func:`legacy_sums_sql` and the parts of the date beside them.

    The features as of the moment stay in the table, so that both ways are compared on the same orders. Raises
    :class:`~apex_ml.errors.ConfigError` when the contract's grain is not one example a client.
    """
    if contract.features.grain != "last_order_per_entity":
        raise ConfigError(
            f"split: legacy takes one example a client; the contract's features have the grain "
            f"{contract.features.grain}: set grain: last_order_per_entity, or choose another strategy"
        )
    order = pa.table({contract.entity: examples.column(contract.entity), "place": np.arange(examples.num_rows)})
    joined = order.join(sums, contract.entity).sort_by("place")
    for name in contract.named("measure"):
        examples = _with(examples, name, joined.column(name).cast(pa.float64()))
    days = examples.column(contract.timestamp).cast(pa.int32()).to_numpy().astype(np.int64)
    for part in CALENDAR:
        values = calendar_part(days, part).astype(np.float64)
        examples = _with(examples, f"{contract.timestamp}_{part}", pa.chunked_array([values]))
    return examples


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.append_column(name, values) if place < 0 else table.set_column(place, name, values)


@dataclass(frozen=True)
class LegacyRules:
    """Thresholds of the original selection."""

    constant: float = 0.95
    """A feature one value of which has this share or more is dropped."""
    cramers_v: float = 0.80
    """Of two categorical features associated so strongly or more, the one later by name is dropped."""
    pearson: float = 0.80
    """Of two numbers whose |correlation| is above, the one later by name is dropped."""

    def judge(
        self, columns: Sequence[FeatureColumn], x: np.ndarray, identifiers: Collection[str] = ()
    ) -> tuple[FeatureVerdict, ...]:
        """Judge every feature by its column of the encoded training part, shape (n, len(columns)).

        Identifiers need no data and may be missing among the columns; their verdicts come last.
        """
        dropped = {c.name: "an identifier" for c in columns if c.name in identifiers}
        for index, column in enumerate(columns):
            _, counts = np.unique(x[:, index], return_counts=True)
            share = counts.max(initial=0) / max(len(x), 1)
            if column.name not in dropped and share >= self.constant:
                dropped[column.name] = f"near-constant: one value has a share of {share:.3f}"
        for kind in ("categorical", "numeric"):
            left = sorted((c.name, i) for i, c in enumerate(columns) if c.kind == kind and c.name not in dropped)
            for (first, i), (second, j) in combinations(left, 2):
                if first in dropped or second in dropped:
                    continue
                if kind == "categorical":
                    strength = cramers_v(x[:, i], x[:, j])
                    if strength >= self.cramers_v:
                        dropped[second] = f"Cramér's V with {first} is {strength:.3f}"
                else:
                    strength = pearson(x[:, i], x[:, j])
                    if abs(strength) > self.pearson:
                        dropped[second] = f"the correlation with {first} is {strength:+.3f}"
        names = [*(c.name for c in columns), *(n for n in identifiers if n not in {c.name for c in columns})]
        dropped |= dict.fromkeys(identifiers, "an identifier")
        kept = "no rule speaks against it"
        return tuple(FeatureVerdict(n, n not in dropped, dropped.get(n, kept)) for n in names)


def cramers_v(a: np.ndarray, b: np.ndarray) -> float:
    """Cramér's V of two columns of codes, shape (n,), without bias correction (Cramér, 1946); 0 if one is constant."""
    counts = crosstab(a, b).count
    return float(association(counts, method="cramer", correction=False)) if min(counts.shape) > 1 else 0.0


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation over the rows that have both numbers; 0 when one of them does not vary there."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both].astype(np.float64), b[both].astype(np.float64)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def compare(legacy: Model, ours: Model, parts: Mapping[str, tuple[pa.Table, np.ndarray]]) -> list[dict[str, Any]]:
    """The original way beside ours on the same orders; each part is (table, class indexes (n,)).

    The original scored the output of a booster trained with balanced weights as it is: here, the probabilities before
    the correction to the true prior and the calibration.
    """
    shares = class_shares(parts["train"][1], len(legacy.classes))
    ways = {
        "the original: balanced weights, scored as they are": (legacy.raw_probabilities, len(legacy.encoder.names)),
        "the same model, corrected to the true prior and calibrated": (legacy.probabilities, len(legacy.encoder.names)),
        "features as of just before the order, our selection": (ours.probabilities, len(ours.encoder.names)),
        "class prior": (lambda table: np.tile(shares, (table.num_rows, 1)), 0),
    }
    rows: list[dict[str, Any]] = []
    for way, (predict, features) in ways.items():
        p, y = predict(parts["test"][0]), parts["test"][1]
        judged = parts["validation"]
        rows.append(
            {
                "way": way,
                "features": features,
                "validation_log_loss": float(order_losses(predict(judged[0]), judged[1]).mean()),
                "test_log_loss": float(order_losses(p, y).mean()),
                "accuracy": float((p.argmax(axis=1) == y).mean()),
                "calibration_error": expected_calibration_error(p, y),
            }
        )
    return rows
