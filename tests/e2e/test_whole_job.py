"""The main job as a user runs it: the real scheduler, Postgres, MLflow and steps, in a separate home."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.mlflow.inference_log import BATCH_TAG
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.embedded import health, supervision
from apex_ml.platform.embedded.paths import service_log
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.files import SIMULATED
from apex_ml.steps.list_drops import list_drops
from tests.support.apex_home import COMMAND, context_of
from tests.support.bad_drops import REASONS, FailedRuns, deliver_bad_drops, scored_events
from tests.support.dag_runs import is_idle, report_runs
from tests.support.service_kills import fault_for_steps, halted_step, kill_service
from tests.support.waiting import until
from tests.support.whole_platform import WholePlatform, whole_platform

LANDED_ROWS = 10_000
SCORED = "SELECT state, rows_scored FROM orders.drop_summary WHERE name = %s"


@pytest.fixture
def home() -> Iterator[WholePlatform]:
    with whole_platform() as platform:
        yield platform


BATCHES = "SELECT batch, bool_and(sent_at IS NOT NULL) FROM orders.mlflow_outbox GROUP BY 1 ORDER BY 1"


def uses_raw_files_of_a_team(home: WholePlatform, raw: Path) -> list[str]:
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
    assert home.sql("SELECT state, rows_scored FROM orders.drop_summary WHERE name = %s", name) == [("done", orders)]
    fourth = home.apex("run")
    assert fourth.returncode == 0, fourth.stdout[-3000:] + fourth.stderr[-3000:]
    assert "no new raw data" in fourth.stdout and f"was scored already, as {name}" in fourth.stdout
    before = {batch for batch, _ in home.sql(BATCHES, writer=True)}
    removed = home.apex("remove-drop", "--invented", "--apply")
    assert "Removed 2 drops with 200,000 scored orders" in removed.stdout, removed.stderr
    assert home.sql("SELECT count(*) FROM orders.scored_current") == [(orders,)]
    gone = before - {batch for batch, _ in home.sql(BATCHES, writer=True)}
    assert len(gone) == 2
    return sorted(gone)


def deliver(home: WholePlatform, raw: Path, name: str, seed: int) -> None:
    """Put a drop into the inbox, where it appears as a whole."""
    home.make_drop(raw, home.inbox / name, LANDED_ROWS, seed)


def scores_what_lands(home: WholePlatform, raw: Path) -> None:
    """A file lands; some seconds later its rows are visible. The benchmarks measure how many, on a quiet machine."""
    deliver(home, raw, "lands.parquet", 101)
    assert wait_for_score(home, "lands.parquet") == [("done", LANDED_ROWS)]


def wait_for_score(home: WholePlatform, name: str) -> object:
    return until(lambda: home.sql(SCORED, name), 60, f"{name} is scored", pause=0.3, explain=lambda: report(home))


def report(home: WholePlatform) -> str:
    """Airflow's runs of scoring and monitoring, the folders of the drops, and the end of the scheduler's log.

    It is the message of a failed test.
    """
    with AirflowApi(home.whole, patience=10) as api:
        runs = report_runs(api, "orders_score", "orders_monitor")
    folders = (home.inbox, home.inbox.parent / "done", home.inbox.parent / "quarantine")
    listed = [f"{folder.name}: {sorted(path.name for path in folder.iterdir())!a}" for folder in folders]
    scheduler = service_log(home.settings, "airflow-scheduler").read_text(errors="replace").splitlines()[-80:]
    return "\n".join([runs, *listed, "the end of the scheduler's log:", *scheduler])


def survives_kills(home: WholePlatform, raw: Path, removed: list[str]) -> None:
    """The scheduler is killed while a step scores a drop, and MLflow while another does.

    The step outlives its scheduler and is halted. The step of the next scheduler waits for it at the claim.
    """
    with fault_for_steps(home.whole, "score_written"):
        deliver(home, raw, "scheduler.parquet", 102)
        step = until(
            lambda: halted_step(home.settings), 90, "a step is halted", pause=0.3, explain=lambda: report(home)
        )
    kill_service(home.whole, "airflow-scheduler")
    survives_mlflow(home, raw)
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE '%%pg_advisory_xact_lock%%'"
    )
    until(
        lambda: home.sql(waiting, writer=True),
        150,
        "a step waits at the claim",
        pause=0.3,
        explain=lambda: report(home),
    )
    assert home.sql(SCORED, "scheduler.parquet") == []
    step.send_signal(signal.SIGCONT)
    with AirflowApi(home.whole, patience=60) as api:
        until(lambda: is_idle(api, "orders_score"), 120, "scoring is idle", pause=0.5, explain=lambda: report(home))
        assert {run.state for run in api.dag_runs("orders_score")} == {"success"}
    check_scored_once(home, removed, "lands.parquet", "scheduler.parquet", "mlflow.parquet")


def survives_mlflow(home: WholePlatform, raw: Path) -> None:
    deliver(home, raw, "mlflow.parquet", 103)
    command = [*COMMAND, "score", "--drops", '["mlflow.parquet"]']
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
    assert home.sql(
        "SELECT count(*) FROM orders.mlflow_outbox WHERE sent_at IS NULL AND attempts > 0", writer=True
    ) == [(1,)]
    until(lambda: health.check(home.whole, [supervision.MLFLOW])[supervision.MLFLOW].ok, 90)


def check_scored_once(home: WholePlatform, removed: list[str], *names: str) -> None:
    """Every drop has one row in the ledger, one run, all its rows, and with its batch one run in MLflow.

    `removed` are batches of drops that were removed.
    """
    settings = home.whole
    list_drops(context_of(settings, "sweep"))  # the next sweep sends MLflow the missed metrics
    rows = home.sql(
        "SELECT d.name, d.state, count(DISTINCT d.drop_id), count(DISTINCT r.run_id), count(*), count(DISTINCT row_nr)"
        " FROM orders.drops AS d JOIN orders.scoring_runs AS r USING (drop_id) JOIN orders.scored USING (run_id)"
        " WHERE d.name = ANY(%s) GROUP BY 1, 2 ORDER BY 1",
        list(names),
        writer=True,
    )
    assert rows == [(name, "done", 1, 1, LANDED_ROWS, LANDED_ROWS) for name in sorted(names)]
    assert list(home.inbox.iterdir()) == [] and {*names} <= {p.name for p in (home.inbox.parent / "done").iterdir()}
    base = f"{settings.tracking_uri}/api/2.0/mlflow"
    experiment = httpx.get(f"{base}/experiments/get-by-name", params={"experiment_name": "orders/score"}).json()
    search = {"experiment_ids": [experiment["experiment"]["experiment_id"]]}
    message = httpx.post(f"{base}/runs/search", json=search).json()["runs"]
    batches = [tag["value"] for run in message for tag in run["data"]["tags"] if tag["key"] == BATCH_TAG]
    sent = home.sql(BATCHES, writer=True)
    assert sorted([*sent, *((batch, True) for batch in removed)]) == [(batch, True) for batch in sorted(batches)]
    assert {run["info"]["status"] for run in message} == {"FINISHED"}


def bad_drops_stop_nothing(home: WholePlatform, raw: Path, tmp_path: Path) -> None:
    """Bad drops beside a good one: it is scored and monitored, and each bad drop is a separate failed task.

    Bad drops alone announce nothing, so that monitoring does not start for nothing. An upload that has stalled
    meanwhile is no bad drop: it is scored when it goes on.
    """
    good, slow_upload = home.inbox / ".good.parquet.tmp", tmp_path / "slow.parquet"
    for seed, path in ((104, good), (105, slow_upload)):
        home.make_drop(raw, path, LANDED_ROWS, seed)
    slow = slow_upload.read_bytes()
    with AirflowApi(home.whole, patience=60) as api:

        def runs_of_monitoring() -> set[str]:
            return {run.run_id for run in api.dag_runs("orders_monitor", limit=50)}

        def wait(condition: Callable[[], Any], seconds: float, what: str) -> Any:
            return until(condition, seconds, what, pause=0.5, explain=lambda: report(home))

        failed_runs = FailedRuns(api, lambda: report(home))
        # a run that begins meanwhile, for an event that waited, would list the first of these files without the others
        wait(lambda: is_idle(api, "orders_score"), 120, "scoring is idle")
        monitored, events = runs_of_monitoring(), scored_events(api)
        (home.inbox / "slow.parquet").write_bytes(slow[: len(slow) // 2])
        deliver_bad_drops(home.inbox)
        good.rename(home.inbox / "good.parquet")
        run, states, bad = wait(failed_runs.next, 120, "a run with bad drops")
        assert home.sql(SCORED, "good.parquet") == [("done", LANDED_ROWS)]
        assert bad.keys() == REASONS.keys() and {(t.state, t.try_number) for t in bad.values()} == {("failed", 1)}
        assert {name: states[name] for name in ("list_drops", "score", "report", "all_scored")} == dict.fromkeys(
            ("list_drops", "score", "report", "all_scored"), "success"
        )
        for name, reason in REASONS.items():
            assert reason in " ".join(api.log("orders_score", run.run_id, bad[name]).errors)
        assert scored_events(api) == events + 1

        # bad drops alone, while the good one is monitored
        wait(lambda: is_idle(api, "orders_score"), 120, "scoring is idle")
        deliver_bad_drops(home.inbox)
        assert "waits for the rest of its upload" in home.apex("status").stdout
        _, states, bad = wait(failed_runs.next, 120, "a run with nothing but bad drops")
        assert bad.keys() == REASONS.keys() and states["report"] == "success"
        assert scored_events(api) == events + 1

        with (home.inbox / "slow.parquet").open("ab") as file:
            file.write(slow[len(slow) // 2 :])
        monitored_good = (
            "SELECT count(*) > 0 FROM orders.drift_history WHERE scope = 'drop' AND subject ="
            " (SELECT run_id::text FROM orders.drop_summary WHERE name = 'good.parquet')"
        )
        # a run of monitoring may be about an earlier drop
        wait(lambda: home.sql(monitored_good) == [(True,)], 180, "the good drop is monitored")
        wait(
            lambda: [r for r in api.dag_runs("orders_monitor") if r.finished and r.run_id not in monitored],
            120,
            "a run of monitoring has ended",
        )
        assert wait_for_score(home, "slow.parquet") == [("done", LANDED_ROWS)]


def refuses_raw_that_is_no_parquet(home: WholePlatform, raw: Path) -> None:
    """The run fails, and says which file, why, and where the log is."""
    (raw / "notes.txt").write_text("not parquet")
    failed = home.apex("run")
    assert failed.returncode != 0
    assert "notes.txt" in failed.stdout + failed.stderr
    assert "validate" in failed.stdout + failed.stderr


@pytest.mark.platform
@pytest.mark.timeout(900)
def test_main_job_end_to_end(home: WholePlatform, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    created = home.apex(
        "simulate", "--out", str(raw), "--orders", "150000", "--clients", "20000", "--files", "3", "--seed", "5"
    )
    assert created.returncode == 0, created.stderr

    first = home.apex("run", "--raw", str(raw))
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "version 1" in first.stdout
    assert str(home.settings.airflow) in first.stdout
    for secret in Settings.load(home=home.settings.home).model_dump(include={"airflow_admin_password"}).values():
        assert secret.get_secret_value() not in first.stdout

    [(state, rows, scored, quarantined, version)] = home.sql(
        "SELECT state, rows_in, rows_scored, rows_quarantined, model_version FROM orders.drop_summary"
    )
    assert (state, rows, scored, quarantined, version) == ("done", 100_000, 100_000, 0, 1)
    assert home.sql("SELECT count(*), count(DISTINCT row_nr) FROM orders.scored_current") == [(100_000, 100_000)]
    [(action, loss, prior)] = home.sql("SELECT action, challenger_log_loss, prior_log_loss FROM orders.model_history")
    assert action == "promote"
    assert loss < prior

    second = home.apex("run")
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    assert "no new raw data" in second.stdout
    assert home.sql("SELECT count(*), min(rows_scored), count(DISTINCT sha256) FROM orders.drop_summary") == [
        (2, 100_000, 2)
    ]

    page = home.page()
    assert "<dt>orders scored</dt><dd>200,000</dd>" in page and "/versions/1" in page

    status = home.apex("status")
    assert status.returncode == 0
    assert "version 1" in status.stdout

    removed = uses_raw_files_of_a_team(home, raw)
    scores_what_lands(home, raw)
    survives_kills(home, raw, removed)
    bad_drops_stop_nothing(home, raw, tmp_path)
    refuses_raw_that_is_no_parquet(home, raw)
    assert home.apex("down").returncode == 0
