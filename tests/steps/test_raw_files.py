"""Bad raw files: one clear error, nothing half-written, and the next run heals."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from apex_ml.errors import DataError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings
from apex_ml.simulate.process import load_process
from apex_ml.simulate.quirks.apply import apply_quirk
from apex_ml.steps.elt import elt
from apex_ml.steps.validate import validate
from tests.support.apex_home import COMMAND, Apex
from tests.support.throwaway_home import free_ports


@pytest.fixture
def apex(raw: Path, databases: Any, tmp_path: Path) -> Apex:
    """A home with separate raw files."""
    folder = tmp_path / "raw"
    shutil.copytree(raw, folder)
    return Apex(Settings.load(home=tmp_path / "home", raw_url=str(folder), **databases.migrated()))


def parts(apex: Apex) -> list[Path]:
    return sorted(Path(load_pipeline(apex.settings).locations.raw).glob("*.parquet"))


def check(apex: Apex, run: str = "night", **arguments: Any) -> dict[str, Any]:
    return validate(apex.context(run), **({"raw": None, "as_of": None, "force": False} | arguments)).to_json()


def change(path: Path, name: str, values: Callable[[pa.ChunkedArray], Any]) -> None:
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, values(table[name])), path)


def cut(apex: Apex) -> str:
    path = parts(apex)[1]
    path.write_bytes(path.read_bytes()[:1000])
    return f"{path.name}: a truncated parquet file"


def not_parquet(apex: Apex) -> str:
    (Path(load_pipeline(apex.settings).locations.raw) / "notes.csv").write_text("a,b\n1,2\n")
    return r"notes\.csv: not a parquet file"


def zero_bytes(apex: Apex) -> str:
    (Path(load_pipeline(apex.settings).locations.raw) / "new.parquet").touch()
    return r"new\.parquet: not a parquet file \(0 bytes\)"


def missing_column(apex: Apex) -> str:
    path = parts(apex)[2]
    pq.write_table(pq.read_table(path).drop_columns("tipo_cliente_cd"), path)
    return rf"{path.name}: required columns are missing(?s:.*)tipo_cliente_cd \(string\) → nothing"


def type_that_can_not_be_cast(apex: Apex) -> str:
    change(parts(apex)[0], "cajas_fisicas", lambda c: pa.array([[1.0]] * len(c)))
    return r"5,000 rows: cajas_fisicas: type: list<.*> is not double; deliver numbers(?s:.*)worst file: part-00000"


def no_files(apex: Apex) -> str:
    for path in parts(apex):
        path.unlink()
    return f"locations.raw={load_pipeline(apex.settings).locations.raw}: no data files"


def no_folder(apex: Apex) -> str:
    shutil.rmtree(load_pipeline(apex.settings).locations.raw)
    return f"locations.raw={load_pipeline(apex.settings).locations.raw}: no such folder"


def a_file(apex: Apex) -> str:
    path = parts(apex)[0].rename(Path(load_pipeline(apex.settings).locations.raw).with_name("part.parquet"))
    shutil.rmtree(load_pipeline(apex.settings).locations.raw)
    path.rename(load_pipeline(apex.settings).locations.raw)
    raw = load_pipeline(apex.settings).locations.raw
    return f"locations.raw={raw}: this is a file, no folder; set locations.raw to a folder"


def too_many_bad_rows(apex: Apex) -> str:
    change(parts(apex)[3], "pais_cd", lambda c: pa.array(["XX"] * 500 + c.to_pylist()[500:]))
    return r"500 of 20000 rows \(2\.50%\) would be quarantined, more than the limit of 1\.00%(?s:.*)pais_cd: domain"


def only_empty_files(apex: Apex) -> str:
    for path in parts(apex):
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    return "no acceptable row"


BAD = (
    cut, not_parquet, zero_bytes, missing_column, type_that_can_not_be_cast, no_files, no_folder, a_file,
    too_many_bad_rows, only_empty_files,
)  # fmt: skip


@pytest.mark.parametrize("spoil", BAD, ids=[f.__name__ for f in BAD])
def test_a_bad_file_causes_one_clear_error_and_no_partial_output(apex: Apex, spoil: Callable[[Apex], str]) -> None:
    words = spoil(apex)
    with pytest.raises(DataError, match=words):
        check(apex)
    assert not apex.context("night").output("validate").exists()
    assert apex.leftovers() == []
    with pytest.raises(DataError, match="run: apex validate --force --run night"):
        elt(apex.context("night"))


def test_bad_raw_files_set_the_exit_code_and_the_next_run_recovers(apex: Apex, raw: Path) -> None:
    cut(apex)
    not_parquet(apex)
    done = apex.call("validate", "--run", "night")
    assert done.code == 10 and done.result is None
    assert "DataError: 2 of 5 raw files cannot be used" in done.err and "Traceback" not in done.err
    assert "notes.csv: not a parquet file" in done.err and "a truncated parquet file" in done.err
    (Path(load_pipeline(apex.settings).locations.raw) / "notes.csv").unlink()
    for path in parts(apex):
        shutil.copy(raw / path.name, path)
    result = check(apex)
    assert result["accepted"] == result["rows"] == 20_000
    assert apex.leftovers() == []


def test_evidence_of_too_many_bad_rows_is_kept(apex: Apex) -> None:
    too_many_bad_rows(apex)
    with pytest.raises(DataError):
        check(apex)
    kept = apex.processed / "night" / "validate.failed" / "quarantine"
    assert sum(pq.read_metadata(p).num_rows for p in kept.iterdir()) == 500
    assert apex.sql("SELECT source_kind, rule LIKE 'domain%%', count(*)::int FROM orders.quarantine GROUP BY 1, 2") == [
        ("raw", True, 500)
    ]


def test_few_bad_rows_are_quarantined_and_the_rest_is_used(apex: Apex) -> None:
    first, second = parts(apex)[:2]
    change(first, "pais_cd", lambda c: pa.array(["XX"] * 20 + c.to_pylist()[20:]))
    change(second, "facturacion_usd_val", lambda c: pa.array([-1.0] * 10 + c.to_pylist()[10:]))
    shutil.copy(second, second.with_name("redelivered.parquet"))
    result = check(apex)
    assert (result["rows"], result["accepted"], result["quarantined"]) == (20_000, 19_970, 30)
    assert sorted(result["reasons"].values()) == [10, 20]
    assert result["redelivered"] == ["redelivered.parquet"]
    assert apex.sql("SELECT count(*)::int FROM orders.quarantined_rows") == [(30,)]
    assert elt(apex.context("night")).to_json()["rows"] == 19_970


def test_different_types_between_files_are_unified(apex: Apex) -> None:
    process = load_process()
    files = parts(apex)
    for path, quirk in zip(files, ("int_as_double", "date_strings", "dictionary_strings", "tz_aware"), strict=True):
        apply_quirk(path, quirk, 1.0, 1, process)
    apply_quirk(files[0], "estrellas_suffix", 0.1, 2, process)
    result = check(apex)
    assert result["accepted"] == 20_000
    assert sum(n for rule, n in result["normalised"].items() if rule.startswith("estrellas_txt")) == 500
    created = elt(apex.context("night")).to_json()
    assert (created["rows"], created["repeated"]) == (20_000, 0)


def test_rows_repeated_in_two_files_are_used_once(apex: Apex) -> None:
    table = pq.read_table(parts(apex)[0])
    pq.write_table(table.slice(0, 700), Path(load_pipeline(apex.settings).locations.raw) / "late.parquet")
    assert check(apex)["accepted"] == 20_700
    created = elt(apex.context("night")).to_json()
    assert (created["rows"], created["repeated"]) == (20_700, 700)


def test_part_files_with_the_same_name_are_distinguished_by_their_folders(apex: Apex) -> None:
    folder = Path(load_pipeline(apex.settings).locations.raw)
    for month, path in enumerate(parts(apex), 1):
        (folder / f"month={month}").mkdir()
        path.rename(folder / f"month={month}" / "part-00000.parquet")
    shutil.copytree(folder / "month=2", folder / "again")
    change(folder / "month=3" / "part-00000.parquet", "pais_cd", lambda c: pa.array(["XX"] * 20 + c.to_pylist()[20:]))
    result = check(apex)
    names = ["again/part-00000.parquet", *(f"month={n}/part-00000.parquet" for n in (1, 3, 4))]
    assert sorted(r["name"] for r in result["reports"]) == names and result["redelivered"] == [
        "month=2/part-00000.parquet"
    ]
    assert apex.sql("SELECT DISTINCT source_name FROM orders.quarantine") == [("month=3/part-00000.parquet",)]
    for n in (1, 4):
        path = folder / f"month={n}" / "part-00000.parquet"
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="2 of 4 raw files cannot be used") as raised:
        check(apex, "next")
    assert "one whose name begins with _ is not read" in str(raised.value).splitlines()[0]
    assert [line.split(": a truncated")[0] for line in str(raised.value).splitlines()[1:]] == [names[1], names[3]]


def test_equal_files_in_folders_of_other_keys_are_other_rows(apex: Apex) -> None:
    first, *others = parts(apex)
    table = pq.read_table(first)
    country = table.column("pais_cd")[0].as_py()
    kept = table.filter(pc.equal(table.column("pais_cd"), country)).drop_columns(["pais_cd"])
    for path in others:
        path.unlink()
    (first.parent / f"pais_cd={country}").mkdir()
    (first.parent / f"Pais=1/pais_cd={country}").mkdir(parents=True)
    (first.parent / "pais_cd=XX").mkdir()
    first.unlink()
    for folder in (f"pais_cd={country}", f"Pais=1/pais_cd={country}", "pais_cd=XX"):
        pq.write_table(kept, first.parent / folder / "part-0.parquet")
    with pytest.raises(DataError) as error:  # there is no such country, and its rows are not those of the other folder
        check(apex)
    text = str(error.value)
    assert f"{kept.num_rows} of {2 * kept.num_rows} rows (50.00%) would be quarantined" in text
    assert "worst file: pais_cd=XX/part-0.parquet" in text
    (first.parent / "pais_cd=XX" / "part-0.parquet").unlink()
    result = check(apex, "second")
    assert (result["rows"], result["quarantined"]) == (kept.num_rows, 0)
    assert result["redelivered"] == [f"pais_cd={country}/part-0.parquet"]


def test_ignored_files_are_in_the_result_and_in_the_log(
    apex: Apex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, nas = Path(load_pipeline(apex.settings).locations.raw), tmp_path / "nas"
    nas.mkdir()
    first, second, third, last = parts(apex)
    last.rename(nas / "part-00000.parquet")
    (folder / "2024-07").symlink_to(nas)
    for tid, path in enumerate((first, second, third), 1):
        path.rename(folder / f"part-00000-tid-{tid}-c000.parquet")
        (folder / f"_started_{tid}").touch()
    names = [f"part-00000-tid-{tid}-c000.parquet" for tid in (1, 2, 3)]
    (folder / "_committed_1").write_text(json.dumps({"added": [names[0]], "removed": []}))
    (folder / "_committed_2").write_text(json.dumps({"added": [names[1]], "removed": [names[0]]}))
    with caplog.at_level("INFO"):
        result = check(apex)
    assert (result["files"], result["rows"]) == (2, 10_000)
    assert sorted(r["name"] for r in result["reports"]) == ["2024-07/part-00000.parquet", names[1]]
    left_out = {names[0]: "_committed_2 lists it as removed", names[2]: "_started_3 was never committed"}
    assert result["left_out"] == left_out and result["links"] == {"2024-07": str(nas)}
    for name, reason in left_out.items():
        assert f"file_left_out file={name} reason={reason}" in caplog.text
    assert f"link_followed name=2024-07 to={nas}" in caplog.text


def test_orders_after_the_point_in_time_are_quarantined(apex: Apex) -> None:
    day = date(2024, 8, 20)
    result = check(apex, as_of=day)
    assert result["as_of"] == "2024-08-20" and result["newest"] < "2024-08-20"
    assert any("not_after_as_of" in reason for reason in result["reasons"])


def test_a_stopped_postgres_is_reported_and_the_next_run_recovers(apex: Apex) -> None:
    (port,) = free_ports(1)
    url = f"postgresql://apex_writer:x@127.0.0.1:{port}/apex"
    done = apex.call("validate", "--run", "night", APEX_DATABASE_URL=url)
    assert done.code == 20
    assert f"TransientError: Postgres at 127.0.0.1:{port}/apex (APEX_DATABASE_URL" in done.err
    assert apex.leftovers() == [] and not apex.context("night").output("validate").exists()
    assert check(apex)["accepted"] == 20_000


def test_changed_raw_files_start_new_work_and_the_old_result_is_kept(apex: Apex) -> None:
    first = check(apex)
    parts(apex)[3].unlink()
    second = check(apex)
    assert (first["rows"], second["rows"]) == (20_000, 15_000)
    assert sorted(p.name for p in (apex.processed / "night").iterdir()) == ["validate", "validate.replaced-1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB that fills up; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here; it takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_reported_and_the_next_run_recovers(apex: Apex, small_disk: Path) -> None:
    full = apex.but(processed_url=str(small_disk / "processed"))
    (small_disk / "ballast").write_bytes(b"x" * (1_950 * 1024))
    with pytest.raises(TransientError, match="disk is full; free space"):
        check(full)
    assert full.leftovers() == []
    assert not list((small_disk / "processed").rglob("manifest.json"))
    (small_disk / "ballast").unlink()
    assert check(full)["rows"] > 0
    (small_disk / "ballast").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 40_000))
    with pytest.raises(TransientError, match="disk is full; free space"):
        elt(full.context("night"))
    assert full.leftovers() == []
    (small_disk / "ballast").unlink()
    assert elt(full.context("night")).to_json()["examples"] > 0


def test_a_killed_step_leaves_no_result_and_the_next_run_recovers(apex: Apex) -> None:
    process = subprocess.Popen(
        [*COMMAND, "validate", "--run", "night"],
        env=apex.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(apex.processed.rglob("part-00000.parquet")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (apex.processed / "night" / "validate").exists()
    assert list((apex.processed / "night").glob(".validate.*.partial"))
    assert check(apex)["rows"] > 0
    assert apex.leftovers() == []
