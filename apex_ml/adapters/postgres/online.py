"""Recorded answers of the online service: a sample of its rows, and counts of them by day."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.model import Contract
from apex_ml.contract.names import online_names
from apex_ml.core.profile import add_counts
from apex_ml.json_text import json_text
from apex_ml.settings import Settings
from apex_ml.sql.tables import ONLINE, online_columns

MAX_REQUESTS = 2000
"""Requests that are written in one transaction."""


@dataclass(frozen=True)
class Answers:
    """What is kept of one request: `places` of n of its rows, shape (n,); `columns` hold all its rows.

    The probabilities have the shape (n, k); the others, of the same n rows, the shape (n,).
    """

    request_id: str
    places: np.ndarray
    columns: dict[str, list[Any]]
    probabilities: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    known: np.ndarray
    answered_at: datetime


@dataclass(frozen=True)
class AnsweringModel:
    """The model version that gave answers: its classes, and the history snapshot of its features."""

    name: str
    version: int
    classes: Sequence[str]
    snapshot: str


def record(
    settings: Settings,
    schema: str,
    contract: Contract,
    model: AnsweringModel,
    day: date,
    answers: Sequence[Answers],
    counts: dict[str, Any],
) -> None:
    """Write answers of one version and day, and add their counts to those of the day, in one transaction.

    Raises :class:`~apex_ml.errors.TransientError` when Postgres does not answer.
    """
    table = _table(contract, model, answers)
    snapshot = model.snapshot
    with bulk_transaction(settings, schema) as session:
        session.ingest(ONLINE, table.schema, table.to_batches())
        key = (day.isoformat(), model.name, model.version)
        # a first row to lock: two writers at once write one after the other
        session.execute(
            "INSERT INTO online_profiles (day, model_name, model_version, feature_snapshot, answers, profile)"
            " VALUES (%s::text::date, %s, %s::bigint, %s, 0, '{}') ON CONFLICT DO NOTHING",
            (*key, snapshot),
        )
        ((before, text),) = session.fetch(
            "SELECT answers, profile::text FROM online_profiles WHERE day = %s::text::date AND model_name = %s"
            " AND model_version = %s::bigint FOR UPDATE",
            key,
        )
        profile = add_counts(json.loads(text), int(before), counts, table.num_rows)
        session.execute(
            "UPDATE online_profiles SET feature_snapshot = %s, answers = %s::bigint, profile = %s::text::jsonb,"
            " recorded_at = now() WHERE day = %s::text::date AND model_name = %s AND model_version = %s::bigint",
            (snapshot, int(before) + table.num_rows, json_text(profile), *key),
        )


def _table(contract: Contract, model: AnsweringModel, answers: Sequence[Answers]) -> pa.Table:
    """The rows of :func:`~apex_ml.sql.tables.online_columns`; null for a class that the model does not know."""
    n = sum(len(a.places) for a in answers)
    classes = pa.array(model.classes)

    def each(values: Sequence[np.ndarray]) -> pa.Array:
        return pa.array(np.concatenate(values))

    moments = [a.answered_at for a in answers for _ in a.places]
    p = np.concatenate([a.probabilities for a in answers])
    values: dict[str, pa.Array] = {
        "request_id": pa.array([a.request_id for a in answers for _ in a.places]),
        "place": each([a.places.astype(np.int32) for a in answers]),
        "known_entity": each([a.known for a in answers]),
        "predicted": classes.take(each([a.predicted for a in answers])),
        "confidence": each([a.confidence for a in answers]),
        "model_name": pa.array([model.name] * n),
        "model_version": pa.array(np.full(n, model.version, np.int32)),
        "answered_at": pa.array(moments, pa.timestamp("us", "UTC")),
    }
    for name in probability_columns(contract.classes).values():
        values[name] = pa.nulls(n, pa.float32())
    for index, name in enumerate(probability_columns(model.classes).values()):
        values[name] = pa.array(np.ascontiguousarray(p[:, index]))
    for name, own in online_names(contract).items():
        cells = [a.columns[name][place] for a in answers for place in a.places.tolist()]
        if contract.columns[name].type == "string":  # Postgres holds no NUL
            cells = [v.replace("\0", "") if v else v for v in cells]
        values[own] = pa.array(cells, contract.columns[name].arrow_type)
    return pa.table({name: values[name] for name in online_columns(contract)})


def count_answers_before(settings: Settings, schema: str, before: datetime) -> int:
    """How many recorded answers were given before a moment."""
    with transaction(settings, schema) as session:
        ((answers,),) = session.fetch(f"SELECT count(*) FROM {ONLINE} WHERE answered_at < %s", (before,))
    return int(answers)


def delete_answers_before(settings: Settings, schema: str, before: datetime) -> None:
    """Delete the answers that were given before a moment; the counts by day stay."""
    with transaction(settings, schema) as session:
        session.execute(f"DELETE FROM {ONLINE} WHERE answered_at < %s", (before,))
