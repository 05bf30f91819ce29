"""The parts of the main job that need no platform."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from click.testing import CliRunner
from rich.console import Console

from apex_ml.cli.simulate import simulate
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.pipelines import load_pipeline
from apex_ml.platform import main_job
from apex_ml.platform.airflow_runs import DagRun, TaskLog, TaskRun
from apex_ml.platform.follow import only_bad_drops, print_failures
from apex_ml.platform.job_drop import check_drop, held_back_drop, next_run_number
from apex_ml.platform.raw_data import has_generated_raw, raw_folder, sample_raw
from apex_ml.platform.reports.task_board import TaskBoard
from apex_ml.settings import Settings

PARQUET = b"PAR1" + b"\0" * 8 + b"PAR1"


def test_raw_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "_SUCCESS").touch()
    (tmp_path / "raw" / "part-0.snappy.parquet").write_bytes(PARQUET)
    monkeypatch.chdir(tmp_path)
    assert raw_folder("raw") == tmp_path / "raw"
    assert raw_folder(f"file://{tmp_path}/raw") == tmp_path / "raw"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such folder"),
        ({}, "no data files"),
        ({"_SUCCESS": b"", ".hidden.parquet": PARQUET}, "no data files"),
        ({"orders.csv": b"a,b"}, "no parquet file among its 1 file, e.g. orders.csv"),
    ],
)
def test_raw_folder_refuses(tmp_path: Path, files: dict[str, bytes] | None, message: str) -> None:
    folder = tmp_path / "raw"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"RAW={folder}: {message}"):
        raw_folder(str(folder))


def test_a_configured_folder_is_never_filled(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with sample_raw(Settings.load(home=tmp_path, raw_url=str(tmp_path / "mine")), console):
        pass
    assert not (tmp_path / "mine").exists()
    (tmp_path / "data" / "orders" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "orders" / "raw" / "orders.parquet").write_bytes(PARQUET)
    with sample_raw(Settings.load(home=tmp_path), console):
        pass
    assert [file.name for file in (tmp_path / "data" / "orders" / "raw").iterdir()] == ["orders.parquet"]


def test_raw_data_is_generated_again_when_all_files_are_generated(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, raw_url=str(tmp_path / "raw"))
    assert not has_generated_raw(settings)
    arguments = ["--out", load_pipeline(settings).locations.raw, "--orders", "200", "--clients", "20", "--files", "2"]
    assert CliRunner().invoke(simulate, arguments).exit_code == 0
    assert has_generated_raw(settings)
    (tmp_path / "raw" / "orders-of-today.parquet").write_bytes(PARQUET)
    assert not has_generated_raw(settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.parquet", None, "there is no such file"),
        ("a.parquet.tmp", PARQUET, "unfinished"),
        ("a.csv", b"a,b", "not a parquet file"),
    ],
)
def test_an_invalid_drop_is_refused_before_anything_starts(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"--drop {tmp_path / name}: .*{message}"):
        check_drop(tmp_path / name)


def test_a_folder_is_no_drop(tmp_path: Path) -> None:
    (tmp_path / "dir.parquet").mkdir()
    with pytest.raises(ConfigError, match="dir.parquet: is a folder; name a single file"):
        check_drop(tmp_path / "dir.parquet")


def test_run_numbers_are_unique(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: next_run_number(settings), range(20)))
    assert sorted(numbers) == list(range(1, 21))
    counter = tmp_path / ".apex" / "run_counter.json"
    assert json.loads(counter.read_text()) == {"runs": 20}
    counter.write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        next_run_number(settings)


def task(name: str, state: str | None, seconds: float | None = None, map_index: int = -1, tries: int = 1) -> TaskRun:
    """A task instance."""
    return TaskRun(name, map_index, "a +1", state, tries, datetime.now(UTC) if state else None, seconds)


def test_the_board_prints_each_change_once_off_a_terminal() -> None:
    out = io.StringIO()
    with TaskBoard(Console(file=out, width=100), "orders_retrain") as board:
        board.show([task("validate", "queued"), task("elt", None)])
        board.show([task("validate", "running"), task("elt", None)])
        board.show([task("validate", "running"), task("elt", None)], "waiting")
        board.show([task("validate", "success", 3.21), task("score", "up_for_retry", map_index=0, tries=2)], "waiting")
    assert [" ".join(line.split()) for line in out.getvalue().splitlines()] == [
        "orders_retrain",
        "validate running",
        "waiting",
        "validate success 3.2 s",
        "score [a +1] up_for_retry, try 2",
    ]


def test_the_board_draws_a_table_on_a_terminal() -> None:
    out = io.StringIO()
    with TaskBoard(Console(file=out, width=100, force_terminal=True), "orders_retrain") as board:
        board.show([task("validate", "success", 3.21), task("elt", "running")])
    assert "validate" in out.getvalue() and "3.2" in out.getvalue() and "running" in out.getvalue()


@pytest.mark.parametrize(
    ("failed", "about_others"),
    [(["bad_drops", "bad_drops"], True), (["score", "bad_drops"], False), (["score"], False), ([], False)],
)
def test_a_run_that_failed_only_for_bad_drops_does_not_end_the_main_job(failed: list[str], about_others: bool) -> None:
    done = TaskRun("list_drops", -1, None, "success", 1, None, None)
    tasks = [TaskRun(name, number, None, "failed", 1, None, None) for number, name in enumerate(failed)]
    assert only_bad_drops([done, *tasks]) is about_others


@pytest.mark.parametrize(("text", "shown"), [((), "no text: its process ended"), (("Task starts",), "Task starts")])
def test_a_task_that_fails_without_an_error_shows_what_the_scheduler_logged(
    tmp_path: Path, text: tuple[str, ...], shown: str
) -> None:
    settings = Settings.load(home=tmp_path)
    settings.logs.mkdir()
    (settings.logs / "airflow-scheduler.log").write_text("scheduling\nhttpx.ConnectError: refused\nscheduling\n")
    api: Any = SimpleNamespace(log=lambda *_: TaskLog(text, (), None), run_url=lambda *_: "http://airflow/run")
    out = io.StringIO()
    run = DagRun("orders_retrain", "r", "failed", None, None)
    print_failures(api, settings, Console(file=out, width=200), run, [task("validate", "failed", tries=3)])
    assert shown in out.getvalue() and "httpx.ConnectError: refused" in out.getvalue()


class FailedRun:
    """Airflow with a run of orders_retrain in which the last step failed with an error."""

    pages = "http://airflow"

    def __init__(self, error: str) -> None:
        self.error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def unpause(self, dag_id: str) -> None:
        pass

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        self.conf = json_text(conf)
        return "r"

    def dag_run(self, dag_id: str, run_id: str) -> DagRun:
        return DagRun(dag_id, run_id, "failed", None, None)

    def task_runs(self, dag_id: str, run_id: str) -> list[TaskRun]:
        return [task("validate", "success", 1.0), task("elt", "failed", 1.0)]

    def log(self, dag_id: str, run_id: str, failed: TaskRun) -> TaskLog:
        return TaskLog((self.error,), (self.error,) if self.error else (), None)

    def run_url(self, dag_id: str, run_id: str) -> str:
        return "http://airflow/run"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("apex elt (exit code 10): DataError: no rows (exit code 30)", 10),
        ("apex elt (exit code 20): Postgres at x does not answer", 20),
        ("apex elt (exit code 30): ConfigError: a setting", 30),
        ("apex elt (exit code 1): ZeroDivisionError", 1),
        ("apex elt (exit code 2): No such option", 1),
        ("apex elt (exit code 0): ended without an APEX_RESULT line: hello", 1),
        ("RuntimeError: a task has no chunk (exit code 30)", 1),
        ("KeyError: 'run'", 1),
        ("ConfigError: settings: APEX_TRIALS=x", 30),
        ("TransientError: Postgres at x does not answer", 20),
        ("ConnectError: [Errno 111] Connection refused", 20),
        ("TimeoutError: the API server does not answer", 20),
        ("MemoryError: ", 20),
        ("apex elt: killed by SIGKILL: ", 20),
        ("apex elt: stopped after 0:10:00 (APEX_STEP_TIMEOUT_MINUTES)", 20),
        ("", 20),
    ],
)
def test_a_failed_run_ends_with_the_exit_code_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, code: int
) -> None:
    monkeypatch.setattr(main_job, "AirflowApi", lambda *_, **__: FailedRun(error))
    settings = Settings.load(home=tmp_path)
    assert main_job.retrain(settings) == code
    monkeypatch.setattr(main_job, "_bring_up", lambda *_: settings)
    assert main_job.run_main_job(settings, None) == code


@pytest.mark.parametrize(
    ("options", "conf"),
    [
        ({}, "{}"),
        ({"force": True}, '{"force": true}'),
        ({"split": "temporal", "trials": 0}, '{"split": "temporal", "trials": 0}'),
    ],
)
def test_a_retraining_gets_only_the_parameters_that_the_user_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], conf: str
) -> None:
    airflow = FailedRun("")
    monkeypatch.setattr(main_job, "AirflowApi", lambda *_, **__: airflow)
    main_job.retrain(Settings.load(home=tmp_path), **options)
    assert airflow.conf == conf


@pytest.mark.parametrize(
    ("raw", "invented", "conf"),
    [
        (None, True, "{}"),
        (None, False, '{"without_newest_day": true}'),
        ("raw", True, '{"raw": "/srv/raw"}'),
        ("raw", False, '{"raw": "/srv/raw", "without_newest_day": true}'),
    ],
)
def test_the_main_job_names_new_raw_data_and_holds_its_newest_day_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: str | None, invented: bool, conf: str
) -> None:
    airflow, settings = FailedRun(""), Settings.load(home=tmp_path, raw_url="/srv/raw")
    monkeypatch.setattr(main_job, "AirflowApi", lambda *_, **__: airflow)
    monkeypatch.setattr(main_job, "_bring_up", lambda *_: settings)
    main_job.run_main_job(settings, raw, invented=invented)
    assert airflow.conf == conf


def test_ctrl_c_ends_the_command_and_leaves_the_platform_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_job, "AirflowApi", interrupt)
    assert main_job.retrain(Settings.load(home=tmp_path)) == 130
    assert "Stopped watching. The platform stays up and its runs continue" in capsys.readouterr().out


@pytest.mark.parametrize("result", [None, {"run": "r", "step": "validate", "skip": "no new", "data_sha256": "a" * 64}])
def test_without_a_held_back_day_there_is_no_drop(tmp_path: Path, result: dict[str, Any] | None) -> None:
    api: Any = SimpleNamespace(result=lambda *_: result)
    out = io.StringIO()
    settings = Settings.load(home=tmp_path)
    pipeline = load_pipeline(settings)
    validated = main_job._validated(api, pipeline, "r")
    assert held_back_drop(settings, pipeline, Console(file=out, width=200), validated) is None
    assert out.getvalue().startswith("No drop: the raw data holds one day only")
