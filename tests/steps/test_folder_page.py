"""The page about folders: its commands and sections, run in row on a real home."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.contract.model import Contract
from apex_ml.contract.options import PipelineOptions
from apex_ml.settings import CODE_ROOT
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.list_drops import list_drops
from tests.support.apex_home import Apex
from tests.support.ledger import places, run

PAGE = (CODE_ROOT / "docs" / "how-to" / "folders.md").read_text(encoding="utf-8")
DELIVER, IDENTITY = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
MANIFEST, KEPT = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
NAME = "sales-2026-01-01"
(QUERY,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def spark(scoring: Apex, raw: Path, contract: Contract) -> Path:
    """`out/sales` in the home, with one row that breaks the contract in its last file."""
    folder = scoring.settings.home / "out" / "sales"
    folder.mkdir(parents=True)
    scoring.inbox.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        path = folder / f"part-{number:05}.parquet"
        make_drop(str(raw), date(2024, 8, 24), 50, number, path, contract)
    table = pq.read_table(path)
    clients = ["nobody", *table[contract.entity].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index(contract.entity), contract.entity, [clients]), path)
    (folder / "_SUCCESS").touch()
    return folder


def shell(script: str, home: Path) -> str:
    return subprocess.run(["bash", "-e", "-c", script], cwd=home, check=True, capture_output=True, text=True).stdout


def test_the_folder_is_delivered_scored_and_known_by_its_files(scoring: Apex, spark: Path) -> None:
    shell(DELIVER, scoring.settings.home)
    assert run(scoring, NAME)["rows_scored"] == 149
    assert places(scoring) == {"inbox": [], "done": [NAME], "quarantine": []}
    shown = shell(IDENTITY, scoring.settings.home).split()[0]
    assert scoring.sql("SELECT sha256 FROM orders.drops") == [(shown,)]
    ((_, part, row, column, value, _),) = scoring.sql(QUERY)
    assert (part, row, column, value) == ("part-00002.parquet", 0, scoring.pipeline.contract.entity, "nobody")


def test_the_manifest_of_the_page_lists_the_data(scoring: Apex, spark: Path) -> None:
    section = PipelineOptions.model_validate(MANIFEST).scoring
    apex = scoring.but(scoring__folder_complete=section.folder_complete or "", scoring__folder_file=section.folder_file)
    shell(DELIVER, scoring.settings.home)
    assert list_drops(apex.context("list")).folders == (NAME,)
    listed = ["part-00000.parquet", "part-00001.parquet"]
    (scoring.inbox / NAME / section.folder_file).write_text(json.dumps(listed))
    assert run(apex, NAME)["rows_scored"] == 100


def test_the_section_about_kept_folders_can_be_read() -> None:
    scoring = PipelineOptions.model_validate(KEPT).scoring
    assert scoring.folder_rule(kept=True).complete == "marker"
