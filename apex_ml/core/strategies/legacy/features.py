"""The features of the original project: attributes, measures summed over all rows of an entity, parts of the date."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from apex_ml.contract.feature_column import FeatureColumn
from apex_ml.contract.features import CalendarPart
from apex_ml.contract.model import Contract
from apex_ml.core.features import calendar_part
from apex_ml.core.row_time import days_of
from apex_ml.errors import ConfigError

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
    """The identifiers: the entity, and attributes marked as identifiers."""
    return (contract.entity, *(n for n in contract.named("attribute") if contract.columns[n].identifier))


def legacy_examples(contract: Contract, examples: pa.Table, sums: pa.Table) -> pa.Table:
    """Add the sums of the measures and the parts of the date to the examples, which are one per entity.

    `sums` has one row per entity, over all of its rows: they include the target row, which is a leak. The
    point-in-time features stay in the table, so that both models are compared on the same rows. Raises
    :class:`~apex_ml.errors.ConfigError` when the contract's grain is not one example per entity.
    """
    if contract.features.grain != "last_row_per_entity":
        raise ConfigError(
            f"split: legacy needs one example per entity, but the grain of the contract's features is "
            f"{contract.features.grain}: set grain: last_row_per_entity, or choose another strategy"
        )
    places = pa.table({contract.entity: examples.column(contract.entity), "place": np.arange(examples.num_rows)})
    joined = places.join(sums, contract.entity).sort_by("place")
    for name in contract.named("measure"):
        examples = _with(examples, name, joined.column(name).cast(pa.float64()))
    days = days_of(contract, examples)
    for part in CALENDAR:
        values = calendar_part(days, part).astype(np.float64)
        examples = _with(examples, f"{contract.timestamp}_{part}", pa.chunked_array([values]))
    return examples


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
