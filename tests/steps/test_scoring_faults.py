"""Scoring under faults: processes killed at every point, services taken away half way, disks that are really full.

A reader polls all the time, and the final tables equal those of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.mlflow.inference_log import BATCH_TAG, send_outbox
from apex_ml.adapters.postgres.migrations import migrate
from apex_ml.adapters.postgres.partitions import OWN_ROWS
from apex_ml.adapters.storage import parquet_pages
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError, DataError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.list_drops import list_drops
from tests.support.apex_home import Apex
from tests.support.concurrent_reader import reading
from tests.support.forked_command import Done, Forked
from tests.support.ledger import places, run
from tests.support.object_servers import in_object_store
from tests.support.schema import SCHEMA
from tests.support.scored_tables import AFTER, BEFORE, LARGE_ONLY, tables
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.throwaway_home import PlainDatabase, open_folder, plain_postgres

LARGE = "large.parquet"
SMALL = tuple(f"small_{nr}.parquet" for nr in range(1, 7))
SMALL_ROWS = 400
BAD_EVERY = 90
"""One of this number of rows of a drop has an invalid client."""


@pytest.fixture(scope="module")
def contents(raw: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Drops by name, made once: each has rows for the quarantine and rows whose outcome came with them."""
    folder = tmp_path_factory.mktemp("contents")
    results = {}
    for seed, name in enumerate((LARGE, *SMALL)):
        path = folder / name
        make_drop(str(raw), date(2024, 8, 24), OWN_ROWS if name == LARGE else SMALL_ROWS, seed, path, contract)
        table = pq.read_table(path)
        clients = table[contract.entity].to_pylist()
        clients[seed::BAD_EVERY] = ["nobody"] * len(clients[seed::BAD_EVERY])
        table = table.set_column(table.schema.get_field_index(contract.entity), contract.entity, pa.array(clients))
        observed = pa.array([contract.classes[nr % 3] if nr % 5 == 0 else None for nr in range(len(clients))])
        pq.write_table(table.append_column(contract.target, observed), path)
        results[name] = path.read_bytes()
    return results


def put(apex: Apex, contents: dict[str, bytes], *names: str) -> None:
    for name in names:
        apex.deliver(name, contents[name])


def score(apex: Apex, *names: str, disk: SmallDisk | None = None, **extra: str) -> Done:
    """`apex score` of some drops."""
    return apex.call("score", "--drops", json.dumps(names), holder=disk.holder if disk else 0, **extra)


@pytest.fixture(scope="module")
def _undisturbed_tables() -> dict[str, dict[str, list[tuple[Any, ...]]]]:
    return {}


@pytest.fixture
def undisturbed(
    scoring: Apex,
    databases: Any,
    contents: dict[str, bytes],
    tmp_path: Path,
    _undisturbed_tables: dict[str, dict[str, list[tuple[Any, ...]]]],
) -> dict[str, list[tuple[Any, ...]]]:
    """The tables after an undisturbed scoring of all drops."""
    if not _undisturbed_tables:
        quiet = scoring.but(home=tmp_path / "quiet", **databases.migrated())
        put(quiet, contents, *contents)
        run(quiet, *contents)
        _undisturbed_tables["all"] = tables(quiet)
    return _undisturbed_tables["all"]


def of(contents: dict[str, list[tuple[Any, ...]]], *names: str) -> dict[str, list[tuple[Any, ...]]]:
    """The part of the tables that belongs to some drops."""
    expected = {row[0] for row in contents["drops"] if row[1] in names}
    return {table: [row for row in rows if row[0] in expected] for table, rows in contents.items()}


# ---- the process is killed


