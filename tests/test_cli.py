"""A wrong command line is reported in one message, without a traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from apex_ml.cli.main import COMMANDS, apex, expected_error, main


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """Exit code and everything that is printed."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out = capsys.readouterr()
    return left.value.code, out.out + out.err


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a platform: nothing listens on its ports."""
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_an_unknown_option(capsys: pytest.CaptureFixture[str], nowhere: Path, command: str) -> None:
    code, message = called(capsys, command, "--help")
    assert code == 0 and message.startswith(f"Usage: apex {command}")
    if command != "sql":  # what apex does not know goes to psql
        code, message = called(capsys, command, "--no-such-option")
        assert code == 2 and "No such option '--no-such-option'" in message


WRONG = [
    # arguments, exit code, words
    (("nosuch",), 2, "No such command 'nosuch'"),
    (("train", "--run", "../x"), 30, "--run '../x': use letters, digits"),
    (("train", "--run", "x", "--trials", "-1"), 2, "not in the range"),
    (("validate", "--run", "x", "--as-of", "2024-13-01"), 2, "does not match the format"),
    (("elt", "--run", "nosuch"), 10, "run: apex validate --force --run nosuch"),
    (("promote", "--force", "7"), 30, "give --reason"),
    (("promote", "--force", "--reason", "x", "seven"), 2, "'seven' is not a valid integer"),
    (("rollback", "--reason", "x", "--to", "0"), 2, "not in the range"),
    (("loadtest", "--rows", "0"), 2, "not in the range"),
    (("loadtest", "--url", "nonsense"), 30, "--url nonsense: give an address"),
    (("restore", "{home}/no.tar"), 30, "there is no such file; `make backup` writes one"),
    (("restore", "{file}"), 30, "is no backup of Apex: file could not be opened successfully:; give a file"),
    (("simulate", "--orders", "0"), 30, "--orders 0: must be 1 or more"),
    (("simulate", "--orders", "9", "--files", "1", "--out", "{file}/raw"), 30, "name a folder; a part of this path is"),
    (("simulate", "--mode", "nosuch"), 30, "mode 'nosuch': unknown"),
    (("simulate", "year", "--home", "{file}"), 30, "{file}: Not a directory: name a folder"),
    (("logs", "../../etc/passwd"), 30, "no log is named"),
    (("logs", "tasks"), 30, "the log of each task is a file below {home}/logs/airflow"),
    (("export", "1", "--out", "{home}/none/x.parquet"), 30, "there is no folder {home}/none; make it"),
    (("settings", "--format", "xml"), 2, "'xml' is not one of"),
    (("unpause", "orders_scor"), 30, "Apex has no DAG orders_scor;"),
    (("unpause", "orders_scor"), 30, "did you mean orders_score?"),
    (("contract", "nosuch"), 2, "No such command 'nosuch'"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_a_wrong_argument_is_reported_with_a_remedy(
    capsys: pytest.CaptureFixture[str], nowhere: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    file = nowhere / "file"
    file.write_text("x")
    places = {"home": str(nowhere), "file": str(file)}
    result, message = called(capsys, *(argument.format(**places) for argument in arguments))
    assert result == code and words.format(**places) in message, message
    assert "Traceback" not in message


def test_the_list_of_logs_names_only_what_can_be_shown(capsys: pytest.CaptureFixture[str], nowhere: Path) -> None:
    from apex_ml.platform.embedded.log_files import log_files
    from apex_ml.settings import Settings

    *lines, tasks = called(capsys, "logs")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(log_files(Settings.load()))
    assert tasks == f"The log of each task is a file below {nowhere}/logs/airflow."


def test_a_refused_export_makes_no_folder(capsys: pytest.CaptureFixture[str], nowhere: Path) -> None:
    assert called(capsys, "export", "1", "--out", str(nowhere / "none" / "x.parquet"))[0] == 30
    assert not (nowhere / "none").exists()


@pytest.fixture
def fake_psql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A psql that lists its arguments in a file and runs what its last one says."""
    from apex_ml.platform.embedded import psql

    monkeypatch.setenv("APEX_READER_DATABASE_URL", "postgresql://reader:secret@127.0.0.1:1/apex")
    monkeypatch.setattr(psql, "wheel_binaries", lambda: tmp_path)
    program, listed = tmp_path / "psql", tmp_path / "arguments"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {listed}\nfor last; do :; done\neval "$last"\n')
    program.chmod(0o755)
    return listed


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-c", "A", "-c", "exit 0"], 0),
        (["-c", "A", "-f", "file.sql", "--command=-- h", "-Atc", "exit 0"], 0),
        (["--csv", "-c", "exit 1"], 10),
        (["-c", "exit 2"], 20),
        (["-c", "exit 3"], 10),
        (["-c", "kill -9 $$"], 137),
    ],
)
def test_psql_gets_its_arguments_in_order_and_its_exit_code_becomes_one_of_apex(
    capsys: pytest.CaptureFixture[str],
    nowhere: Path,
    fake_psql: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
) -> None:
    monkeypatch.setattr("apex_ml.platform.embedded.psql.ping_reader", lambda settings: None)
    assert called(capsys, "sql", *arguments)[0] == code
    listed = fake_psql.read_text().splitlines()
    assert listed[:2] == ["-X", "-d"] and listed[3:] == arguments
    assert "secret" not in listed[2]


