"""The main job as a person runs it: the real scheduler, Postgres, MLflow and steps, on a home of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.mlflow.inference_log import BATCH_TAG, EXPERIMENT
from apex_ml.contract.model import load_contract
from apex_ml.platform.airflow_api import AirflowApi, TaskRun
from apex_ml.platform.embedded import health, start, supervision
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.drop import make_drop
from apex_ml.simulate.files import SIMULATED
from apex_ml.steps.list_drops import list_drops
from tests.support.apex_home import context_of
from tests.support.service_kills import fault_for_steps, halted_step, kill_service
from tests.support.throwaway_home import open_folder, throwaway
from tests.support.waiting import until

APEX = [sys.executable, "-c", "from apex_ml.cli.main import main; main()"]


class Home:
    """One throwaway platform and the command that drives it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        kept = {k: v for k, v in os.environ.items() if not k.startswith("APEX_")}
        ports = ("pg_port", "mlflow_port", "airflow_port", "serving_port")
        self.env = kept | {f"APEX_{p.upper()}": str(getattr(settings, p)) for p in ports}
        self.env |= {"APEX_HOME": str(settings.home), "COLUMNS": "160"}

    def apex(self, *arguments: str, seconds: int = 280) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*APEX, *arguments],
            env=self.env,
            cwd=CODE_ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    @property
    def whole(self) -> Settings:
        """The settings with the passwords of the home's own .env."""
        ports = ("pg_port", "mlflow_port", "airflow_port", "serving_port")
        return Settings.load(home=self.settings.home, **{p: getattr(self.settings, p) for p in ports})

    def page(self) -> str:
        """The Apex page, as the viewer sees it."""
        settings = Settings.load(home=self.settings.home)
        with httpx.Client(base_url=self.settings.airflow, trust_env=False, timeout=30) as client:
            user = {"username": "viewer", "password": settings.airflow_viewer_password.get_secret_value()}
            token = client.post("/auth/token", json=user).json()["access_token"]
            answer = client.get("/apex/", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer.text

    def sql(self, query: str, *parameters: object, writer: bool = False) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.whole.writer_url if writer else self.whole.reader_url)) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute(query, parameters or None)
                return cursor.fetchall()

    @property
    def inbox(self) -> Path:
        return Path(self.settings.drops) / "inbox"


