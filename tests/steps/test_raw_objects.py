"""Raw files in an object store: validated as those of a folder, and downloaded once."""

from __future__ import annotations

import uuid
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.cli.main import main
from apex_ml.contract.pipeline import Locations
from apex_ml.errors import DataError
from apex_ml.services.results import ValidateResult
from apex_ml.settings import Settings
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex
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
