"""Keys in the names of folders, as Spark and Hive write them, are columns of the raw files below."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.adapters.duckdb.engine import connect_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.duckdb.table_profile import profile_table
from apex_ml.adapters.storage.raw_folder import raw_files
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.errors import DataError
from apex_ml.services.data_check import check_data
from apex_ml.settings import Settings


def contract_of(folder: Path, **more: Any) -> Contract:
    """A shop whose country, month and day may be in the names of folders."""

    def column(kind: str, role: str = "attribute", **keys: Any) -> dict[str, Any]:
        return {"description": "A thing.", "type": kind, "role": role, **keys}

    content = {
        "name": "shop", "version": 1, "description": "Orders of a shop.",
        "columns": {
            "client": column("string", "entity"),
            "day": column("date", "timestamp"),
            "country": column("string", nullable=True, domain={"levels": ["CL", "PE"], "closed": True}),
            "month": column("int64", required=False, nullable=True, checks=[{"rule": "range", "min": 1, "max": 12}]),
            "kind": column("string", "target", domain={"levels": ["A", "B"], "closed": True}),
        },
        "quarantine": {"limit": 0.9}, "batch": {"recent": 3}, "features": {"grain": "every_row"},
        "split": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}}, "promotion": {"margin": 0.001},
        **more,
    }  # fmt: skip
    (folder / "contract.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_contract(folder / "contract.yaml")


def put(root: Path, name: str, **columns: Any) -> Path:
    """A file below a folder, of two rows, with the columns that are not in its path."""
    plain = {"client": ["c1", "c2"], "day": [date(2024, 3, 5)] * 2, "kind": ["A", "B"]} | columns
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: values for name, values in plain.items() if values is not None}), root / name)
    return root / name


def check(folder: Path, root: Path, name: str, contract: Contract) -> tuple[FileReport, list[Any], list[Any]]:
    out = {"accepted": folder / "accepted.parquet", "quarantined": folder / "quarantined.parquet"}
    out["quarantined"].unlink(missing_ok=True)
    with connect_strict(Settings.load(home=folder)) as con:
        report = check_file(con, root / name, contract, "train", as_of=None, **out, with_row_nr=True, name=name)
    bad = pq.read_table(out["quarantined"]).to_pylist() if out["quarantined"].exists() else []
    return report, pq.read_table(out["accepted"]).to_pylist(), bad


def test_keys_are_columns_with_type_and_checks(tmp_path: Path) -> None:
    contract, name = contract_of(tmp_path), "country=PE/month=07/day=2024-07-09/other=x/part-0.parquet"
    put(tmp_path / "raw", name, day=None)
    report, accepted, bad = check(tmp_path, tmp_path / "raw", name, contract)
    row = {"day": date(2024, 7, 9), "country": "PE", "month": 7}
    assert accepted == [
        {"row_nr": 0, "client": "c1", **row, "kind": "A"},
        {"row_nr": 1, "client": "c2", **row, "kind": "B"},
    ]
    assert (bad, report.name, report.added, report.cast) == ([], name, (), ())


def test_a_value_that_the_contract_refuses_quarantines_the_rows(tmp_path: Path) -> None:
    name = "country=AR/month=13/part-0.parquet"
    put(tmp_path, name)
    _, accepted, bad = check(tmp_path, tmp_path, name, contract_of(tmp_path))
    assert not accepted and len(bad) == 2
    assert [(r["column"], r["value"]) for r in json.loads(bad[0]["reasons"])] == [("country", "AR"), ("month", "13")]
    assert json.loads(bad[0]["row"])["country"] == "AR"


def test_null_and_escaped_values(tmp_path: Path) -> None:
    levels = {"levels": ["CL", "Perú/Sur"], "closed": True}
    contract = contract_of(tmp_path)
    country = contract.columns["country"]
    domain = country.domain.model_copy(update={"levels": tuple(levels["levels"])}) if country.domain else None
    columns = {**contract.columns, "country": country.model_copy(update={"domain": domain})}
    contract = contract.model_copy(update={"columns": columns})
    for folder, value in (("country=__HIVE_DEFAULT_PARTITION__", None), ("country=Per%C3%BA%2FSur", "Perú/Sur")):
        put(tmp_path, f"{folder}/a.parquet")
        _, accepted, _ = check(tmp_path, tmp_path, f"{folder}/a.parquet", contract)
        assert [row["country"] for row in accepted] == [value, value]


@pytest.mark.parametrize(
    ("folder", "columns"),
    [
        ("country=PE", {"country": ["PE", "PE"]}),
        ("month=07/country=PE", {"month": [7, 7]}),
        ("day=2024-03-05/country=PE", {"day": [datetime(2024, 3, 5)] * 2}),
    ],
)
def test_a_column_of_the_file_that_agrees_is_used(tmp_path: Path, folder: str, columns: dict[str, Any]) -> None:
    put(tmp_path, f"{folder}/a.parquet", **columns)
    report, accepted, _ = check(tmp_path, tmp_path, f"{folder}/a.parquet", contract_of(tmp_path))
    assert [row["country"] for row in accepted] == ["PE", "PE"] and report.quarantined == 0


def test_a_column_of_the_file_that_disagrees_is_refused(tmp_path: Path) -> None:
    contract = contract_of(tmp_path)
    put(tmp_path, "country=PE/a.parquet", country=["PE", "CL"])
    message = "country=PE/a.parquet: 1 row of the column country .*as 'CL' where the folder says 'PE'; correct the file"
    with pytest.raises(DataError, match=message):
        check(tmp_path, tmp_path, "country=PE/a.parquet", contract)
    put(tmp_path, "country=CL/month=7/a.parquet", month=[None, None])
    with pytest.raises(DataError, match="2 rows of the column month .*as null where the folder says '7'"):
        check(tmp_path, tmp_path, "country=CL/month=7/a.parquet", contract)


def test_names_of_folders_are_compared_as_those_of_columns(tmp_path: Path) -> None:
    put(tmp_path, "Country=PE/a.parquet")
    with pytest.raises(DataError, match=r"country \(string\) → Country \(rename it\)"):
        check(tmp_path, tmp_path, "Country=PE/a.parquet", contract_of(tmp_path))
    _, accepted, _ = check(tmp_path, tmp_path, "Country=PE/a.parquet", contract_of(tmp_path, match="insensitive"))
    assert [row["country"] for row in accepted] == ["PE", "PE"]
    put(tmp_path, "Country=PE/b.parquet", country=["CL", "CL"])  # the file has the column by its own name
    _, accepted, _ = check(tmp_path, tmp_path, "Country=PE/b.parquet", contract_of(tmp_path))
    assert [row["country"] for row in accepted] == ["CL", "CL"]
    with pytest.raises(DataError, match="two folders of its path name country; keep one"):
        check(tmp_path, tmp_path, "country=PE/country=CL/a.parquet", contract_of(tmp_path))


def test_keys_of_csv_files_and_of_files_that_duckdb_cannot_decode(tmp_path: Path) -> None:
    (tmp_path / "country=PE").mkdir()
    (tmp_path / "country=PE" / "a.csv").write_text("client,kind\nc1,A\nc2\nc3,B\n")
    contract = contract_of(tmp_path, files={"format": "csv"})
    (tmp_path / "day=2024-07-09").mkdir()
    name = "day=2024-07-09/country=PE/a.csv"
    (tmp_path / name).parent.mkdir()
    (tmp_path / "country=PE" / "a.csv").rename(tmp_path / name)
    report, accepted, bad = check(tmp_path, tmp_path, name, contract)
    assert [(row["row_nr"], row["country"], row["day"]) for row in accepted] == [
        (2, "PE", date(2024, 7, 9)),
        (4, "PE", date(2024, 7, 9)),
    ]
    assert [row["row_nr"] for row in bad] == [3] and report.quarantined == 1
    put(tmp_path, "country=PE/b.parquet", client=pa.array([b"c1", b"\xff"]).cast(pa.binary()))
    _, accepted, bad = check(tmp_path, tmp_path, "country=PE/b.parquet", contract)
    assert [row["country"] for row in accepted] == ["PE"] and json.loads(bad[0]["row"])["country"] == "PE"
    bad_text = pa.array([b"c1", b"\xff"]).view(pa.string())  # text that is not UTF-8
    put(tmp_path, "country=PE/c.parquet", client=bad_text)
    _, accepted, bad = check(tmp_path, tmp_path, "country=PE/c.parquet", contract)
    assert [row["country"] for row in accepted] == ["PE"] and json.loads(bad[0]["row"])["country"] == "PE"


def test_a_tree_is_profiled_and_checked(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for country in ("PE", "CL"):
        for month in (7, 8):
            put(tree, f"country={country}/month={month}/part-0.parquet")
    (tree / "_SUCCESS").touch()
    put(tree / "_temporary" / "0", "country=AR/part-0.parquet")
    put(tree, "country=PE/month=7/part-1.parquet.inprogress")
    put(tree, "country=PE/month=7/.part-0.parquet.crc")
    files = raw_files(tree, "locations.raw")
    assert [files.name(path) for path in files.files] == [
        f"country={country}/month={month}/part-0.parquet" for country in ("CL", "PE") for month in (7, 8)
    ]
    profile = profile_table(Settings.load(home=tmp_path), tree, "kind")
    columns = {column.name: column for column in profile.columns}
    assert (columns["country"].kind, columns["month"].kind) == ("text", "integer")
    assert [(level.value, level.rows) for level in columns["country"].levels] == [("CL", 4), ("PE", 4)]
    assert profile.source.folders == ("country", "month") and not profile.source.partial
    checked = check_data(Settings.load(home=tmp_path), contract_of(tmp_path), tree, "train")
    assert (checked.rows, checked.quarantined, checked.refused) == (8, 0, {})
    one = check_data(
        Settings.load(home=tmp_path), contract_of(tmp_path), tree / "country=PE/month=7/part-0.parquet", "train"
    )
    assert (one.rows, one.quarantined, one.refused) == (2, 0, {})
