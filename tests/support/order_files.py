"""Small parquet files of orders that satisfy the contract, except for the changes of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DAY = datetime(2024, 3, 1)


def good_orders(rows: int) -> dict[str, pa.Array]:
    """Orders without any fault, all different."""
    return {
        "cliente_id": pa.array([f"C{100_000 + i}" for i in range(rows)]),
        "pais_cd": pa.array(["EC"] * rows),
        "region_comercial_txt": pa.array(["COSTA"] * rows),
        "agencia_id": pa.array(["EC-COSTA-A1"] * rows),
        "ruta_id": pa.array(["R1"] * rows),
        "tipo_cliente_cd": pa.array(["TIENDA"] * rows),
        "madurez_digital_cd": pa.array(["ALTA"] * rows),
        "estrellas_txt": pa.array(["2"] * rows),
        "frecuencia_visitas_cd": pa.array(["LM"] * rows),
        "fecha_pedido_dt": pa.array([DAY + timedelta(days=i % 28) for i in range(rows)], pa.timestamp("ns")),
        "canal_pedido_cd": pa.array(["DIGITAL"] * rows),
        "facturacion_usd_val": pa.array([10.5] * rows),
        "materiales_distintos_val": pa.array([3] * rows, pa.int64()),
        "cajas_fisicas": pa.array([1.25] * rows),
    }


def order_table(changed: Mapping[str, Any] | None = None, *, rows: int = 4, drop: Sequence[str] = ()) -> pa.Table:
    """A table of good orders with some columns replaced, by an array of any type, or added, or left out."""
    columns = good_orders(rows)
    for name, values in (changed or {}).items():
        columns[name] = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return pa.table({name: values for name, values in columns.items() if name not in drop})


def write_orders(path: Path, table: pa.Table, **options: Any) -> Path:
    """Write a table as one parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path
