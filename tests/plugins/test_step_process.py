"""A step as a local process: its lines, its result, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from apex_airflow.runtimes.process import LocalRunner, Outcome, StepCommand, find_result

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds: float = 10.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)


def run(tmp_path: Path, body: str, *args: str, **env: str) -> tuple[Outcome, list[str]]:
    """Run a script as if it were a step; return its outcome and its lines."""
    script = tmp_path / "step.py"
    script.write_text(body)
    lines: list[str] = []
    outcome = LocalRunner((sys.executable, str(script))).run(StepCommand(args, env), lines.append)
    return outcome, lines


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ('APEX_RESULT {"rows": 3}', {"rows": 3}),
        ('INFO progress 50%| APEX_RESULT {"rows": {"in": 3}} done', {"rows": {"in": 3}}),
        ('APEX_RESULT {"loss": NaN}', {"loss": None}),
        ("APEX_RESULT [1, 2]", None),
        ("APEX_RESULT {broken", None),
        ("rows=3", None),
        ("", None),
    ],
)
def test_find_result(line: str, result: dict | None) -> None:
    assert find_result(line) == result


def test_the_last_result_among_noise_wins(tmp_path: Path) -> None:
    outcome, lines = run(
        tmp_path,
        "import sys\n"
        "print('APEX_RESULT {\"rows\": 1}')\n"
        "print('on stderr', file=sys.stderr)\n"
        "sys.stdout.buffer.write(b'bytes \\xff\\n 10%\\r 100%\\n')\n"
        "sys.stdout.write('no newline before APEX_RESULT {\"rows\": 2}\\n')\n"
        "print('after it', end='')\n",
    )
    assert outcome.exit_code == 0 and outcome.result == {"rows": 2} and not outcome.stopped
    assert lines[1:4] == ["on stderr", "bytes \ufffd", " 100%"] and lines[-1] == "after it"


def test_arguments_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("APEX_AIRFLOW_PORT", "8081")
    body = (
        "import json, os, sys\n"
        "print('APEX_RESULT', json.dumps({'args': sys.argv[1:], 'env': sorted(os.environ),"
        " 'home': os.environ['APEX_HOME']}))\n"
    )
    outcome, _ = run(tmp_path, body, "validate", "--raw=/a b; $(rm)", APEX_HOME="/home/of/apex")
    assert outcome.result is not None
    assert outcome.result["args"] == ["validate", "--raw=/a b; $(rm)"]
    assert outcome.result["home"] == "/home/of/apex"
    assert "APEX_AIRFLOW_PORT" in outcome.result["env"]
    assert not [name for name in outcome.result["env"] if name.startswith("AIRFLOW")]


def test_lines_come_while_the_step_runs(tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    go = tmp_path / "go"
    script.write_text(
        "import pathlib, sys, time\nprint('first')\n"
        "while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nprint('second')\n"
    )
    # The step waits for the file that only its first line creates: it ends only if that line arrives immediately.
    LocalRunner((sys.executable, str(script))).run(StepCommand((str(go),)), lambda line: go.touch())
    assert go.exists()


def test_two_hundred_names_of_drops_fit(tmp_path: Path) -> None:
    drops = "--drops=" + "x" * 128_000
    outcome, _ = run(tmp_path, "import sys\nprint('APEX_RESULT {\"n\": %d}' % len(sys.argv[1]))\n", drops)
    assert outcome.result == {"n": len(drops)}


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (
            ("noise", "apex: DataError: a.parquet: cut short", "  row 3", ""),
            "apex: DataError: a.parquet: cut short\n  row 3",
        ),
        (("apex: TransientError: one", "apex: DataError: two"), "apex: DataError: two"),
        (("Traceback", "ValueError: x"), "ValueError: x"),
        ((), "no output"),
    ],
)
def test_the_message_of_a_failed_step(tail: tuple[str, ...], message: str) -> None:
    assert Outcome(1, None, tail).message == message


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);'
                          ' print("child", flush=True); time.sleep(300)'])
print('pids', os.getpid(), child.pid)
time.sleep(300)
"""


def test_kill_ends_the_group_even_if_it_ignores_sigterm(tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    script.write_text(STUBBORN)
    runner = LocalRunner((sys.executable, str(script)))
    lines: list[str] = []

    def kill_when_ready() -> None:
        wait_for(lambda: len(lines) == 2)
        runner.kill()

    killer = threading.Thread(target=kill_when_ready)
    killer.start()
    began = time.monotonic()
    outcome = runner.run(StepCommand(()), lines.append)
    killer.join()
    pids = [int(word) for line in lines if line.startswith("pids") for word in line.split()[1:]]
    assert outcome.stopped and outcome.exit_code == -signal.SIGKILL
    assert time.monotonic() - began < 4.5  # Airflow's own SIGKILL comes 5 s after its SIGTERM
    wait_for(lambda: not any(map(alive, pids)))


def test_a_process_left_behind_ends_with_the_step(tmp_path: Path) -> None:
    began = time.monotonic()
    outcome, lines = run(
        tmp_path,
        "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "print('APEX_RESULT {\"pid\": %d}' % child.pid)\n",
    )
    assert outcome.exit_code == 0 and not outcome.stopped and outcome.result is not None
    assert time.monotonic() - began < 4
    wait_for(lambda: not alive(outcome.result["pid"]))


HARNESS = """
import signal, sys
sys.path.append(sys.argv[1])
from apex_airflow.runtimes.process import LocalRunner, StepCommand
runner = LocalRunner((sys.executable, sys.argv[2]))
signal.signal(signal.SIGTERM, lambda *args: runner.kill())
outcome = runner.run(StepCommand(()), lambda line: print(line, flush=True))
print('outcome', outcome.exit_code, outcome.stopped, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child at its parent's death")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_orphan_when_the_task_itself_is_killed(tmp_path: Path, number: int) -> None:
    step, harness = tmp_path / "step.py", tmp_path / "harness.py"
    step.write_text("import os, time\nprint(os.getpid())\ntime.sleep(300)\n")
    harness.write_text(HARNESS)
    task = subprocess.Popen([sys.executable, str(harness), str(PLUGINS), str(step)], stdout=subprocess.PIPE, text=True)
    assert task.stdout is not None
    pid = int(task.stdout.readline())
    assert alive(pid)
    os.kill(task.pid, number)
    rest = task.communicate(timeout=10)[0]
    wait_for(lambda: not alive(pid))
    assert rest == ("outcome -15 True\n" if number == signal.SIGTERM else "")
