"""The page about CSV and JSON lines: its commands run in row, and show what it says."""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml
from documents import DOCUMENTS

from apex_ml.cli.main import main
from apex_ml.contract.file_format import FileFormat
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.services.data_check import check_data
from apex_ml.settings import Settings

PAGE = next(document for document in DOCUMENTS if document.name == "docs/how-to/csv.md")
HEAD, LINE, OBJECTS, JSON_LINE, _ = PAGE.blocks("text")
FILES, JSON_FILES = PAGE.blocks("yaml")


def _sales(rows: int) -> bytes:
    """The head that the page shows, and more rows like it: who pays depends on the price."""
    draw = random.Random(5)
    lines = HEAD.splitlines()
    for number in range(4, rows):
        day = date(2024, 1, 2) + timedelta(days=number * 180 // rows)
        price = draw.randrange(100, 3000) / 100
        paid = "yes" if draw.random() < (0.9 if price < 15 else 0.3) else "no"
        city = draw.choice(["León", "Cádiz", '"Ávila; centre"'])
        client = f"C{draw.randrange(40):02d}"
        lines.append(f"{number:05d};{day:%d/%m/%Y};{client};{city};{price:.2f};{paid}".replace(".", ","))
    return "\r\n".join(lines).encode("cp1252")


def _tickets(rows: int) -> str:
    """The objects that the page shows, and more like them: which are solved depends on the minutes."""
    draw = random.Random(6)
    lines = OBJECTS.splitlines()
    for number in range(4, rows):
        day = date(2024, 1, 2) + timedelta(days=number * 180 // rows)
        minutes = draw.randrange(1, 400) / 4
        solved = "yes" if draw.random() < (0.9 if minutes < 40 else 0.3) else "no"
        row = {"ticket": f"{number:05d}", "day": str(day), "floor": draw.randrange(9), "minutes": minutes}
        lines.append(json.dumps(row | {"urgent": draw.random() < 0.2, "solved": solved}))
    return "\n".join(lines)


def test_the_commands_do_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
    (tmp_path / "sales.csv").write_bytes(_sales(2000))
    (tmp_path / "tickets.jsonl").write_text(_tickets(2000))
    inbox = tmp_path / "data" / "sales" / "drops" / "inbox"
    inbox.mkdir(parents=True)
    outputs = {}
    for command in (line for block in PAGE.blocks("sh") for line in block.splitlines()):
        words = shlex.split(command)
        if words[0] == "apex":
            with pytest.raises(SystemExit) as left:
                main(words[1:])
            assert left.value.code == 0, command
            outputs[" ".join(words[1:3])] = capsys.readouterr().out
        else:
            subprocess.run(words, check=True)
    assert LINE.strip() in outputs["check sales"] and JSON_LINE.strip() in outputs["check tickets"]
    file = tmp_path / "pipelines" / "sales" / "pipeline.yaml"
    assert yaml.safe_load(file.read_text())["files"] == yaml.safe_load(FILES)["files"]
    assert FILES in file.read_text()
    contract = load_contract(file)
    assert contract.columns["order"].type == "string" and contract.columns["price"].type == "double"
    file = tmp_path / "pipelines" / "tickets" / "pipeline.yaml"
    assert JSON_FILES in file.read_text()
    types = {name: column.type for name, column in load_contract(file).columns.items()}
    assert types | {"solved": "string", "urgent": "boolean", "minutes": "double", "floor": "int64"} == types
    drops = sorted(inbox.iterdir())
    assert [path.name for path in drops] == ["monday.csv", "tuesday.csv.gz"]
    for drop in drops:
        checked = check_data(Settings.load(), contract, drop, "score")
        assert (checked.rows, checked.quarantined) == (1999, 1) and not checked.problems()


def test_every_key_is_in_the_table_with_its_default() -> None:
    part = PAGE.text.partition("## Keys of the section `files`")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(.*?)`? \|", part, re.MULTILINE))
    defaults = {key: field.default for key, field in FileFormat.model_fields.items()}
    nothing = {"": "none", (): "none", ("",): '[""]'}
    assert rows == {key: nothing.get(value, value) for key, value in defaults.items()}