@pytest.mark.parametrize(("place", "seed"), [("folder", 0), ("folder", 1), ("folder", 2), ("moto", 0), ("rclone", 1)])
def test_after_a_kill_at_every_point_the_tables_equal_an_undisturbed_run(
    scoring: Apex,
    contents: dict[str, bytes],
    undisturbed: dict[str, list[tuple[Any, ...]]],
    place: str,
    seed: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before each kill a small drop comes; which of the points before the commit the large one meets is by seed."""
    if place != "folder":
        scoring = in_object_store(scoring, request.getfixturevalue(place), monkeypatch)
    chance = random.Random(seed)
    points, small = chance.sample(BEFORE + AFTER, 8), chance.sample(SMALL, len(SMALL))
    put(scoring, contents, LARGE)
    with reading(scoring):
        for point in points:
            if point in LARGE_ONLY or (point in BEFORE and (BEFORE.index(point) + seed) % 2):
                names = [LARGE]
            else:
                put(scoring, contents, small[-1])
                names = [small.pop()]
            if point not in AFTER:
                others = sorted(set(places(scoring)["inbox"]) - set(names))
                names += chance.sample(others, len(others))
            killed = score(scoring, *names, APEX_FAULT=point)
            assert killed.code == -signal.SIGKILL, (point, killed.err)
            done = {row[0] for row in scoring.sql("SELECT name FROM orders.drops")}
            assert (names[0] in done) == (point in AFTER), point
        put(scoring, contents, *small)
        assert score(scoring, LARGE, APEX_FAULT="score_committed").code == -signal.SIGKILL
        assert score(scoring, *places(scoring)["inbox"]).code == 0
    assert tables(scoring) == undisturbed
    # after a kill between commit and move the file is found again
    deliveries = [row[0] for row in scoring.sql("SELECT deliveries FROM orders.drops")]
    assert sorted(deliveries) == [1] * (len(contents) - 2) + [2, 2]
    assert places(scoring) == {"inbox": [], "done": sorted(contents), "quarantine": []}
    assert scoring.leftovers() == []


@pytest.mark.parametrize("point", ["score_begun", "score_claimed", "score_written"])
def test_a_file_removed_or_changed_while_scoring_leaves_nothing(
    scoring: Apex, contents: dict[str, bytes], point: str
) -> None:
    path = scoring.inbox / SMALL[0]

    def another(make: Callable[[Path], Any]) -> None:
        path.unlink()
        make(path)

    changes: list[tuple[str, Callable[[], Any]]] = [
        ("gone", path.unlink),
        ("changed", lambda: put(scoring, {path.name: b"x"}, path.name)),
        ("changed", lambda: another(os.mkfifo)),
        ("changed", lambda: another(Path.mkdir)),
    ]
    for state, change in changes:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        put(scoring, contents, path.name)
        with reading(scoring), scoring.halted(point, "score", "--drops", json.dumps([path.name])) as command:
            change()
            done = command.go_on()
        assert done.code == 0 and done.result, done.err
        assert done.result["drops"] == [{"drop": path.name, "state": state}]
        assert scoring.sql("SELECT count(*) FROM orders.drops") == [(0,)] and scoring.leftovers() == []


def test_a_file_removed_between_two_checks_is_missing(
    scoring: Apex, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another process moves it just then."""
    footer_read = parquet_pages.errors_name

    @contextmanager
    def and_then_moved(name: str) -> Iterator[None]:
        with footer_read(name):
            yield
        (scoring.inbox / name).unlink()

    monkeypatch.setattr(parquet_pages, "errors_name", and_then_moved)
    put(scoring, contents, SMALL[0])
    assert run(scoring, SMALL[0])["drops"] == [{"drop": SMALL[0], "state": "gone"}]


# ---- Postgres is killed


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainDatabase]:
    """A Postgres that may be killed."""
    with plain_postgres() as instance:
        migrate(instance.settings, load_pipeline(instance.settings))
        yield instance


def on(database: PlainDatabase, scoring: Apex) -> Apex:
    """The home of the test, with the database of another server."""
    settings = database.settings
    return scoring.but(database_url=settings.writer_url, reader_database_url=settings.reader_url)


def test_a_killed_postgres_keeps_all_of_a_drop_or_nothing(
    scoring: Apex,
    own_postgres: PlainDatabase,
    contents: dict[str, bytes],
    undisturbed: dict[str, list[tuple[Any, ...]]],
) -> None:
    apex = on(own_postgres, scoring)
    moments = [
        ("rows_streaming", LARGE),
        ("partition_attached", LARGE),
        ("score_committed", LARGE),
        ("score_claimed", SMALL[0]),
        ("score_written", SMALL[1]),
        ("score_committed", SMALL[2]),
    ]
    names: list[str] = []
    with reading(apex) as reader:
        for point, name in moments:
            put(apex, contents, name)
            with apex.halted(point, "score", "--drops", json.dumps([name])) as command:
                reader.until_more()
                own_postgres.kill()
                done = command.go_on()
            own_postgres.start()
            reader.until_more()
            assert "Traceback" not in done.err, done.err
            if point == "score_committed":
                # committed rows stay; an unavailable MLflow does not fail the scoring
                assert done.code == 0 and "left_for_later" in done.err, done.err
                assert places(apex)["inbox"] == []
            else:
                assert done.code == TransientError.exit_code, done.err
                assert "TransientError" in done.err and "APEX_DATABASE_URL" in done.err
                # at the commit only the ledger knows
                advice = "the next run asks the ledger" if point == "partition_attached" else "nothing was written"
                assert advice in done.err and name in places(apex)["inbox"]
            known = apex.sql("SELECT count(*) FROM orders.drops WHERE name = %s", (name,))
            assert known == [(int(point == "score_committed"),)]
            names = sorted({*names, name})
            if name != LARGE or point == "score_committed":
                run(apex, *names)
                assert tables(apex) == of(undisturbed, *names)
    assert places(apex)["inbox"] == [] and apex.leftovers() == []


