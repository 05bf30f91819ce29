"""The simulator's truth: the probabilities that rows were drawn with, in a file beside their raw folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.storage.atomic_writes import new_file
from apex_ml.adapters.storage.files import digest, sha256_of
from apex_ml.contract.model import Contract
from apex_ml.settings import Settings
from apex_ml.sql.simulated_truth import select_truth

logger = logging.getLogger(__name__)
TRUE_PREFIX = "p_true_"
"""Probability given everything, including the entity's own effect."""
OPTIMUM_PREFIX = "p_optimum_"
"""Probability given all that a model may know: the best possible prediction."""
DATA_KEY = b"apex.data_sha256"


@dataclass(frozen=True)
class Truth:
    """Probabilities of n rows over k classes, both (n, k); rows of NaN where a row is not in the truth."""

    true: np.ndarray
    optimum: np.ndarray


def truth_beside(raw: Path) -> Path:
    """The path of a raw folder's truth: ``raw.truth.parquet`` beside ``raw``."""
    return raw.with_name(f"{raw.name}.truth.parquet")


def identity(files: Iterable[Path]) -> str:
    """Identity of raw files, independent of their names: the `data_sha256` of a run."""
    return digest(sorted({sha256_of(path) for path in files}))


def write_truth(table: pa.Table, path: Path, data_sha256: str) -> None:
    """Write the truth of the data with that identity. The file is never incomplete."""
    with new_file(path) as draft:
        pq.write_table(table.replace_schema_metadata({DATA_KEY: data_sha256}), draft)


def find_truth(raw: Path, data_sha256: str) -> Path | None:
    """The truth file of a raw folder; None without one, or when it belongs to other data."""
    path = truth_beside(raw)
    if not path.is_file():
        return None
    identity_of_truth = (pq.read_schema(path).metadata or {}).get(DATA_KEY, b"").decode()
    if identity_of_truth != data_sha256:
        logger.warning("truth_ignored file=%s reason=it belongs to other data than this run's", path)
        return None
    return path


def read_truth(settings: Settings, contract: Contract, path: Path, rows: pa.Table) -> Truth | None:
    """The truth of the rows, by entity and day: an entity's rows of one day have the same probabilities.

    Returns None and logs a warning when the file lacks a column that the contract's entity, timestamp and classes need.
    """
    columns = [f"{prefix}{name}" for prefix in (TRUE_PREFIX, OPTIMUM_PREFIX) for name in contract.classes]
    key = [contract.entity, contract.timestamp]
    if lacking := sorted({*key, *columns} - set(pq.read_schema(path).names)):
        logger.warning("truth_ignored file=%s reason=it lacks %s", path, ", ".join(lacking))
        return None
    asked = rows.select(key).append_column("place", pa.array(np.arange(rows.num_rows)))
    with engine.connect(settings) as con, engine.errors_name(str(path)):
        con.register("asked", asked)
        truth = con.sql(select_truth(contract, path, columns)).to_arrow_table()
    matrix = np.column_stack([truth.column(c).to_numpy(zero_copy_only=False).astype(np.float64) for c in columns])
    k = len(contract.classes)
    return Truth(matrix[:, :k], matrix[:, k:])
