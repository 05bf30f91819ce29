"""The embedded Postgres: where it lives, who may reach what, and how it heals."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import psutil
import psycopg2
import pytest
from pydantic import SecretStr

from apex_ml.adapters.postgres import connection
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.platform.embedded import processes, psql, stop, supervision, watchdog
from apex_ml.platform.embedded.env_file import ensure_env
from apex_ml.platform.embedded.postgres.data_folder import prepare_server
from apex_ml.platform.embedded.postgres.databases import ensure_databases
from apex_ml.platform.embedded.postgres.process import (
    postmaster,
    server_answers,
    superuser_connection,
    wait_until_ready,
)
from apex_ml.platform.embedded.postgres.server import OUTSIDE, locate_server
from apex_ml.settings import Settings
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import Database, free_ports, open_folder, running_postgres, start_postgres, throwaway
from tests.support.waiting import until

OWNERS = {
    "airflow": ("airflow", "pg_airflow_password"),
    "mlflow": ("mlflow", "pg_mlflow_password"),
    "apex_writer": ("apex", "pg_writer_password"),
    "apex_reader": ("apex", "pg_reader_password"),
}
DATABASES = ("airflow", "mlflow", "apex", "postgres", "template1")


def _query(settings: Settings, role: str, database: str, query: str) -> list[tuple[object, ...]]:
    url = settings.postgres_url(role, getattr(settings, OWNERS[role][1]), database)
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("role", OWNERS)
def test_role_reaches_only_its_own_database(database: Database, role: str) -> None:
    own = OWNERS[role][0]
    assert _query(database.settings, role, own, "SELECT current_user::text") == [(role,)]
    for other in set(DATABASES) - {own}:
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            _query(database.settings, role, other, "SELECT 1")


def test_no_role_is_a_superuser_or_makes_others(database: Database) -> None:
    flags = "rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
    strong = _query(database.settings, "apex_reader", "apex", f"SELECT rolname::text FROM pg_roles WHERE {flags}")
    assert strong == [("apex_admin",)]


def test_superuser_cannot_come_by_network(database: Database) -> None:
    url = database.settings.postgres_url("apex_admin", database.settings.pg_admin_password, "postgres")
    with pytest.raises(psycopg2.OperationalError, match="pg_hba.conf rejects"):
        psycopg2.connect(url)


def test_reader_writes_nothing(database: Database) -> None:
    settings = database.settings
    _query(settings, "apex_writer", "apex", "CREATE SCHEMA IF NOT EXISTS orders")
    _query(settings, "apex_writer", "apex", "CREATE TABLE IF NOT EXISTS orders.secret_table (a int)")
    _query(settings, "apex_writer", "apex", "GRANT USAGE ON SCHEMA orders TO apex_reader")
    for statement in (
        "CREATE TABLE mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "SET default_transaction_read_only = off; CREATE TABLE orders.mine (a int)",
        "SELECT * FROM orders.secret_table",
    ):
        with pytest.raises(psycopg2.Error):
            _query(settings, "apex_reader", "apex", statement)


def test_wrong_password_is_refused(database: Database) -> None:
    url = database.settings.postgres_url("apex_reader", SecretStr("wrong"), "apex")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(url)


def test_server_listens_on_loopback_only(database: Database) -> None:
    process = postmaster(database.server)
    assert process is not None
    addresses = {c.laddr.ip for c in process.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


def test_data_and_sockets_are_private_and_not_owned_by_root(database: Database) -> None:
    for folder in (database.server.data, database.server.socket):
        result = folder.stat()
        assert stat.S_IMODE(result.st_mode) == 0o700
        assert result.st_uid != 0
    process = postmaster(database.server)
    assert process is not None and process.uids().real != 0


def test_databases_can_be_ensured_again(database: Database) -> None:
    ensure_databases(database.settings, database.server)
    assert prepare_server(database.settings) == database.server


def test_ensuring_databases_again_changes_nothing(database: Database) -> None:
    def state() -> list[tuple[object, ...]]:
        with closing(superuser_connection(database.settings, database.server)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT oid, xmin::text FROM pg_authid ORDER BY 1")
                return cursor.fetchall()

    before = state()
    ensure_databases(database.settings, database.server)
    assert state() == before


def test_an_idle_transaction_of_the_reader_ends_by_itself(database: Database) -> None:
    show = "SHOW idle_in_transaction_session_timeout"
    assert _query(database.settings, "apex_reader", "apex", show) == [("10min",)]
    assert _query(database.settings, "apex_writer", "apex", show) == [("0",)]


def test_the_locks_of_a_killed_scheduler_end_although_its_workers_have_its_connection(database: Database) -> None:
    """Airflow forks workers, which keep a copy of each open connection: without a limit the server sees no end."""
    settings = database.settings
    url = settings.postgres_url("airflow", settings.pg_airflow_password, "airflow")
    code = (
        "import os, psycopg2, sys, time\n"
        "connection = psycopg2.connect(sys.argv[1])\n"
        "cursor = connection.cursor()\n"
        "cursor.execute('SHOW idle_in_transaction_session_timeout')\n"
        "limit = cursor.fetchone()[0]\n"
        "cursor.execute('SET idle_in_transaction_session_timeout = 500')\n"
        "cursor.execute('SELECT pg_advisory_xact_lock(77)')\n"
        "worker = os.fork()\n"
        "if worker: print(limit, worker, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) as scheduler:
        assert scheduler.stdout is not None
        limit, worker = scheduler.stdout.readline().split()
        try:
            scheduler.kill()
            assert limit == "1min", "longer than any pause of Airflow inside a transaction"
            assert _query(settings, "airflow", "airflow", "SELECT pg_try_advisory_xact_lock(77)") == [(False,)]
            until(
                lambda: _query(settings, "airflow", "airflow", "SELECT pg_try_advisory_xact_lock(77)") == [(True,)],
                20,
                "the lock is free",
            )
        finally:
            os.kill(int(worker), signal.SIGKILL)


def test_a_pool_that_opens_all_connections_stops_neither_the_writer_nor_the_page(database: Database) -> None:
    settings = database.settings
    with ExitStack() as held:

        def open_all(role: str) -> tuple[int, str]:
            url = settings.postgres_url(role, getattr(settings, OWNERS[role][1]), OWNERS[role][0])
            for number in range(200):
                try:
                    held.enter_context(closing(psycopg2.connect(url, application_name="bi-pool")))
                except psycopg2.OperationalError as error:
                    return number, str(error)
            raise AssertionError("no limit")

        number, text = open_all("apex_reader")
        assert number == settings.pg_reader_connections and 'too many connections for role "apex_reader"' in text
        connection.ping(settings)
        # people and metrics go on: the queries of the reader run as the writer, who may only read
        with connection.reading(settings, SCHEMA) as session:
            rows = session.fetch_dicts("SELECT current_user AS who, current_setting('transaction_read_only') AS ro")
        assert rows == [{"who": "apex_writer", "ro": "on"}]
        urls = settings.reader_url, settings.writer_url
        with pytest.raises(TransientError) as raised, connection.map_driver_errors(*urls):
            psycopg2.connect(settings.reader_url)
        assert "too many connections" in str(raised.value) and f"apex_reader {number} (bi-pool)" in str(raised.value)
        assert "make up" not in str(raised.value)
        # the psql of a person needs a connection of the reader
        with pytest.raises(TransientError, match=r"apex_reader \d+ \(bi-pool\).*APEX_PG_READER_CONNECTIONS"):
            psql.run_psql(settings, ["-c", "SELECT 1"])
        # the others may take all but the slots of the writer
        _, text = open_all("airflow")
        assert "remaining connection slots are reserved" in text
        connection.ping(settings)
        with bulk_transaction(settings, SCHEMA) as session:
            assert session.fetch("SELECT 1") == [(1,)]
    assert _query(settings, "apex_reader", "apex", "SELECT 1") == [(1,)]


def test_no_log_has_a_password(database: Database) -> None:
    text = (database.settings.logs / "postgres.log").read_text()
    assert database.settings.pg_reader_password.get_secret_value() not in text


def test_psql_is_the_reader_and_hides_the_password(database: Database) -> None:
    command, environment = psql.psql_call(
        database.settings, ["-At", "-c", "SELECT current_user, current_setting('search_path')"]
    )
    assert database.settings.pg_reader_password.get_secret_value() not in " ".join(command)
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == 'apex_reader|"orders"'


def test_psql_runs_all_queries_and_a_failed_one_is_bad_input(
    database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    assert psql.run_psql(database.settings, ["-At", "-c", "SELECT 1", "-c", "SELECT 2"]) == 0
    assert capfd.readouterr().out.split() == ["1", "2"]
    assert psql.run_psql(database.settings, ["-At", "-c", "SELECT 1", "-c", "SELECT nothing"]) == DataError.exit_code
    shown = capfd.readouterr()
    assert shown.out.split() == ["1"] and 'column "nothing" does not exist' in shown.err


def test_psql_without_a_password_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="apex up"):
        psql.psql_call(settings)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes user")
def test_closed_parents_stay_closed_and_the_data_lives_elsewhere() -> None:
    with running_postgres("closed") as database:
        home = database.settings.home
        assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
        assert database.server.base.parent == OUTSIDE
        assert (home / ".apex" / "postgres" / "LOCATION").read_text().strip() == str(database.server.base)
        # opening the folder later must not make the data seem lost
        home.parent.chmod(0o755)
        assert locate_server(database.settings, make=True).base == database.server.base
        outside = database.server.base
    assert not outside.exists()


def _wait_for(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_server_is_restarted_and_a_hung_one_too() -> None:
    with open_folder() as home:
        settings = ensure_env(throwaway(home))
        try:
            database = start_postgres(settings, stop_seconds=2)

            def pid() -> int:
                return database.supervisor.states()[supervision.POSTGRES].pid

            _wait_for(lambda: database.supervisor.states()[supervision.POSTGRES].state == "RUNNING")
            first = pid()
            os.kill(first, signal.SIGKILL)
            _wait_for(lambda: pid() not in (0, first))
            wait_until_ready(settings, database.server)

            _wait_for(lambda: database.supervisor.states()[supervision.POSTGRES].state == "RUNNING")
            second = pid()
            os.kill(second, signal.SIGSTOP)
            watchdog.look(settings, database.supervisor, watchdog.Counter(limit=1), sys.stderr, grace=0)
            _wait_for(lambda: pid() not in (0, second))
            wait_until_ready(settings, database.server)
        finally:
            stop.destroy(settings)


def test_down_ends_everything_also_when_supervisor_was_killed() -> None:
    with open_folder() as home:
        settings = ensure_env(throwaway(home))
        try:
            database = start_postgres(settings)
            os.kill(database.supervisor.pid(), signal.SIGKILL)
            _wait_for(lambda: not database.supervisor.running())
            assert postmaster(database.server) is not None
            assert stop.down(settings)
            assert processes.family(settings) == []
            assert not list((settings.state / "run").iterdir())
            assert not (database.server.data / "postmaster.pid").exists()
            assert not stop.down(settings)

            # a changed .env is taken over by the next start, the superuser's password too
            changed = settings.model_copy(
                update={"pg_admin_password": SecretStr("new'admin"), "pg_reader_password": SecretStr("new-reader")}
            )
            start_postgres(changed)
            assert _query(changed, "apex_reader", "apex", "SELECT 1") == [(1,)]
        finally:
            stop.destroy(settings)


def test_incomplete_data_is_created_again() -> None:
    with open_folder() as home:
        settings = ensure_env(throwaway(home))
        half = settings.state / "postgres" / "data.new"
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("18\n")
        try:
            database = start_postgres(settings)
            assert _query(settings, "apex_reader", "apex", "SELECT 1") == [(1,)]
            assert not half.exists()
            assert database.server.data.is_dir()
        finally:
            stop.destroy(settings)


def test_foreign_files_in_the_data_folder_are_not_touched() -> None:
    with open_folder() as home:
        settings = ensure_env(throwaway(home))
        data = settings.state / "postgres" / "data"
        data.mkdir(parents=True)
        (data / "mine").write_text("keep")
        with pytest.raises(ConfigError, match="not a Postgres data folder"):
            prepare_server(settings)
        assert (data / "mine").read_text() == "keep"


def test_stopped_server_fails_its_health_check(settings: Settings) -> None:
    ok, detail = server_answers(settings, timeout=1)
    assert not ok and detail == "no response"
    assert free_ports(1)