# ---- MLflow goes away


class Relay(ThreadingHTTPServer):
    """A proxy of MLflow. From the request in `cut` on it is dead, before or after forwarding that request."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        self.upstream, self.cut, self.answered, self.dead = upstream, "", False, False
        self.instead: tuple[int, bytes] | None = None
        super().__init__(("127.0.0.1", 0), Relayed)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Relayed(BaseHTTPRequestHandler):
    server: Relay

    def answer(self) -> None:
        relay = self.server
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        now = bool(relay.cut) and relay.cut in self.path
        relay.dead |= now
        result = None
        if not relay.dead or (now and relay.answered):
            kept = {k: v for k, v in self.headers.items() if k.lower() == "content-type"}
            result = httpx.request(
                self.command, relay.upstream + self.path, content=content, headers=kept, verify=False
            )
        if relay.dead:
            self.close_connection = True
            self.connection.close()
            return
        assert result is not None
        code, body = relay.instead if relay.instead and "runs/" in self.path else (result.status_code, result.content)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


for _method in ("GET", "POST", "PUT", "PATCH"):
    setattr(Relayed, f"do_{_method}", Relayed.answer)


@pytest.fixture
def relay(mlflow_server: str) -> Iterator[Relay]:
    created = Relay(mlflow_server)
    worker = threading.Thread(target=created.serve_forever, kwargs={"poll_interval": 0.02})
    worker.start()
    yield created
    created.shutdown()
    created.server_close()
    worker.join(30)


def mlflow_runs(apex: Apex) -> list[dict[str, Any]]:
    """The MLflow runs of this home's batches."""
    base = f"{apex.settings.tracking_uri}/api/2.0/mlflow"
    experiment = httpx.get(f"{base}/experiments/get-by-name", params={"experiment_name": "orders/score"}).json()
    results = []
    for (batch,) in apex.sql("SELECT DISTINCT batch FROM orders.mlflow_outbox"):
        search = {"experiment_ids": [experiment["experiment"]["experiment_id"]]}
        search["filter"] = f"tags.`{BATCH_TAG}` = '{batch}'"
        ids = [one["info"]["run_id"] for one in httpx.post(f"{base}/runs/search", json=search).json().get("runs", [])]
        # the search leaves out the inputs
        results += [httpx.get(f"{base}/runs/get", params={"run_id": run_id}).json()["run"] for run_id in ids]
    return results


REQUESTS = [
    # whether it is served and only its answer is lost
    ("runs/search", False),
    ("runs/create", False),
    ("runs/create", True),
    ("runs/log-inputs", False),
    ("runs/log-batch", True),
    ("artifacts/", False),
    ("runs/update", False),
    ("runs/update", True),
]


def test_mlflow_killed_at_any_request_gets_each_run_once_after_recovery(
    scoring: Apex, relay: Relay, contents: dict[str, bytes], undisturbed: dict[str, list[tuple[Any, ...]]]
) -> None:
    """Each request is lost, or is served and its answer lost; the drop is scored all the same."""
    apex = scoring.but(mlflow_tracking_uri=relay.url)
    put(apex, contents, SMALL[0])
    run(apex, SMALL[0])
    (whole,) = mlflow_runs(apex)
    assert shape(whole)["inputs"] == 1
    for request, answered in REQUESTS:
        apex.sql("TRUNCATE orders.drops, orders.quarantined_rows, orders.scored, orders.outcomes CASCADE")
        put(apex, contents, SMALL[0])
        relay.cut, relay.answered = request, answered
        assert run(apex, SMALL[0])["scored"] == 1
        assert relay.dead and places(apex)["inbox"] == []
        ((attempts, error),) = apex.sql("SELECT attempts, last_error FROM orders.mlflow_outbox")
        assert attempts == 1 and "does not answer" in error
        relay.cut, relay.dead = "", False
        assert list_drops(apex.context("sweep")).to_json()["waiting"] == 0  # the sweep logs the rest
        assert send_outbox(apex.settings, SCHEMA) == 0
        assert tables(apex) == of(undisturbed, SMALL[0])
        (one,) = mlflow_runs(apex)
        assert shape(one) == shape(whole), (request, answered)


