"""CSV and JSON lines go through the same checks as a parquet file of the same rows, and no line of them vanishes."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from apex_ml.adapters.duckdb.engine import connect_strict
from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.adapters.duckdb.joined_parts import join_parts
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.storage.folder_drops import parts_in
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import Use
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.contract.scoring_options import FolderRule
from apex_ml.errors import ConfigError, DataError
from apex_ml.settings import Settings


def contract_of(folder: Path, **files: Any) -> Contract:
    """A shop with a column of each type that CSV can hold."""

    def column(kind: str, role: str = "attribute", **more: Any) -> dict[str, Any]:
        return {"description": "A thing.", "type": kind, "role": role, **more}

    content = {
        "name": "shop", "version": 1, "description": "Orders of a shop.",
        "files": {"format": "csv", **files},
        "columns": {
            "client": column("string", "entity"),
            "day": column("date", "timestamp", normalise=[{"date_formats": ["%Y-%m-%d"]}]),
            "code": column("string", nullable=True),
            "items": column("int64", nullable=True),
            "paid": column("boolean", nullable=True),
            "price": column("decimal", nullable=True, decimals=2),
            "weight": column("double", nullable=True),
            "kind": column(
                "string", "target", required={"train": True, "score": False},
                nullable={"train": False, "score": True},
                domain={"levels": ["A", "B"], "closed": {"train": True, "score": False}},
            ),
        },
        "rules": [{"name": "once", "description": "Once.", "rule": "unique", "columns": "all"}],
        "quarantine": {"limit": 0.9}, "batch": {"recent": 3}, "features": {"grain": "every_row"},
        "split": {"fractions": {"train": 0.6, "validation": 0.2, "test": 0.2}}, "promotion": {"margin": 0.001},
    }  # fmt: skip
    (folder / "contract.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_contract(folder / "contract.yaml")


def check(folder: Path, path: Path, contract: Contract, use: Use = "train") -> tuple[FileReport, pa.Table, pa.Table]:
    """The report, the accepted rows with their numbers, and the quarantined ones."""
    out = {"accepted": folder / "accepted.parquet", "quarantined": folder / "quarantined.parquet"}
    out["quarantined"].unlink(missing_ok=True)
    with connect_strict(Settings.load(home=folder)) as con:
        report = check_file(con, path, contract, use, as_of=None, **out, with_row_nr=True, copy=False)
        accepted = con.sql(report.query).to_arrow_table()
    bad = pq.read_table(out["quarantined"]) if out["quarantined"].exists() else pa.table({"row_nr": []})
    assert (report.rows, report.quarantined) == (accepted.num_rows + bad.num_rows, bad.num_rows)
    assert not list(folder.glob(".csv-*")), "what was converted is removed"
    return report, accepted, bad


def csv(folder: Path, text: str, name: str = "a.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


HEADER = "client,day,code,items,paid,price,weight,kind\n"


def test_text_is_cast_by_the_contract(tmp_path: Path) -> None:
    text = (
        HEADER + 'c1,2024-03-05,007,8,true,1.50,2.5,A\n"c,2",2024-03-06,,"",FALSE,,1e3,B\nNA,2024-03-07,"",-3,,2,,A\n'
    )
    report, accepted, _ = check(tmp_path, csv(tmp_path, text), contract_of(tmp_path))
    assert accepted.to_pylist() == [
        {"row_nr": 2, "client": "c1", "day": date(2024, 3, 5), "code": "007", "items": 8, "paid": True,
         "price": Decimal("1.50"), "weight": 2.5, "kind": "A"},
        {"row_nr": 3, "client": "c,2", "day": date(2024, 3, 6), "code": None, "items": None, "paid": False,
         "price": None, "weight": 1000.0, "kind": "B"},
        {"row_nr": 4, "client": "NA", "day": date(2024, 3, 7), "code": "", "items": -3, "paid": None,
         "price": Decimal("2.00"), "weight": None, "kind": "A"},
    ]  # fmt: skip
    assert (report.name, report.cast, report.added, report.filled) == ("a.csv", (), (), ())


def test_bad_lines_and_bad_values_are_quarantined_rows_with_their_line(tmp_path: Path) -> None:
    text = (
        "\ufeffclient,day,code,items,paid,price,weight,kind,extra\r\n"
        "c1,2024-03-05,x,1,true,1,1,A,e\r\n"
        "c1,05/03/2024,x,1.5,yes,1.234,heavy,Z,e\r\n"
        "c2,2024-03-05\r\n"
        'c3,2024-03-05,"two\r\nlines",1,,,,B,e\r\n'
        'c4,2024-03-05,"x,1,,,,B,e\r\n'
        "c1,2024-03-05,x,1,true,1,1,A,e\r\n"
    )
    report, accepted, bad = check(tmp_path, csv(tmp_path, text), contract_of(tmp_path))
    assert accepted.column("row_nr").to_pylist() == [2, 5]
    rows = {row["row_nr"]: row for row in bad.to_pylist()}
    assert list(rows) == [3, 4, 7, 8]
    reasons = {
        nr: [(r["column"], r["rule"].split(";")[0]) for r in json.loads(row["reasons"])] for nr, row in rows.items()
    }
    assert reasons == {
        3: [
            ("day", "type: not date without loss"), ("items", "type: not int64 without loss"),
            ("paid", "type: not boolean without loss"), ("price", "type: not decimal without loss"),
            ("weight", "type: not double without loss"), ("kind", "domain: one of A, B"),
        ],
        4: [("line", "columns: fewer values than the header has")],
        7: [("line", "quote: not closed, or text after the closing quote")],
        8: [("all columns", "once: must be unique in a file")],
    }  # fmt: skip
    assert json.loads(rows[4]["row"]) == {"line": "c2,2024-03-05"}
    assert json.loads(rows[3]["row"])["weight"] == "heavy"
    assert report.reasons["line: columns: fewer values than the header has"] == 1 and report.added == ("extra",)
    label = "line: quote: not closed, or text after the closing quote"
    assert report.with_examples(label) == f"{label} (found 'c4,2024-03-05,\"x,1,,,,B,e')"


def test_the_same_rows_as_parquet_have_the_same_outcome(tmp_path: Path) -> None:
    text = HEADER + "".join(
        f"c{n % 7},2024-0{1 + n % 9}-15,{n % 13:03d},{n if n % 11 else 'x'},true,{n}.25,{n / 3!r},{'AB'[n % 2]}\n"
        for n in range(500)
    )
    contract = contract_of(tmp_path)
    rows = [line.split(",") for line in text.splitlines()]
    table = pa.table({name: pa.array([row[place] for row in rows[1:]]) for place, name in enumerate(rows[0])})
    pq.write_table(table, tmp_path / "a.parquet")
    of_csv, accepted, bad = check(tmp_path, csv(tmp_path, text), contract)
    of_parquet, same_accepted, same_bad = check(tmp_path, tmp_path / "a.parquet", contract)
    assert of_csv.quarantined == 46 and of_csv.reasons == of_parquet.reasons
    assert accepted.drop_columns(["row_nr"]).equals(same_accepted.drop_columns(["row_nr"]))
    assert [bad.column(name).to_pylist() for name in ("reasons", "row")] == [
        same_bad.column(name).to_pylist() for name in ("reasons", "row")
    ]
    assert [nr - 2 for nr in bad.column("row_nr").to_pylist()] == same_bad.column("row_nr").to_pylist()


def test_a_decimal_comma(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, delimiter=";", decimal=",", encoding="cp1252")
    text = HEADER.replace(",", ";") + "ñ;2024-03-05;1,5;7;;1,50;-2,5e1;A\nb;2024-03-05;1,5;7;;1.50;1.234;A\n"
    _, accepted, bad = check(tmp_path, csv(tmp_path, text, encoding="cp1252"), contract)
    (row,) = accepted.to_pylist()
    assert (row["client"], row["code"], row["price"], row["weight"]) == ("ñ", "1,5", Decimal("1.50"), -25.0)
    (row,) = bad.to_pylist()  # one and a half, or a thousand?
    assert [r["column"] for r in json.loads(row["reasons"])] == ["price", "weight"]
    assert json.loads(row["row"])["weight"] == "1.234"


ROW = {
    "client": "c1", "day": "2024-03-05", "code": "007", "items": 8, "paid": True, "price": 1.5, "weight": 2.5,
    "kind": "A",
}  # fmt: skip


def json_lines(folder: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(ROW | row) for row in rows]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "a.jsonl"


def test_values_of_json_are_cast_as_the_text_of_csv_is(tmp_path: Path) -> None:
    rows = [
        {},
        {"code": 7, "items": "9", "paid": "FALSE", "price": "2.50", "weight": "1e3"},
        {"code": "", "weight": None},
    ]
    report, accepted, _ = check(tmp_path, json_lines(tmp_path, *rows), contract_of(tmp_path, format="jsonl"))
    first = {"row_nr": 1, "client": "c1", "day": date(2024, 3, 5), "code": "007", "items": 8, "paid": True,
             "price": Decimal("1.50"), "weight": 2.5, "kind": "A"}  # fmt: skip
    assert accepted.to_pylist() == [
        first,
        first | {"row_nr": 2, "code": "7", "items": 9, "paid": False, "price": Decimal("2.50"), "weight": 1000.0},
        first | {"row_nr": 3, "code": "", "weight": None},
    ]
    assert (report.name, report.cast, report.added, report.filled) == ("a.jsonl", (), (), ())


def test_bad_lines_and_values_of_json_are_quarantined_rows_with_their_line(tmp_path: Path) -> None:
    path = json_lines(
        tmp_path,
        {"extra": {"x": 1}},
        "no json",
        {"items": 12345678901234567890123, "price": 0.125, "weight": "", "paid": 1, "kind": "Z"},
        {"items": [1], "code": {"a": 1}},
        json.dumps(ROW).replace("2.5", "1e400"),
        '["c1"]',
        {"client": None, "weight": 3.5},
    )
    report, accepted, bad = check(tmp_path, path, contract_of(tmp_path, format="jsonl"))
    assert accepted.column("row_nr").to_pylist() == [1] and report.added == ("extra",)
    reasons = {
        row["row_nr"]: [(r["column"], r["value"], r["rule"].split(";")[0]) for r in json.loads(row["reasons"])]
        for row in bad.to_pylist()
    }
    assert reasons == {
        2: [("line", "no json", "json: not JSON")],
        3: [
            ("items", "12345678901234567890123", "type: not int64 without loss"),
            ("paid", "1", "type: not boolean without loss"), ("price", "0.125", "type: not decimal without loss"),
            ("weight", "", "type: not double without loss"), ("kind", "Z", "domain: one of A, B"),
        ],
        4: [
            ("code", '{"a": 1}', "type: a list or an object, not a single value"),
            ("items", "[1]", "type: a list or an object, not a single value"),
        ],
        5: [("weight", "1e400", "type: not double without loss")],
        6: [("line", '["c1"]', "json: not an object")],
        7: [("client", "null", "not_null")],
    }  # fmt: skip
    assert report.reasons["items: type: a list or an object, not a single value"] == 1


def test_an_absent_key_is_null_also_where_no_row_has_it(tmp_path: Path) -> None:
    bare = json.dumps({key: ROW[key] for key in ("client", "day", "kind")})
    contract = contract_of(tmp_path, format="jsonl")
    report, accepted, _ = check(tmp_path, json_lines(tmp_path, bare), contract)
    assert (report.accepted, accepted.column("items").to_pylist()) == (1, [None])
    with pytest.raises(DataError, match=r"required columns are missing; expected → found\n  client"):
        check(tmp_path, json_lines(tmp_path, '{"day": "2024-03-05", "kind": "A"}'), contract)
    report, _, _ = check(tmp_path, json_lines(tmp_path, '{"client": "c", "day": "2024-03-05"}'), contract, "score")
    assert (report.accepted, report.filled) == (1, ("kind",))


def test_the_same_rows_as_json_lines_and_csv_have_the_same_outcome(tmp_path: Path) -> None:
    rows = [
        {"client": f"c{n % 7}", "day": f"2024-0{1 + n % 9}-15", "code": f"{n % 13:03d}", "items": n if n % 11 else "x",
         "paid": n % 2 == 0, "price": n + 0.25, "weight": n / 3, "kind": "AB"[n % 2]}
        for n in range(500)
    ]  # fmt: skip
    cells = [[str(value).lower() if isinstance(value, bool) else str(value) for value in row.values()] for row in rows]
    of_csv = check(tmp_path, csv(tmp_path, HEADER + "\n".join(map(",".join, cells))), contract_of(tmp_path))
    of_json = check(tmp_path, json_lines(tmp_path, *rows), contract_of(tmp_path, format="jsonl"))
    assert of_csv[0].quarantined == 46 and of_csv[0].reasons == of_json[0].reasons
    for one, other in zip(of_csv[1:], of_json[1:], strict=True):
        assert one.drop_columns(["row_nr"]).equals(other.drop_columns(["row_nr"]))
        assert [nr - 1 for nr in one.column("row_nr").to_pylist()] == other.column("row_nr").to_pylist()


def test_a_drop_may_lack_what_is_known_later(tmp_path: Path) -> None:
    names = HEADER.strip().split(",")
    for files, header in (({}, HEADER.replace(",kind", "")), ({"names": names}, "")):
        path = csv(tmp_path, header + "c1,2024-03-05,x,1,true,1,1\n")
        report, accepted, _ = check(tmp_path, path, contract_of(tmp_path, **files), "score")
        assert report.filled == ("kind",) and accepted.column("kind").to_pylist() == [None]
    with pytest.raises(DataError, match="the first row has 7 values, and files.names lists 8"):
        check(tmp_path, path, contract_of(tmp_path, names=names), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("client,day\nc,2024-03-05\n", r"a\.csv: required columns are missing; expected → found\n  code"),
        (HEADER.replace("code", "client"), r"a\.csv: repeated columns: client; deliver each once"),
        (HEADER.replace(",", "\t"), r"a\.csv: has one column, .* write delimiter: \"\\t\" under files"),
        ("", r"a\.csv: is empty; deliver it with a row that names the columns"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(tmp_path, csv(tmp_path, text), contract_of(tmp_path))


def test_a_file_without_rows_has_none(tmp_path: Path) -> None:
    report, accepted, _ = check(tmp_path, csv(tmp_path, HEADER), contract_of(tmp_path))
    assert (report.rows, accepted.num_rows) == (0, 0)


def test_a_parquet_file_is_read_as_such_and_a_truncated_one_refused(tmp_path: Path) -> None:
    contract = contract_of(tmp_path)
    row = {"client": "c", "day": date(2024, 3, 5), "code": "x", "items": 1, "paid": True, "price": 1.5, "weight": 1.0}
    pq.write_table(pa.Table.from_pylist([row | {"kind": "A"}]), tmp_path / "a.parquet")
    report, accepted, _ = check(tmp_path, tmp_path / "a.parquet", contract)
    assert report.accepted == 1 and accepted.column("row_nr").to_pylist() == [0]
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-10])
    with pytest.raises(DataError, match="a truncated parquet file"):
        check(tmp_path, tmp_path / "a.parquet", contract)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"format": "parquet", "delimiter": ";"}, "only CSV has it"),
        ({"format": "jsonl", "nulls": ["NA"]}, "only CSV has it"),
        ({"format": "parquet", "encoding": "cp1252"}, "only CSV and JSON lines have it"),
        ({"delimiter": ";;"}, "not one ASCII character"),
        ({"delimiter": '"'}, "is also the quote"),
        ({"escape": '"'}, "is the quote itself, which is doubled without it"),
        ({"quote": "", "escape": "\\"}, "without a quote nothing is escaped"),
        ({"quote": "", "decimal": ","}, "is also the delimiter, and values have no quotes"),
        ({"encoding": "utf8000"}, "is no encoding of text; write utf-8, utf-16, latin-1 or cp1252"),
        ({"encoding": "base64"}, "is no encoding of text"),
        ({"names": ["a", "b", "a"]}, "repeated: a; name each column once"),
        ({"delimeter": ";"}, "delimiter"),
    ],
)
def test_contradictions_of_the_format_are_refused(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        contract_of(tmp_path, **files)
    assert "contract.yaml:" in str(refused.value)


def test_parts_of_json_lines_are_one_drop_whose_rows_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    parts = (json.dumps(ROW) + "\nbroken\n", "", json.dumps({"client": "c2", "day": "2024-03-06", "kind": "B"}))
    for number, text in enumerate(parts):
        (folder / f"part-{number}.jsonl").write_text(text)
    contract = contract_of(tmp_path, format="jsonl")
    names = parts_in(folder, folder.name, FolderRule("never"))
    with (
        connect_strict(Settings.load(home=tmp_path)) as con,
        join_parts(con, folder, names, contract, "train", tmp_path) as joined,
    ):
        report = check_file(
            con, folder, contract, "train", as_of=None, with_row_nr=True, copy=False,
            accepted=tmp_path / "accepted.parquet", quarantined=tmp_path / "bad.parquet", joined=joined,
        )  # fmt: skip
        accepted = con.sql(report.query).to_arrow_table().to_pylist()
    assert [(row["row_nr"], row["client"], row["items"]) for row in accepted] == [(1, "c1", 8), (5, "c2", None)]
    assert pq.read_table(tmp_path / "bad.parquet").column("row_nr").to_pylist() == [2]
    assert (report.rows, report.quarantined) == (3, 1)
