"""What the online service answered, as it is kept in Postgres: a sample of its orders, and counts of them by day."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from apex_ml.adapters.postgres import scores, warehouse
from apex_ml.contract.model import Contract
from apex_ml.contract.names import probability_column
from apex_ml.core.profile import add_counts
from apex_ml.json_text import json_text
from apex_ml.settings import Settings
from apex_ml.sql.tables import ONLINE, online_columns

MOST_REQUESTS = 2000
"""So many requests are written in one transaction."""


@dataclass(frozen=True)
class Answers:
    """What is kept of one request. `places` are those of n orders in it, shape (n,); `columns` has all its orders.

    The probabilities have the shape (n, k); the others, of the same n orders, the shape (n,).
    """

    request_id: str
    places: np.ndarray
    columns: dict[str, list[Any]]
    probabilities: np.ndarray
    named: np.ndarray
    confidence: np.ndarray
    known: np.ndarray
    answered_at: datetime


def record(
    settings: Settings,
    contract: Contract,
    model_name: str,
    version: int,
    snapshot: str,
    day: date,
    answers: Sequence[Answers],
    counts: dict[str, Any],
) -> None:
    """Write answers of one version and day, and add their counts to those of the day, in one transaction.

    Raises :class:`~apex_ml.errors.TransientError` when Postgres does not answer.
    """
    table = _table(contract, model_name, version, answers)
    with scores.transaction(settings) as cursor:
        cursor.adbc_ingest(ONLINE.split(".")[1], table, mode="append", db_schema_name="apex")
        key = (day.isoformat(), model_name, version)
        # a first row to be held: two that come at once are written one after the other
        cursor.execute(
            "INSERT INTO apex.online_profiles (day, model_name, model_version, feature_snapshot, answers, profile)"
            " VALUES ($1::text::date, $2, $3::bigint, $4, 0, '{}') ON CONFLICT DO NOTHING",
            (*key, snapshot),
        )
        cursor.execute(
            "SELECT answers, profile::text FROM apex.online_profiles WHERE day = $1::text::date AND model_name = $2"
            " AND model_version = $3::bigint FOR UPDATE",
            key,
        )
        before, text = cursor.fetchone()
        profile = add_counts(json.loads(text), int(before), counts, table.num_rows)
        cursor.execute(
            "UPDATE apex.online_profiles SET feature_snapshot = $4, answers = $5::bigint, profile = $6::text::jsonb,"
            " recorded_at = now() WHERE day = $1::text::date AND model_name = $2 AND model_version = $3::bigint",
            (*key, snapshot, int(before) + table.num_rows, json_text(profile)),
        )


def _table(contract: Contract, model_name: str, version: int, answers: Sequence[Answers]) -> pa.Table:
    """The rows of :func:`~apex_ml.sql.tables.online_columns`."""
    n = sum(len(a.places) for a in answers)
    classes = pa.array(contract.classes)

    def each(values: Sequence[np.ndarray]) -> pa.Array:
        return pa.array(np.concatenate(values))

    moments = [a.answered_at for a in answers for _ in a.places]
    p = np.concatenate([a.probabilities for a in answers])
    made: dict[str, pa.Array] = {
        "request_id": pa.array([a.request_id for a in answers for _ in a.places]),
        "place": each([a.places.astype(np.int32) for a in answers]),
        "known_client": each([a.known for a in answers]),
        "predicted": classes.take(each([a.named for a in answers])),
        "confidence": each([a.confidence for a in answers]),
        "model_name": pa.array([model_name] * n),
        "model_version": pa.array(np.full(n, version, np.int32)),
        "answered_at": pa.array(moments, pa.timestamp("us", "UTC")),
    }
    for index, level in enumerate(contract.classes):
        made[probability_column(level)] = pa.array(np.ascontiguousarray(p[:, index]))
    for name in online_columns(contract):
        if name not in made:
            values = [a.columns[name][place] for a in answers for place in a.places.tolist()]
            if contract.columns[name].type == "string":  # Postgres holds no NUL
                values = [v.replace("\0", "") if v else v for v in values]
            made[name] = pa.array(values, contract.columns[name].arrow_type)
    return pa.table({name: made[name] for name in online_columns(contract)})


def old_answers(settings: Settings, before: datetime) -> int:
    """How many recorded answers were given before a moment."""
    (row,) = warehouse.rows(settings, f"SELECT count(*) AS answers FROM {ONLINE} WHERE answered_at < %s", (before,))
    return int(row["answers"])


def drop_answers(settings: Settings, before: datetime) -> None:
    """Delete the answers that were given before a moment; the counts by day stay."""
    with warehouse.connect(settings) as connection, connection, connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {ONLINE} WHERE answered_at < %s", (before,))
