"""Small tables that no pipeline describes, as parquet files."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 3000


def visits(rows: int = ROWS, seed: int = 7) -> dict[str, Any]:
    """Visits of patients: the target `show` depends on `age group`, and `minutes` is known only afterwards."""
    random = np.random.default_rng(seed)
    groups = random.choice(["young", "adult", "old"], rows)
    chance = np.select([groups == "young", groups == "adult"], [0.2, 0.5], 0.8)
    came = random.random(rows) < chance
    days = np.sort(random.integers(0, 200, rows))
    return {
        "visit": [f"V{n:06d}" for n in range(rows)],
        "patient": [f"P{n:04d}" for n in random.integers(0, rows // 10, rows)],
        "day": [date(2024, 1, 1) + timedelta(days=int(n)) for n in days],
        "age group": groups.tolist(),
        "distance": np.round(random.gamma(2, 5, rows), 1).tolist(),
        "late season": np.where(days > 100, random.integers(5, 9, rows), random.integers(0, 4, rows)).tolist(),
        "minutes": np.where(came, random.integers(10, 60, rows), 0).astype(float).tolist(),
        "show": np.where(came, "yes", "no").tolist(),
    }


def write_table(path: Path, columns: dict[str, Any], **types: pa.DataType) -> Path:
    """Write a table; a type that is given replaces the inferred one."""
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, types.get(name))
        for name, values in columns.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path)
    return path


def awkward(rows: int = 60) -> dict[str, Any]:
    """Columns with awkward names, and with values of unusual types."""
    moments = [datetime(2024, 1, 1) + timedelta(hours=n) for n in range(rows)]
    return {
        "a b.c": [f"x{n % 3}" for n in range(rows)],
        "Select": [n % 2 == 0 for n in range(rows)],
        '"q"': pa.array(list(range(rows)), pa.decimal128(12, 2)),
        "año's": pa.array(moments, pa.timestamp("us", "America/Lima")),
        "from": [[1, n] for n in range(rows)],
        "nan": [float("nan") if n % 10 == 0 else n / 3 for n in range(rows)],
        "unsigned": pa.array([2**63 + n for n in range(rows)], pa.uint64()),
        "bytes": pa.array([b"caf\xc3\xa9" if n % 2 else b"te" for n in range(rows)], pa.binary()),
        "raw": pa.array([b"\xff\xfe"] * rows, pa.binary()),
        "text date": [f"{1 + n % 28:02d}/{1 + n % 12:02d}/2023" for n in range(rows)],
        "two formats": [
            f"{1 + n % 28:02d}/{1 + n % 12:02d}/2023" if n % 2 else f"2023-{1 + n % 12:02d}-{1 + n % 28:02d}"
            for n in range(rows)
        ],
        "blanks": [(" A", "a", "", "B")[n % 4] for n in range(rows)],
        "nothing": pa.nulls(rows),
        "constant": [1] * rows,
        "infinite": [float("inf")] * rows,
        "<script>alert(1)</script>": [f"<b>{n % 2}</b>" for n in range(rows)],
    }