def shape(mlflow_run: dict[str, Any]) -> dict[str, Any]:
    """What MLflow holds of a run, without the values that are timings."""
    return {
        "status": mlflow_run["info"]["status"],
        "metrics": sorted(m["key"] for m in mlflow_run["data"]["metrics"]),
        "samples": [m["value"] for m in mlflow_run["data"]["metrics"] if m["key"] == "inference_samples"],
        "inputs": len(mlflow_run.get("inputs", {}).get("model_inputs", [])),
    }


@pytest.mark.parametrize(
    "instead", [(404, b"<html>no such page</html>"), (200, b"<html>log in first</html>"), (502, b"")]
)
def test_an_answer_of_another_program_keeps_the_outbox_and_the_scores(
    scoring: Apex, relay: Relay, contents: dict[str, bytes], instead: tuple[int, bytes]
) -> None:
    """The answer of a proxy in front of MLflow."""
    apex = scoring.but(mlflow_tracking_uri=relay.url)
    put(apex, contents, SMALL[0])
    relay.instead = instead
    assert run(apex, SMALL[0])["scored"] == 1
    ((attempts, error, sent),) = apex.sql("SELECT attempts, last_error, sent_at FROM orders.mlflow_outbox")
    assert attempts == 1 and relay.url in error and sent is None
    relay.instead = None
    assert send_outbox(apex.settings, SCHEMA) == 1 and len(mlflow_runs(apex)) == 1


# ---- the disk is full


@pytest.fixture
def disk(scoring: Apex) -> Iterator[SmallDisk]:
    """The home of the test on a small disk, with the champion's runs."""
    home = scoring.settings.home
    home.mkdir(parents=True)
    with small_disk(home, megabytes=16) as instance:
        yield instance


def test_a_home_on_a_full_disk_reports_it_and_scores_when_there_is_space(
    chain: Any,
    scoring: Apex,
    disk: SmallDisk,
    contents: dict[str, bytes],
    undisturbed: dict[str, list[tuple[Any, ...]]],
) -> None:
    apex = scoring.but(processed_url="")
    home = disk.outside(apex.settings.home)
    inbox = home / "data" / "orders" / "drops" / "inbox"
    inbox.mkdir(parents=True)
    (home / "data" / "orders" / "processed").mkdir()
    (home / "data" / "orders" / "processed" / "first").symlink_to(chain.apex.processed / "first")
    (inbox / LARGE).write_bytes(contents[LARGE])

    def files() -> list[str]:
        kept = (p for p in home.rglob("*") if not p.is_symlink() and p.name not in ("filler", "steps.log"))
        return sorted(str(p.relative_to(home)) for p in kept if p.is_file())

    # nothing fits, not even a log or the champion's files; then these fit, but the accepted rows do not
    for leave in (0, 512 * 1024):
        before = files()
        disk.fill(leave)
        done = score(apex, LARGE, disk=disk)
        assert done.code == TransientError.exit_code, (leave, done.err)
        assert "the disk is full; free space" in done.err and "Traceback" not in done.err, done.err
        assert apex.sql("SELECT count(*) FROM orders.drops") == [(0,)]
        left = set(files()) - set(before)
        assert not [name for name in left if not name.startswith(".apex/models/")], left
        assert not [p for p in home.rglob("*") if p.name.endswith((".partial", ".tmp"))]
    disk.free()
    done = score(apex, LARGE, disk=disk)
    assert done.code == 0, done.err
    assert tables(apex) == of(undisturbed, LARGE)
    assert not [p for p in home.rglob("*") if p.name.endswith((".partial", ".tmp"))]