def _of(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names the folder."""
    return [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]


@pytest.fixture
def home() -> Iterator[Home]:
    with open_folder() as folder:
        settings = throwaway(folder)
        try:
            yield Home(settings)
        finally:
            start.destroy(settings)
        _gone, alive = psutil.wait_procs(_of(folder), timeout=15)
        assert not alive


BATCHES = "SELECT batch, bool_and(sent_at IS NOT NULL) FROM apex.mlflow_outbox GROUP BY 1 ORDER BY 1"


def as_a_teams_own_raw_files(home: Home, raw: Path) -> list[str]:
    """Of raw data that is not generated the newest day is held back and scored, once; invented drops can go.

    Returns the batches of the removed drops, whose runs stay in MLflow.
    """
    (raw / SIMULATED).unlink()
    days = pa.concat_tables(pq.read_table(file, columns=["fecha_pedido_dt"]) for file in raw.glob("*.parquet"))
    newest = pc.max(days["fecha_pedido_dt"])
    orders = pc.sum(pc.equal(days["fecha_pedido_dt"], newest)).as_py()
    name = f"held-back-{newest.as_py():%Y-%m-%d}.parquet"
    third = home.apex("run")
    assert third.returncode == 0, third.stdout[-3000:] + third.stderr[-3000:]
    assert f"Drop: {name}, the {orders:,} orders of" in third.stdout
    assert home.sql("SELECT state, rows_scored FROM apex.drop_summary WHERE name = %s", name) == [("done", orders)]
    fourth = home.apex("run")
    assert fourth.returncode == 0, fourth.stdout[-3000:] + fourth.stderr[-3000:]
    assert "no new raw data" in fourth.stdout and f"was scored already, as {name}" in fourth.stdout
    before = {batch for batch, _ in home.sql(BATCHES, writer=True)}
    removed = home.apex("remove-drop", "--invented", "--apply")
    assert "Removed 2 drops with 200,000 scored orders" in removed.stdout, removed.stderr
    assert home.sql("SELECT count(*) FROM apex.scored_orders_current") == [(orders,)]
    gone = before - {batch for batch, _ in home.sql(BATCHES, writer=True)}
    assert len(gone) == 2
    return sorted(gone)


LANDED_ROWS = 10_000
SCORED = "SELECT state, rows_scored FROM apex.drop_summary WHERE name = %s"


def put(home: Home, raw: Path, name: str, seed: int) -> None:
    """Make a drop; it appears in the inbox as a whole."""
    [(as_of,)] = home.sql("SELECT max(snapshot_as_of) FROM apex.scoring_runs", writer=True)
    assert isinstance(as_of, date)
    make_drop(str(raw), as_of, LANDED_ROWS, seed, home.inbox / name, load_contract(home.settings.contract))


def lands(home: Home, raw: Path) -> None:
    """A file lands; some seconds later its rows are seen. How many is measured by the benches, on a quiet machine."""
    put(home, raw, "lands.parquet", 101)
    assert until(lambda: home.sql(SCORED, "lands.parquet"), 60) == [("done", LANDED_ROWS)]


def killed_while_it_scores(home: Home, raw: Path, removed: list[str]) -> None:
    """The scheduler is killed while a step scores a drop, and MLflow while another does.

    The step outlives its scheduler and stands still: the one that the next scheduler begins waits for it at the claim.
    """
    with fault_for_steps(home.whole, "score_written"):
        put(home, raw, "scheduler.parquet", 102)
        step = until(lambda: halted_step(home.settings), 90)
    kill_service(home.whole, "airflow-scheduler")
    mlflow_is_killed(home, raw)
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%%pg_advisory_xact_lock%%'"
    )
    until(lambda: home.sql(waiting, writer=True), 150)
    assert home.sql(SCORED, "scheduler.parquet") == []
    step.send_signal(signal.SIGCONT)
    with AirflowApi(home.whole, patience=60) as api:
        # one look for both: a sweep may be queued between two
        runs = until(lambda: (seen := api.dag_runs("apex_score")) and all(run.finished for run in seen) and seen, 120)
        assert {run.state for run in runs} == {"success"}
    once_each(home, removed, "lands.parquet", "scheduler.parquet", "mlflow.parquet")


def mlflow_is_killed(home: Home, raw: Path) -> None:
    put(home, raw, "mlflow.parquet", 103)
    command = [*APEX, "score", "--drops", '["mlflow.parquet"]']
    fault = home.env | {"APEX_FAULT": "score_written:halt"}
    with subprocess.Popen(command, env=fault, cwd=CODE_ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, 60)
            kill_service(home.whole, supervision.MLFLOW)
            process.send_signal(signal.SIGCONT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and "mlflow_not_told" in err, err
    assert home.sql(SCORED, "mlflow.parquet") == [("done", LANDED_ROWS)]
    assert home.sql("SELECT count(*) FROM apex.mlflow_outbox WHERE sent_at IS NULL AND attempts > 0", writer=True) == [
        (1,)
    ]
    until(lambda: health.check(home.whole, [supervision.MLFLOW])[supervision.MLFLOW].ok, 90)


def once_each(home: Home, removed: list[str], *names: str) -> None:
    """Every drop has one row in the ledger, one run, all its rows, and with its batch one run in MLflow.

    `removed` are batches of drops that were removed.
    """
    settings = home.whole
    list_drops(context_of(settings, "sweep"))  # the next look at the inbox tells MLflow what it missed
    found = home.sql(
        "SELECT d.name, d.state, count(DISTINCT d.drop_id), count(DISTINCT r.run_id), count(*), count(DISTINCT row_nr)"
        " FROM apex.drops AS d JOIN apex.scoring_runs AS r USING (drop_id) JOIN apex.scored_orders USING (run_id)"
        " WHERE d.name = ANY(%s) GROUP BY 1, 2 ORDER BY 1",
        list(names),
        writer=True,
    )
    assert found == [(name, "done", 1, 1, LANDED_ROWS, LANDED_ROWS) for name in sorted(names)]
    assert list(home.inbox.iterdir()) == [] and {*names} <= {p.name for p in (home.inbox.parent / "done").iterdir()}
    base = f"{settings.tracking_uri}/api/2.0/mlflow"
    named = httpx.get(f"{base}/experiments/get-by-name", params={"experiment_name": EXPERIMENT}).json()
    search = {"experiment_ids": [named["experiment"]["experiment_id"]]}
    told = httpx.post(f"{base}/runs/search", json=search).json()["runs"]
    batches = [tag["value"] for run in told for tag in run["data"]["tags"] if tag["key"] == BATCH_TAG]
    sent = home.sql(BATCHES, writer=True)
    assert sorted([*sent, *((batch, True) for batch in removed)]) == [(batch, True) for batch in sorted(batches)]
    assert {run["info"]["status"] for run in told} == {"FINISHED"}


BAD = {
    "junk.parquet": "junk.parquet: not a parquet file",
    "no such file.parquet": "no such file.parquet: is a link to nothing",
    "order\ufffd.parquet": "order\ufffd.parquet: its name is not UTF-8",
}


def bad_drops_mute_nothing(home: Home, raw: Path, tmp_path: Path) -> None:
    """Bad drops beside a good one: it is scored and monitored, and each of them is a red task of its own.

    Bad drops alone announce nothing, so that monitoring is not started for nothing. An upload that has stalled
    meanwhile is no bad drop: it is scored when it goes on.
    """

    def deliver_bad() -> None:
        (home.inbox / "junk.parquet").write_bytes(b"junk")
        (home.inbox / "no such file.parquet").symlink_to("nothing")
        (home.inbox / os.fsdecode(b"order\xff.parquet")).write_bytes(b"any")

    def scored_events() -> int:
        found = api._call("GET", "/assets/events", params={"limit": 100})["asset_events"]
        return sum(event["name"] == "apex_scored" for event in found)

    def red_run() -> tuple[str, dict[str, str | None], dict[str | None, TaskRun]] | None:
        """The first run of apex_score that is not in `before` and has ended with bad drops."""
        for run in api.dag_runs("apex_score"):
            tasks = api.task_runs("apex_score", run.run_id)
            bad = {task.label: task for task in tasks if task.task_id == "bad_drops" and task.map_index >= 0}
            if run.finished and run.run_id not in before and bad:
                assert run.state == "failed"
                return run.run_id, {task.task_id: task.state for task in tasks}, bad
        return None

    make, slow_upload = tmp_path / "good.parquet", tmp_path / "slow.parquet"
    [(as_of,)] = home.sql("SELECT max(snapshot_as_of) FROM apex.scoring_runs", writer=True)
    for seed, path in ((104, make), (105, slow_upload)):
        make_drop(str(raw), as_of, LANDED_ROWS, seed, path, load_contract(home.settings.contract))
    with AirflowApi(home.whole, patience=60) as api:
        until(lambda: all(run.finished for run in api.dag_runs("apex_score")), 120)
        before = {run.run_id for run in api.dag_runs("apex_score")}
        monitored = {run.run_id for run in api.dag_runs("apex_monitor", limit=50)}
        events = scored_events()
        shutil.copy(make, home.inbox / ".good.parquet.tmp")
        slow = slow_upload.read_bytes()
        (home.inbox / "slow.parquet").write_bytes(slow[: len(slow) // 2])
        deliver_bad()
        (home.inbox / ".good.parquet.tmp").rename(home.inbox / "good.parquet")
        run_id, states, bad = until(red_run, 120)
        assert home.sql(SCORED, "good.parquet") == [("done", LANDED_ROWS)]
        assert bad.keys() == BAD.keys() and {(t.state, t.try_number) for t in bad.values()} == {("failed", 1)}
        assert {name: states[name] for name in ("list_drops", "score", "report", "all_scored")} == dict.fromkeys(
            ("list_drops", "score", "report", "all_scored"), "success"
        )
        for name, reason in BAD.items():
            assert reason in " ".join(api.log("apex_score", run_id, bad[name]).errors)
        assert scored_events() == events + 1
        new = until(lambda: {run.run_id for run in api.dag_runs("apex_monitor", limit=50)} - monitored, 60)
        until(lambda: [run for run in api.dag_runs("apex_monitor") if run.run_id in new and run.finished], 120)
        assert home.sql(
            "SELECT count(*) > 0 FROM apex.drift_history WHERE scope = 'drop' AND subject ="
            " (SELECT run_id::text FROM apex.drop_summary WHERE name = 'good.parquet')"
        ) == [(True,)]

        before |= {run.run_id for run in api.dag_runs("apex_score")}
        deliver_bad()
        _, states, bad = until(red_run, 120)
        assert bad.keys() == BAD.keys() and states["report"] == "success"
        assert scored_events() == events + 1

        assert "waits for the rest of its upload" in home.apex("status").stdout
        with (home.inbox / "slow.parquet").open("ab") as file:
            file.write(slow[len(slow) // 2 :])
        assert until(lambda: home.sql(SCORED, "slow.parquet"), 60) == [("done", LANDED_ROWS)]


@pytest.mark.platform
@pytest.mark.timeout(900)
def test_main_job_end_to_end(home: Home, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    made = home.apex(
        "simulate", "--out", str(raw), "--orders", "150000", "--clients", "20000", "--files", "3", "--seed", "5"
    )
    assert made.returncode == 0, made.stderr

    first = home.apex("run", "--raw", str(raw))
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "version 1" in first.stdout
    assert str(home.settings.airflow) in first.stdout
    for secret in Settings.load(home=home.settings.home).model_dump(include={"airflow_admin_password"}).values():
        assert secret.get_secret_value() not in first.stdout

    [(state, rows, scored, quarantined, version)] = home.sql(
        "SELECT state, rows_in, rows_scored, rows_quarantined, model_version FROM apex.drop_summary"
    )
    assert (state, rows, scored, quarantined, version) == ("done", 100_000, 100_000, 0, 1)
    assert home.sql("SELECT count(*), count(DISTINCT row_nr) FROM apex.scored_orders_current") == [(100_000, 100_000)]
    [(action, loss, prior)] = home.sql("SELECT action, challenger_log_loss, prior_log_loss FROM apex.model_history")
    assert action == "promote"
    assert loss < prior

    second = home.apex("run")
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    assert "no new raw data" in second.stdout
    assert home.sql("SELECT count(*), min(rows_scored), count(DISTINCT sha256) FROM apex.drop_summary") == [
        (2, 100_000, 2)
    ]

    page = home.page()
    assert "<dt>orders scored</dt><dd>200,000</dd>" in page and "/versions/1" in page

    status = home.apex("status")
    assert status.returncode == 0
    assert "version 1" in status.stdout

    removed = as_a_teams_own_raw_files(home, raw)
    lands(home, raw)
    killed_while_it_scores(home, raw, removed)
    bad_drops_mute_nothing(home, raw, tmp_path)

    # a raw file that is no parquet: the run fails, and says which file, why, and where the log is
    (raw / "notes.txt").write_text("not parquet")
    failed = home.apex("run")
    assert failed.returncode != 0
    assert "notes.txt" in failed.stdout + failed.stderr
    assert "validate" in failed.stdout + failed.stderr
    assert home.apex("down").returncode == 0
