"""The command `apex` in this process, in a folder where nothing of Apex is."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_ml.cli.main import main


def enter_bare_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder without a home, a platform or a pipeline, at a terminal of 160 characters."""
    monkeypatch.setenv("APEX_HOME", str(folder / "home"))
    monkeypatch.setenv("APEX_PIPELINES", str(folder / "pipelines"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(folder)
    return folder


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    """Exit code, output and errors of a command."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out = capsys.readouterr()
    return left.value.code, out.out, out.err