def test_a_disk_full_while_moving_loses_no_file_and_scores_none_twice(
    scoring: Apex,
    tmp_path: Path,
    contents: dict[str, bytes],
    undisturbed: dict[str, list[tuple[Any, ...]]],
) -> None:
    """The folder is an overlay, as in a container: there a rename copies the file to the upper disk first."""
    root = scoring.inbox.parent
    put(scoring, contents, SMALL[0], SMALL[1])
    (scoring.inbox / "bad.parquet").write_bytes(b"junk")
    for part in ("done", "quarantine"):
        (root / part).mkdir()
    upper = tmp_path / "upper"
    upper.mkdir()
    with small_disk(upper, megabytes=1) as disk:
        for part in ("files", "work"):
            disk.outside(upper / part).mkdir()
        layers = f"lowerdir={root},upperdir={upper}/files,workdir={upper}/work"
        disk.mount("-t", "overlay", "-o", layers, "overlay", str(root))

        def folders() -> dict[str, list[str]]:
            shown = disk.outside(root)
            return {p: sorted(f.name for f in (shown / p).iterdir()) for p in ("inbox", "done", "quarantine")}

        before = folders()
        disk.fill()
        done = score(scoring, SMALL[0], SMALL[1], "bad.parquet", disk=disk)
        assert done.code == TransientError.exit_code and "Traceback" not in done.err, done.err
        assert f"{root}/done: the disk is full; free space" in done.err
        assert folders() == before
        assert scoring.sql("SELECT name FROM orders.drops") == [(SMALL[0],)]  # committed before it could not be moved
        done = score(scoring, "bad.parquet", disk=disk)
        assert done.code == TransientError.exit_code and "Traceback" not in done.err, done.err
        assert f"{root}/quarantine: the disk is full; free space" in done.err
        assert folders() == before
        disk.free()
        done = score(scoring, SMALL[0], SMALL[1], "bad.parquet", disk=disk)
        assert done.code == DataError.exit_code, done.err
        result = folders()
        assert result == {
            "inbox": [],
            "done": [SMALL[0], SMALL[1]],
            "quarantine": ["bad.parquet", "bad.parquet.reason.json"],
        }
    assert of(tables(scoring), SMALL[0], SMALL[1]) == of(undisturbed, SMALL[0], SMALL[1])
    assert scoring.sql("SELECT name, state, deliveries FROM orders.drops ORDER BY name") == [
        ("bad.parquet", "failed", 2),
        (SMALL[0], "done", 2),
        (SMALL[1], "done", 1),
    ]


def test_folders_on_different_file_systems_are_reported_before_scoring(
    scoring: Apex, contents: dict[str, bytes]
) -> None:
    put(scoring, contents, SMALL[0])
    done_folder = scoring.inbox.parent / "done"
    done_folder.mkdir()
    with small_disk(done_folder, megabytes=1) as disk:
        done = score(scoring, SMALL[0], disk=disk)
    assert done.code == ConfigError.exit_code and "Traceback" not in done.err, done.err
    assert f"{done_folder}: " in done.err and "another file system" in done.err
    assert scoring.sql("SELECT count(*) FROM orders.drops") == [(0,)]
    assert places(scoring)["inbox"] == [SMALL[0]]


