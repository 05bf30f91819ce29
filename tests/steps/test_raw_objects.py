"""Raw files in an object store: validated as those of a folder, and downloaded once."""

from __future__ import annotations

import os
import uuid
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.cli.main import main
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.former_copies import find_former_copies, remove_former_copies
from apex_ml.services.raw_location import local_raw
from apex_ml.services.raw_rows import raw_as_parquet
from apex_ml.services.results import ValidateResult
from apex_ml.serving.loadtest_rows import rows_of
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex
from tests.support.csv_tables import write_csv
from tests.support.object_servers import ObjectServer
from tests.support.stranger_tables import visits, write_table

AS_OF = date(2024, 8, 24)


@pytest.fixture
def there(moto: ObjectServer, databases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apex:
    """A home whose raw files are below a new prefix."""
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{moto.bucket}/{uuid.uuid4().hex}"
    return Apex(Settings.load(home=tmp_path / "there", raw_url=url, **databases.migrated()))


def upload(apex: Apex, raw: Path) -> None:

    storage = open_objects(apex.pipeline.locations, apex.pipeline.locations.raw)
    for path in raw.rglob("*.parquet"):
        storage.put(path.relative_to(raw).as_posix(), path.read_bytes())


def check(apex: Apex, run: str = "night") -> ValidateResult:
    return validate(apex.context(run), raw=None, as_of=AS_OF, force=True)


def test_the_result_is_that_of_the_same_files_in_a_folder(
    there: Apex, raw: Path, databases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(there, raw)
    here = Apex(Settings.load(home=tmp_path / "here", raw_url=str(raw), **databases.migrated()))
    remote, local = check(there), check(here)
    assert (remote.data_sha256, remote.rows, remote.quarantined) == (local.data_sha256, local.rows, local.quarantined)
    keys: list[str] = []
    read = ObjectStorage.read

    def noted(self: ObjectStorage, key: str) -> Any:
        keys.append(key)
        return read(self, key)

    monkeypatch.setattr(ObjectStorage, "read", noted)
    assert check(there, "next").data_sha256 == local.data_sha256
    assert keys == []


def test_an_empty_prefix_is_named(there: Apex) -> None:
    with pytest.raises(DataError, match=r"locations\.raw=s3://\S+: there are no objects below it; put parquet files"):
        check(there)


def test_a_bad_file_is_named_by_its_key(there: Apex, raw: Path) -> None:
    upload(there, raw)

    open_objects(there.pipeline.locations, there.pipeline.locations.raw).put("month=1/bad.parquet", b"no parquet")
    with pytest.raises(DataError, match=r"month=1/bad\.parquet: not a parquet file"):
        check(there)


def test_init_writes_a_pipeline_for_a_table_in_the_store(
    moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in moto.environment.items() | {"APEX_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
    url = f"s3://{moto.bucket}/{uuid.uuid4().hex}"
    write_table(tmp_path / "visits.parquet", visits(2000))
    open_objects(Locations(url, url, url), url).put("part 1.parquet", (tmp_path / "visits.parquet").read_bytes())
    for given, code in ((url, 0), (f"{url}-none", DataError.exit_code)):
        with pytest.raises(SystemExit) as left:
            main(["init", f"visits{code}", "--from", given, "--target", "show", "--yes"])
        assert left.value.code == code
    shown = capsys.readouterr()
    assert "2,000 accepted" in shown.out and "there are no objects below it" in shown.err
    assert yaml.safe_load((tmp_path / "pipelines" / "visits0" / "pipeline.yaml").read_text())["locations"]["raw"] == url
    assert not (tmp_path / "pipelines" / f"visits{DataError.exit_code}").exists()
    out = str(tmp_path / "page.html")
    for command, code in (
        (["profile", url, "--target", "show", "--out", out], 0),
        (["check", "visits0", "--data", url], 0),
        (["check", "visits0", "--data", f"{url}-none"], DataError.exit_code),
        (["profile", f"{url}-none"], DataError.exit_code),
    ):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == code, command
    shown = capsys.readouterr()
    assert "2,000 rows" in shown.out and shown.err.count("there are no objects below it") == 2
    assert (tmp_path / "page.html").is_file()


def test_prune_removes_copies_of_locations_that_no_pipeline_names(there: Apex, raw: Path) -> None:
    upload(there, raw)
    own = local_raw(there.settings, there.pipeline)
    root = own.parents[2]
    former = [root / place for place in ("orders/raw/old-1", "gone/raw/x-1", "apex/raw/y-1", "orders/drops/z-1")]
    for folder in (*former, root / "broken" / "raw" / "z-1"):
        folder.mkdir(parents=True)
        (folder / "a.parquet").write_bytes(b"123")
        folder.with_name(f"{folder.name}.json").write_text("{}")

    def find() -> list[Path]:
        return [one.folder for one in find_former_copies(there.settings, [there.pipeline], {"broken"})]

    assert find() == []  # a command may still read them
    for path in root.rglob("*"):
        os.utime(path, (0, 0))
    assert find() == sorted(former)
    copies = find_former_copies(there.settings, [there.pipeline], {"broken"})
    assert [one.bytes for one in copies] == [3] * 4
    remove_former_copies(copies)
    assert find() == [] and not any(folder.exists() for folder in former)
    assert list(own.rglob("*.parquet")) and not (root / "orders" / "raw" / "old-1.json").exists()


def test_rows_are_drawn_from_raw_files_in_a_store_and_from_csv(
    there: Apex, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the load test and the invented drops do."""
    upload(there, raw)
    with raw_as_parquet(there.settings, there.pipeline) as folder:
        assert folder == local_raw(there.settings, there.pipeline)
        assert make_drop(str(folder), AS_OF, 50, 1, tmp_path / "a.parquet", there.pipeline.contract).rows == 50
    monkeypatch.setenv("APEX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
    write_csv(tmp_path / "csv" / "a.csv", visits(2000), bad_lines=["V1;P1"])
    given = ["--target", "show", "--entity", "patient", "--timestamp", "day", "--yes"]
    with pytest.raises(SystemExit) as left:
        main(["init", "of_csv", "--from", str(tmp_path / "csv"), *given])
    assert left.value.code == 0
    settings = Settings.load(pipeline="of_csv")
    pipeline = load_pipeline(settings)
    with raw_as_parquet(settings, pipeline) as folder:
        make_drop(str(folder), date(2024, 7, 20), 50, 1, tmp_path / "b.parquet", pipeline.contract)
    assert not folder.exists()
    rows = rows_of(pipeline.contract, pq.read_table(tmp_path / "b.parquet"), "b.parquet").rows
    assert len(rows) == 50 and {row["day"][:10] for row in rows} == {"2024-07-20"}
    assert all(isinstance(row["distance"], float) for row in rows)
