"""A table of CSV files: its pipeline is written, trained, promoted, and scores drops of CSV and parquet."""

from __future__ import annotations

import gzip
import uuid
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from apex_ml.cli.main import main
from apex_ml.errors import DataError
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex, single_pipeline_home
from tests.support.csv_tables import write_csv
from tests.support.object_servers import ObjectServer
from tests.support.stranger_tables import visits, write_table

NAME = "csv_visits"
ROWS = 3000


@pytest.fixture
def home(tmp_path: Path, lasting_databases: Any, mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Apex:
    """A home whose only pipeline was written by `apex init` from CSV files."""
    table = visits(ROWS)
    first, rest = ({name: values[part] for name, values in table.items()} for part in (slice(2000), slice(2000, None)))
    write_csv(tmp_path / "raw" / "a.csv", first, bad_lines=["V1;P1", 'V2;"P2;01/01/2024'])
    (tmp_path / "raw" / "b.csv.gz").write_bytes(gzip.compress(write_csv(tmp_path / "b.csv", rest).read_bytes()))
    with monkeypatch.context() as patch:
        patch.setenv("APEX_HOME", str(tmp_path / "home"))
        patch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
        with pytest.raises(SystemExit) as left:
            main(["init", NAME, "--from", str(tmp_path / "raw"), "--target", "show", "--yes"])
        assert left.value.code == 0
    return single_pipeline_home(tmp_path, NAME, mlflow_server, lasting_databases.migrated())


def _drop(rows: int, seed: int) -> dict[str, Any]:
    drop = {name: values for name, values in visits(rows, seed=seed).items() if name not in ("show", "minutes")}
    return {**drop, "day": [date(2024, 7, 20)] * rows}


def test_raw_files_and_drops_of_csv(home: Apex, moto: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    context = home.context("first")
    result = validate(context, raw=None, as_of=None, force=False).to_json()
    assert (result["rows"], result["accepted"], result["quarantined"]) == (ROWS + 2, ROWS, 2)
    quarantined = "SELECT source_name, row_nr, row ->> 'line' FROM quarantine ORDER BY source_name, row_nr"
    assert home.sql(quarantined) == [("a.csv", 3, "V1;P1"), ("a.csv", 4, 'V2;"P2;01/01/2024')]
    elt(context)
    split(context, strategy="temporal")
    trained = home.call("train", "--run", "first")
    assert trained.code == 0, trained.err
    assert promote(context, who="test").to_json()["promoted"]

    write_csv(home.inbox / "a.csv", _drop(200, 8), bad_lines=["V9;P9;20/07/2024;old;many"])
    content = gzip.compress(write_csv(home.inbox / "b.csv", _drop(100, 9)).read_bytes())
    (home.inbox / "b.csv").unlink()
    (home.inbox / "b.csv.gz").write_bytes(content)
    write_table(home.inbox / "c.parquet", _drop(50, 10))
    scored = score(home.context("scoring"), ["a.csv", "b.csv.gz", "c.parquet"]).to_json()
    assert [drop["rows_scored"] for drop in scored["drops"]] == [200, 100, 50], scored
    assert {path.name for path in (home.inbox.parent / "done").iterdir()} == {"a.csv", "b.csv.gz", "c.parquet"}
    numbers = home.sql("SELECT min(row_nr), max(row_nr), count(*) FROM scored_current GROUP BY run_id ORDER BY run_id")
    assert numbers == [(2, 202, 200), (2, 101, 100), (0, 49, 50)]
    assert home.sql("SELECT row_nr FROM quarantine WHERE source_kind = 'drop'") == [(3,)]

    (home.inbox / "again.csv.gz").write_bytes(content)  # the same bytes are the same drop
    again = score(home.context("again"), ["again.csv.gz"]).to_json()
    assert (again["drops"][0]["state"], again["drops"][0]["scored_as"]) == ("already", "b.csv.gz")

    (home.inbox / "half.csv.gz").write_bytes(content[:500])
    with pytest.raises(DataError, match=r"half\.csv\.gz: a damaged or truncated gzip file; deliver it again"):
        score(home.context("half"), ["half.csv.gz"])
    assert (home.inbox.parent / "quarantine" / "half.csv.gz").read_bytes() == content[:500]

    folder = home.inbox / "day=2024-07-20"
    rows = {name: values for name, values in _drop(90, 3).items() if name != "day"}
    for n in range(3):
        part = {name: values[30 * n : 30 * n + 30] for name, values in rows.items()}
        write_csv(folder / f"part-{n}.csv", part, bad_lines=["V9;P9;old"] if n == 1 else ())
    packed = folder / "part-2.csv"
    (folder / "part-2.csv.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    (folder / "_SUCCESS").touch()
    assert score(home.context("folder"), [folder.name]).rows_scored == 90
    parts = home.sql("SELECT part, part_row, row ->> 'line' FROM quarantine WHERE part IS NOT NULL")
    assert parts == [("day=2024-07-20/part-1.csv", 3, "V9;P9;old")]
    of_folder = "FROM scored WHERE run_id = (SELECT max(run_id) FROM scored)"
    assert home.sql(f"SELECT DISTINCT day {of_folder}") == [(date(2024, 7, 20),)]
    numbers = home.sql(f"SELECT min(row_nr), max(row_nr), count(DISTINCT row_nr) {of_folder}")
    assert numbers == [(2, 96, 90)]  # each file begins behind the last line of the one before

    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    there = home.but(locations__drops=f"s3://{moto.bucket}/{uuid.uuid4().hex}")
    there.deliver("there.csv.gz", gzip.compress(write_csv(home.inbox.parent / "there.csv", _drop(70, 11)).read_bytes()))
    assert score(there.context("there"), ["there.csv.gz"]).rows_scored == 70
