"""The rows that a load test sends: those of a file, or rows drawn from the raw data."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.contract.column_types import number_text
from apex_ml.contract.columns import Column
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline import Pipeline
from apex_ml.core.features import level_texts
from apex_ml.errors import DataError, TransientError
from apex_ml.json_text import json_text
from apex_ml.services.raw_rows import raw_as_parquet
from apex_ml.serving.client import Target
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop


@dataclass(frozen=True)
class LoadtestRows:
    """Rows as JSON objects, and the class of each where it is known."""

    pipeline: str
    rows: list[dict[str, Any]]
    truth: list[str | None]
    classes: tuple[str, ...]

    def requests(self, target: Target, size: int) -> list[tuple[bytes, int, int]]:
        """The requests with the range of their rows: from, to."""
        requests = []
        for begin in range(0, len(self.rows), size):
            part = self.rows[begin : begin + size]
            body = json_text({"rows": part}, separators=(",", ":")).encode()
            requests.append((target.request("POST", f"/{self.pipeline}/predict", body), begin, begin + len(part)))
        return requests


def load_rows(
    settings: Settings, pipeline: Pipeline, target: Target, count: int, path: Path | None, seed: int
) -> LoadtestRows:
    """The first rows of a parquet file, or rows drawn from the raw data and dated on the day of the service's snapshot.

    Raises :class:`~apex_ml.errors.TransientError` when the service is not ready,
    :class:`~apex_ml.errors.DataError` for a file that cannot be used.
    """
    contract = pipeline.contract
    if path is not None:
        check_parquet(path)
        return rows_of(contract, pq.ParquetFile(path).read().slice(0, count), path.name)
    day = date.fromisoformat(model_of(target, pipeline.name)["snapshot_as_of"])
    with (
        tempfile.TemporaryDirectory(prefix="apex-loadtest-") as folder,
        raw_as_parquet(settings, pipeline) as raw,
    ):
        drawn = Path(folder) / "rows.parquet"
        make_drop(str(raw), day, count, seed, drawn, contract)
        return rows_of(contract, pq.read_table(drawn), drawn.name)


def rows_of(contract: Contract, table: pa.Table, name: str) -> LoadtestRows:
    """The rows of a table as a request has them, without measures; the target is returned separately."""
    sent = [contract.columns[name] for name in contract.columns_of_drop()]
    if missing := [c.name for c in sent if c.name not in table.column_names and c.required.score]:
        raise DataError(f"{name}: required columns are missing: {', '.join(missing)}")
    columns = {}
    for column in sent:
        if column.name not in table.column_names:
            continue
        values = table.column(column.name)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if column.type == "date":
            columns[column.name] = [None if v is None else v.isoformat() for v in values.cast(pa.date32()).to_pylist()]
        else:
            columns[column.name] = [_sent(column, v) for v in values.to_pylist()]
    known = set(contract.classes)
    target = contract.target
    has_truth = target in table.column_names
    truth = level_texts(contract.columns[target], table.column(target)).to_pylist() if has_truth else []
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    classes = [t if t in known else None for t in truth] or [None] * len(rows)
    return LoadtestRows(contract.name, rows, classes, contract.classes)


def _sent(column: Column, value: Any) -> Any:
    """A value of a file as JSON: a number in a text column as its text, a decimal as a number."""
    if column.type == "string":
        return value if value is None or isinstance(value, str) else number_text(value)
    if isinstance(value, Decimal):
        if column.type == "decimal":
            return format(value, "f")
        return int(value) if column.type == "int64" and value == int(value) else float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def model_of(target: Target, pipeline: str) -> dict[str, Any]:
    """The service's answer about the model of a pipeline.

    Raises :class:`~apex_ml.errors.TransientError` when it has none.
    """
    url = f"{target.url}/{pipeline}/model"
    try:
        # directly to the service, without a proxy, like the measured requests
        answer = httpx.get(url, headers=target.headers, timeout=10, trust_env=False, verify=False)
    except httpx.RemoteProtocolError as error:
        raise TransientError(
            f"{target.url} answers something else than HTTP: {error}; stop the program on the port, or set"
            " APEX_SERVING_PORT; then: make up"
        ) from error
    except httpx.HTTPError as error:
        raise TransientError(
            f"the online service at {target.url} does not answer: {error}; start it: make up"
        ) from error
    if answer.status_code != 200:
        raise TransientError(f"the online service at {url} answers {answer.status_code}: {answer.text[:300]}")
    try:
        content = answer.json()
        if not isinstance(content, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise TransientError(
            f"{target.url} answers with no JSON object: {answer.text[:100]!r}; is it the online service"
            " there? Stop what has its port, or set APEX_SERVING_PORT; then: make up"
        ) from error
    return content
