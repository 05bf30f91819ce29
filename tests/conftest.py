"""Shared by all folders: the contract, the real files, small raw data, a throwaway Postgres and a throwaway MLflow.

Every worker of pytest-xdist makes its own, with free ports and folders that go away.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from hypothesis import settings as hypothesis_settings

from apex_ml.adapters.postgres.migrations import migrate_all, migrate_schema
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded.postgres.process import superuser_connection
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.files import write_parts
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.process import load_process
from tests.support.google_store import google_front
from tests.support.object_servers import ObjectServer, moto_server, rclone_server
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import SESSION_FOLDER, PlainDatabase, free_ports, open_folder, plain_postgres

# the same examples in every run, and no folder of examples left behind
hypothesis_settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis_settings.load_profile("repeatable")

ORDERS, CLIENTS = 20_000, 4_000
TOGETHER = ("tests/steps/", "tests/serving/", "tests/adapters/test_registry.py", "tests/adapters/test_logged_model.py")
ALONE = ("tests/steps/test_real_files.py", "tests/steps/test_original_project.py")
ON_ONE_PLATFORM = ("tests/e2e/test_a_new_platform.py", "tests/e2e/test_manual_override.py")
LONGEST = (
    *("tests/e2e/test_whole_job.py", TOGETHER, "tests/e2e/", ALONE, "tests/platform/"),
    *("tests/adapters/test_partitions.py", "tests/quality/", "tests/core/"),
)
"""What runs first, so that no worker works for minutes after the others have ended. The whole jobs mostly wait, so they
are begun beside the tests on the champion, which compute."""


_REAPER: list[subprocess.Popen[bytes]] = []


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of this run; a separate process removes it when the run ends, also by Ctrl-C."""
    if hasattr(config, "workerinput") or SESSION_FOLDER in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="apex-tests-")
    os.chmod(folder, 0o755)  # the throwaway Postgres runs as another user
    os.environ[SESSION_FOLDER] = folder
    command = [sys.executable, str(Path(__file__).parent / "support" / "reaper.py"), folder]
    # in a separate session, so that a Ctrl-C does not reach it; the pipe closes when this process ends
    _REAPER.append(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let the cleaner work, and wait for it."""
    for process in _REAPER:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    if _REAPER:
        os.environ.pop(SESSION_FOLDER, None)
        _REAPER.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first."""

    def place(item: pytest.Item) -> int:
        return next((i for i, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send a file's tests to one worker, so that its fixtures are made once; and all on the trained champion to one."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # it would put the files with few tests, the longest ones, last

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(ON_ONE_PLATFORM):
                return "platform"
            together = nodeid.startswith(TOGETHER) and not nodeid.startswith(ALONE)
            return "champion" if together else nodeid.split("::", 1)[0]

    return ByFile(config, log)


# Without cached bytecode each of the many processes that tests start compiles all its imports again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# OpenMP reads it when it is loaded: threads that spin while they wait slow each other down many times over
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session", autouse=True)
def _own_settings() -> Iterator[None]:
    """A test does not see the developer's APEX_ variables, except APEX_TEST_; it is about the pipeline orders."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("APEX_") and not n.startswith("APEX_TEST_")]:
            patch.delenv(name)
        patch.setenv("APEX_PIPELINE", "orders")
        yield


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract(CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml")


@pytest.fixture(scope="session")
def real_raw() -> Path:
    """Folder of the real Spark files."""
    folder = os.environ.get("APEX_TEST_RAW")
    if not folder:
        pytest.skip("APEX_TEST_RAW is not set: it names the folder of the real raw files")
    return Path(folder)


@pytest.fixture(scope="session")
def orders() -> pa.Table:
    """Orders of the base process, strings plain."""
    table = simulate_orders(load_process(), orders=ORDERS, clients=CLIENTS, seed=11)
    columns = [c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names)


@pytest.fixture(scope="session")
def raw(orders: pa.Table, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same orders in four part files with a marker; shared, so that a test that damages them copies them first."""
    folder = tmp_path_factory.mktemp("raw")
    write_parts(orders, folder, 4, label="shared", entity=contract.entity)
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PlainDatabase]:
    with plain_postgres() as instance:
        # the database of the roles script, migrated once, is what the tests' own databases are copied from
        migrate_all(instance.settings, [load_pipeline(instance.settings)], "orders")
        yield instance


@dataclass(frozen=True)
class Databases:
    """Makes databases on the throwaway server: `empty`, or `migrated`. Each is returned as settings."""

    server: PlainDatabase
    numbers: Iterator[int]
    templates: dict[str, str]
    """Databases to copy from, by a schema that they have beside apex; they live as long as the server."""
    names: list[str] = field(default_factory=list)

    def _admin(self, *statements: str) -> None:
        settings = self.server.settings
        with closing(superuser_connection(settings, self.server.server)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def _make(self, template: str) -> dict[str, str]:
        name = self._copy(template)
        self.names.append(name)
        return self._urls(name)

    def _copy(self, template: str) -> str:
        name = f"test_{next(self.numbers)}"
        self._admin(
            f"CREATE DATABASE {name} OWNER apex_writer TEMPLATE {template}",
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE {name} TO apex_reader, orders_reader",
        )
        return name

    def _urls(self, name: str) -> dict[str, str]:
        settings = self.server.settings
        return {
            "database_url": settings.postgres_url("apex_writer", settings.pg_writer_password, name),
            "reader_database_url": settings.postgres_url("apex_reader", settings.pg_reader_password, name),
        }

    def empty(self) -> dict[str, str]:
        """A database without anything of Apex."""
        return self._make("template0")

    def migrated(self, schema: str = SCHEMA) -> dict[str, str]:
        """A database with the current tables and no row, in the schema apex and in another one if it is named."""
        if schema not in self.templates:
            template = self._copy("apex")
            settings = self.server.settings.model_copy(update=self._urls(template))
            migrate_schema(settings, load_pipeline(settings).contract, schema)
            self.templates[schema] = template
        return self._make(self.templates[schema])

    def drop(self) -> None:
        """Drop the databases, even with open connections."""
        if self.names:
            self._admin(*(f"DROP DATABASE {name} WITH (FORCE)" for name in self.names))


@pytest.fixture(scope="session")
def lasting_databases(postgres_server: PlainDatabase) -> Databases:
    """Databases that live as long as the worker."""
    return Databases(postgres_server, count(1), {SCHEMA: "apex"})


@pytest.fixture
def databases(lasting_databases: Databases) -> Iterator[Databases]:
    """Databases of one test."""
    created = Databases(lasting_databases.server, lasting_databases.numbers, lasting_databases.templates)
    yield created
    created.drop()


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[str]:
    """URL of an MLflow server on SQLite with its own artifacts."""
    (port,) = free_ports(1)
    with open_folder() as folder:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--serve-artifacts", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONWARNINGS": "ignore",
        }
        with (folder / "mlflow.log").open("wb") as log:
            server = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_healthy(server, url, folder / "mlflow.log")
            yield url
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_healthy(server: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2, verify=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    pytest.fail(f"MLflow did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def home(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of an empty home of the test; keyword arguments are settings."""

    def make(**changes: object) -> Settings:
        return Settings.load(home=tmp_path / "home", **changes)

    return make


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A server of S3 that honours conditional puts."""
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def google(moto: ObjectServer) -> Iterator[ObjectServer]:
    """Google's interface in front of a server of S3."""
    with google_front(moto) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A server of S3 that ignores the conditions of puts."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield server