def test_a_full_disk_under_postgres_is_reported_and_the_next_run_recovers(
    scoring: Apex, contents: dict[str, bytes], undisturbed: dict[str, list[tuple[Any, ...]]]
) -> None:
    """The tables are on a separate small disk, as with a tablespace."""
    with open_folder() as folder, small_disk(folder, megabytes=48) as disk, plain_postgres(disk.command) as database:
        place = disk.outside(folder) / "tables"
        place.mkdir()
        if database.server.account:
            shutil.chown(place, database.server.account.pw_uid, database.server.account.pw_gid)
        migrate(database.settings, load_pipeline(database.settings))
        admin = database.settings
        with closing(
            psycopg2.connect(
                host=str(database.server.socket),
                port=admin.pg_port,
                user="apex_admin",
                password=admin.pg_admin_password.get_secret_value(),
                dbname="postgres",
            )
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLESPACE small LOCATION '{folder}/tables'")
                cursor.execute("ALTER DATABASE apex SET TABLESPACE small")
        apex = on(database, scoring)
        put(apex, contents, LARGE, SMALL[0])
        with reading(apex) as reader:
            for leave in (1, 6):  # the rows do not fit; then their index does not
                disk.fill(leave * 2**20)
                with pytest.raises(TransientError, match="No space left on device") as raised:
                    run(apex, LARGE)
                assert "nothing was written" in str(raised.value) and "free space" in str(raised.value)
                assert apex.sql("SELECT count(*) FROM orders.drops") == [(0,)]
                assert apex.leftovers() == []
                reader.until_more()
            disk.free()
            run(apex, LARGE, SMALL[0])
        assert tables(apex) == of(undisturbed, LARGE, SMALL[0])


def test_a_full_disk_under_the_log_of_postgres_is_reported_and_the_next_run_recovers(
    scoring: Apex, contents: dict[str, bytes], undisturbed: dict[str, list[tuple[Any, ...]]]
) -> None:
    """The server ends itself, and again at each start, until there is space."""
    with open_folder() as folder, small_disk(folder, megabytes=24) as disk, plain_postgres(disk.command) as database:
        migrate(database.settings, load_pipeline(database.settings))
        database.move_log(folder / "log", disk.outside(folder) / "log")
        apex = on(database, scoring)
        put(apex, contents, LARGE, SMALL[0])
        with reading(apex) as reader:
            reader.until_more()
            disk.fill()
            with pytest.raises(TransientError, match=r"No space left on device.*; free space on its disk"):
                run(apex, LARGE, SMALL[0])
            with pytest.raises(TransientError, match="APEX_DATABASE_URL"):
                run(apex, LARGE, SMALL[0])
            disk.free()
            database.kill()  # even if it is still starting or has stopped
            database.start()
            assert apex.sql("SELECT count(*) FROM orders.drops") == [(0,)]
            run(apex, LARGE, SMALL[0])
        assert tables(apex) == of(undisturbed, LARGE, SMALL[0])


# ---- two concurrent processes


def test_two_schedulers_with_the_same_list_score_each_drop_once(scoring: Apex, raw: Path, contract: Contract) -> None:
    observed: dict[str, list[str]] = {}
    with reading(scoring):
        for turn in range(3):
            names = [f"{turn}_{nr:02d}.parquet" for nr in range(20)]
            for nr, name in enumerate(names):
                make_drop(str(raw), date(2024, 8, 24), 20, 100 * turn + nr, scoring.inbox / name, contract)
            inputs = [names, names if turn == 0 else names[::-1] if turn == 1 else names[10:] + names[:10]]
            with ExitStack() as stack:
                workers = [stack.enter_context(scoring.forked("score", "--drops", json.dumps(g))) for g in inputs]
                for worker in workers:
                    done = worker.ended()
                    assert done.code == 0 and done.result and "Traceback" not in done.err, done.err
                    for one in done.result["drops"]:
                        observed.setdefault(one["drop"], []).append(one["state"])
    assert len(observed) == 60
    for name, states in observed.items():
        assert sorted(states) in (["already", "scored"], ["gone", "scored"]), (name, states)
    rows = scoring.sql(
        "SELECT d.name, d.state, d.deliveries, count(r.run_id), sum(r.rows_scored)::int FROM orders.drops AS d"
        " LEFT JOIN orders.scoring_runs AS r USING (drop_id) GROUP BY 1, 2, 3 ORDER BY 1"
    )
    assert rows == [(name, "done", 1 + observed[name].count("already"), 1, 20) for name in sorted(observed)]
    assert places(scoring) == {"inbox": [], "done": sorted(observed), "quarantine": []}
    assert scoring.leftovers() == []


def test_a_second_process_waits_and_scores_only_the_remaining_drops(
    scoring: Apex, contents: dict[str, bytes], undisturbed: dict[str, list[tuple[Any, ...]]]
) -> None:
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    @contextmanager
    def second(**extra: str) -> Iterator[Forked]:
        """Another process, which has reached the claim of the same drop."""
        with scoring.forked("score", "--drops", json.dumps([name]), **extra) as command:
            deadline = time.monotonic() + 60
            while not scoring.sql(waiting):
                assert command.process.is_alive() and time.monotonic() < deadline, command.ended(0)
                time.sleep(0.02)
            yield command

    with reading(scoring):
        for point, dies in (("score_claimed", False), ("score_written", False), ("score_written", True)):
            name = SMALL[len(places(scoring)["done"])]
            put(scoring, contents, name)
            with scoring.halted(point, "score", "--drops", json.dumps([name])) as first:
                # the second one would die were it let in beside the first
                with second(**({} if dies else {"APEX_FAULT": "score_claimed"})) as other:
                    if dies:
                        first.close()
                    else:
                        assert (first.go_on().result or {})["scored"] == 1
                    done = other.ended()
            assert done.code == 0 and done.result, done.err
            assert done.result["scored"] == int(dies) and done.result["failed"] == 0
    assert tables(scoring) == of(undisturbed, *SMALL[:3])
    # what the killed one left is cleared by the next that begins
    assert score(scoring).code == 0
    assert places(scoring)["inbox"] == [] and scoring.leftovers() == []
