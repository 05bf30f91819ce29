"""A process, and small tables and folders of its orders."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.settings import CODE_ROOT
from apex_ml.simulate.files import write_parts
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.process import Process, load_process


@pytest.fixture(scope="session")
def process() -> Process:
    return load_process()


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract(CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml")


@pytest.fixture(scope="session")
def orders(process: Process) -> pa.Table:
    """8,000 orders of 1,000 clients, base mode, strings plain."""
    table = simulate_orders(process, orders=8_000, clients=1_000, seed=5)
    columns = [c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names)


@pytest.fixture
def folder(process: Process, orders: pa.Table, tmp_path: Path) -> Path:
    """The same orders in four part files."""
    raw = tmp_path / "raw"
    raw.mkdir()
    write_parts(orders, raw, 4, label="test", entity=process.entity)
    return raw