def test_psql_is_not_started_when_postgres_does_not_answer(
    capsys: pytest.CaptureFixture[str], nowhere: Path, fake_psql: Path
) -> None:
    code, message = called(capsys, "sql", "-c", "exit 0")
    assert code == 20 and message.startswith("apex: TransientError: Postgres at 127.0.0.1:1/apex"), message
    assert "does not answer" in message and message.endswith("start it with: make up\n")
    assert not fake_psql.exists()


def test_a_wrong_setting_does_not_block_down(capsys: pytest.CaptureFixture[str], nowhere: Path) -> None:
    (nowhere / ".env").write_text("APEX_TRAILS=5\nAPEX_RETRAIN_SCHEDULE=never\n")
    assert called(capsys, "status")[0] == 30
    result, message = called(capsys, "down")
    assert result in (0, None) and "did you mean APEX_TRIALS" in message and "The platform was not up." in message, (
        message
    )


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EACCES, 30, "/a/b: Permission denied: give this user the right"),
        (errno.EROFS, 30, "/a/b: Read-only file system: name a folder that can be written"),
        (errno.ENOSPC, 20, "the disk is full; free space"),
    ],
)
def test_a_path_that_the_system_refuses_is_reported(number: int, code: int, words: str) -> None:
    result = expected_error(OSError(number, os.strerror(number), "/a/b"))
    assert result is not None and result.exit_code == code and words in str(result)


def test_a_missing_file_of_apex_is_an_error_with_a_traceback() -> None:
    assert expected_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b")) is None
    assert expected_error(OSError("no number")) is None


def test_every_option_with_choices_has_some() -> None:
    def commands(command: click.Command) -> Iterator[click.Command]:
        yield command
        if isinstance(command, click.Group):
            with click.Context(command) as ctx:
                for name in command.list_commands(ctx):
                    yield from commands(command.get_command(ctx, name) or command)

    kinds = [option.type for command in commands(apex) for option in command.params]
    choices = [kind.choices for kind in kinds if isinstance(kind, click.Choice)]
    assert choices and all(choices)


def test_the_pipeline_can_be_named_before_and_after_the_command(
    capsys: pytest.CaptureFixture[str], nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APEX_PIPELINE", "")  # which the command replaces; afterwards it is as before
    for arguments in (["-p", "nowhere", "champion"], ["champion", "-p", "nowhere"], ["champion", "--pipeline=nowhere"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 30 and "no pipeline nowhere in" in capsys.readouterr().err
    for arguments, words in (
        (["-p", "orders", "champion", "-p", "flights"], "-p orders and -p flights: name one pipeline"),
        (["champion", "-p", ""], "-p: the name of the pipeline is empty"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 30 and words in capsys.readouterr().err
