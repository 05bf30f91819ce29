"""A small healthy delivery, and a home in which it is the only earlier run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from night import Night, Nights

from apex_ml.adapters.duckdb import engine
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.simulate.files import write_parts
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.process import Process, load_process

FILES, ROWS = 4, 4_000


@pytest.fixture(scope="session")
def process() -> Process:
    return load_process()


@pytest.fixture(scope="session")
def healthy_orders(process: Process) -> pa.Table:
    table = simulate_orders(process, orders=ROWS, clients=800, seed=3)
    columns = [c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names)


@pytest.fixture(scope="session")
def healthy(healthy_orders: pa.Table, process: Process, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four part files; shared, so that a test that damages them copies them first."""
    folder = tmp_path_factory.mktemp("healthy")
    write_parts(healthy_orders, folder, FILES, label="healthy", entity=process.entity)
    return folder


@pytest.fixture(scope="session")
def history(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Night]:
    """Processed folder of a run on the healthy delivery, and its result."""
    home = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch:
        night = Nights(Settings.load(home=home), patch).run(healthy, "earlier")
    assert not night.error
    return home / "data" / "orders" / "processed", night


@pytest.fixture
def nights(history: tuple[Path, Night], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    """Runs in a separate home whose history has the healthy one."""
    settings = Settings.load(home=tmp_path / "home")
    manifest = Path("earlier", "validate", "manifest.json")
    (Path(load_pipeline(settings).locations.processed) / manifest).parent.mkdir(parents=True)
    shutil.copy(history[0] / manifest, Path(load_pipeline(settings).locations.processed) / manifest)
    return Nights(settings, monkeypatch)


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    """A copy of the healthy delivery."""
    return Path(shutil.copytree(healthy, tmp_path / "raw"))


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect(Settings.load(home=tmp_path / "home")) as connection:
        yield connection
