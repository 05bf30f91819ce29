"""Raw files in an object store: validated as those of a folder, and downloaded once."""

from __future__ import annotations

import uuid
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.errors import DataError
from apex_ml.services.results import ValidateResult
from apex_ml.settings import Settings
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex
from tests.support.object_servers import ObjectServer

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
