"""JSON lines become parquet files of text: every row once, with its line, and every line that is no row."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.storage import csv_text, json_records
from apex_ml.adapters.storage.json_lines import convert_json_lines
from apex_ml.adapters.storage.json_records import (
    HALF_PAIR,
    NESTED,
    NO_JSON,
    NO_OBJECT,
    NOT_FINITE,
    TOO_DEEP,
    TOO_LONG,
    TWICE,
)
from apex_ml.adapters.storage.text_rows import BAD_TEXT
from apex_ml.contract.file_format import FileFormat
from apex_ml.errors import DataError

LINES = FileFormat(format="jsonl")
Converted = tuple[list[str], list[tuple[Any, ...]], dict[int, list[tuple[str, str, str]]]]


def convert(folder: Path, content: bytes, name: str = "a.jsonl", form: FileFormat = LINES, **how: Any) -> Converted:
    """The names, the rows with the line of each as last value, and the bad lines with column, value and rule."""
    (folder / name).write_bytes(content)
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    converted = convert_json_lines(folder / name, out, form, **how)
    with pq.ParquetFile(converted.path) as file:
        table = file.read()  # names may repeat
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    bad = {}
    for row in pq.read_table(converted.bad_path).to_pylist() if converted.bad else ():
        bad[row["row_nr"]] = [(r["column"], r["value"], r["rule"]) for r in json.loads(row["reasons"])]
    assert (converted.rows, converted.bad_rows) == (len(rows), len(bad))
    assert sum(converted.bad.values()) == sum(map(len, bad.values()))
    assert [path.name for path in out.iterdir() if path.name.startswith("part-")] == []
    return table.column_names[:-1], rows, bad


def test_values_are_the_text_of_the_file(tmp_path: Path) -> None:
    lines = (
        '{"n": 7, "s": "007", "b": true}',
        '{"n": 0.10, "s": "", "b": false}',
        '{"n": 1e400, "s": "null", "b": null}',
        '{"n": -123456789012345678901234567890, "s": "é\\u00e9\\ud83d\\ude00\\u0000", "b": "true"}',
        f'{{"n": {"9" * 5000}, "s": null, "b": 1}}',
    )
    names, rows, bad = convert(tmp_path, "\n".join(lines).encode())
    assert names == ["n", "s", "b"] and not bad
    assert rows == [
        ("7", "007", "true", 1),
        ("0.10", "", "false", 2),
        ("1e400", "null", None, 3),
        ("-123456789012345678901234567890", "éé😀\0", "true", 4),
        ("9" * 5000, None, "1", 5),
    ]


def test_a_key_that_a_row_does_not_have_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b'{"a": 1}\n{"b": 2}\n{}\n{"c": 3, "a": 4}\n{"a": 5}\n'
    for part in (4 << 20, 9, 1):
        monkeypatch.setattr(csv_text, "PART_BYTES", part)
        names, rows, _ = convert(tmp_path, content, absent=lambda names: ["a", "d"])
        assert names == ["a", "b", "c", "d"]
        assert rows == [
            ("1", None, None, None, 1), (None, "2", None, None, 2), (None, None, None, None, 3),
            ("4", None, "3", None, 4), ("5", None, None, None, 5),
        ]  # fmt: skip


BAD = {
    b"[1, 2]": NO_OBJECT,
    b"7": NO_OBJECT,
    b"null": NO_OBJECT,
    b'{"a": 1': NO_JSON,
    b'{"a": 1} {"a": 2}': NO_JSON,
    b"{'a': 1}": NO_JSON,
    b'{"a": 01}': NO_JSON,
    b'{"a": 1,}': NO_JSON,
    b'{"a": "x\ty"}': NO_JSON,
    b'{"a": NaN}': NOT_FINITE,
    b'{"a": -Infinity}': NOT_FINITE,
    b'{"a": 1, "b": 2, "a": 1}': TWICE,
    b'{"a": 1, "x": {"y": 1, "y": 2}}': TWICE,
    b'{"a": "\xff"}': BAD_TEXT,
    b'{"a": "\xed\xa0\x80"}': BAD_TEXT,
    b'{"a": "\\ud800"}': HALF_PAIR,
    b'{"\\udfff": 1}': HALF_PAIR,
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": TOO_DEEP,
}


@pytest.mark.parametrize("part", [1, 50, 4 << 20])
def test_a_bad_line_has_its_number_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(csv_text, "PART_BYTES", part)
    lines = [line for bad in BAD if part > 1 or len(bad) < 1000 for line in (bad, b'{"a": 1}', b"  ")]
    _, rows, bad = convert(tmp_path, b"\r\n".join(lines))
    assert [row[-1] for row in rows] == [nr for nr, line in enumerate(lines, 1) if line == b'{"a": 1}']
    assert {nr: reasons[0][2] for nr, reasons in bad.items()} == {
        nr: BAD[line] for nr, line in enumerate(lines, 1) if line in BAD
    }
    assert all([reason[0] for reason in reasons] == ["line"] for reasons in bad.values())


def test_a_list_or_an_object_is_bad_where_a_single_value_is_expected(tmp_path: Path) -> None:
    content = b'{"a": 1, "b": [1.5, {"c": 2}]}\n{"a": {"x": null}, "B": [], "b": 2}\n{"a": [3], "b": 4}\n'
    columns = {"a": "a", "B": "big"}
    names, rows, bad = convert(tmp_path, content, single=columns.get)
    assert names == ["a", "b", "B"] and rows == [("1", '[1.5, {"c": 2}]', None, 1)]
    assert bad == {2: [("a", '{"x": null}', NESTED), ("big", "[]", NESTED)], 3: [("a", "[3]", NESTED)]}


def test_a_line_that_is_too_long_is_one_bad_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MAX_LINE", 1000)
    content = b'{"a": 1}\n{"a": "' + b"x" * 5000 + b'"}\n{"a": 2}\n{"a": "' + b"y" * 1500
    for part in (64, 4 << 20):
        monkeypatch.setattr(csv_text, "PART_BYTES", part)
        _, rows, bad = convert(tmp_path, content)
        assert rows == [("1", 1), ("2", 3)]
        assert {nr: reasons[0][2] for nr, reasons in bad.items()} == {2: TOO_LONG, 4: TOO_LONG}


def test_a_file_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.jsonl: is empty; deliver it with one object a line"):
        convert(tmp_path, b"\n \n")
    with pytest.raises(DataError, match=r"no line of it is a row, such as \[\{\"a\": 1\}, \(line: json: not JSON\)"):
        convert(tmp_path, b'[{"a": 1},\n {"a": 2}]\n')
    with pytest.raises(DataError, match=r"begins as text in UTF-16; write encoding: utf-16 under files"):
        convert(tmp_path, '{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(DataError, match=r"a.jsonl.gz: a damaged or truncated gzip file"):
        convert(tmp_path, gzip.compress(b'{"a": 1}\n' * 1000)[:-9], "a.jsonl.gz")
    monster = b"\n".join(b'{"k%d": 1}' % number for number in range(10_001))
    with pytest.raises(DataError, match=r"more than 10,000 different keys"):
        convert(tmp_path, monster)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson.zst", "a.jsonl"])
def test_compression_marks_and_encodings(tmp_path: Path, name: str) -> None:
    content = '\ufeff{"a": "ñ"}\n'.encode()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    elif name.endswith(".zst"):
        content = pa.compress(content, "zstd", asbytes=True)
    assert convert(tmp_path, content, name) == (["a"], [("ñ", 1)], {})
    wide = FileFormat(format="jsonl", encoding="utf-16")
    assert convert(tmp_path, '{"a": "ñ"}'.encode("utf-16"), form=wide)[1] == [("ñ", 1)]


def test_a_table_has_the_types_of_json_and_no_nested_columns(tmp_path: Path) -> None:
    rows = [
        {"n": 1, "x": 1, "s": "007", "b": True, "big": 2**70, "list": [1], "mixed": 1, "row_nr": 5},
        {"n": 2, "x": 0.5, "s": "8", "b": False, "big": 1, "list": None, "mixed": "a", "row_nr": 6, "none": None},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "out").mkdir()
    converted = convert_json_lines(tmp_path / "a.jsonl", tmp_path / "out", LINES, as_table=True)
    table = pq.read_table(converted.path)
    assert {field.name: str(field.type) for field in table.schema} == {
        "n": "int64", "x": "double", "s": "string", "b": "bool", "big": "double", "mixed": "string",
        "row_nr": "int64", "none": "string",
    }  # fmt: skip
    assert table.drop_columns(["none", "big"]).to_pylist() == [
        {key: row[key] for key in ("n", "x", "s", "b", "mixed", "row_nr")} | {"mixed": str(row["mixed"])}
        for row in rows
    ]
    assert converted.notes == ("list: lists or objects, which no model reads; left out",)


def _value(draw: random.Random) -> Any:
    return draw.choice(
        [
            None, True, False, draw.randrange(-(10**25), 10**25), draw.random() * 10.0 ** draw.randrange(-320, 300),
            "".join(draw.choice('aé😀"\\\n\t\u2028/{}[],:\0') for _ in range(draw.randrange(8))), "", "1", "null",
        ]
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_random_rows_are_what_python_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Rows with keys in any sequence, good and damaged lines, in parts of any size, beside Python's own reader."""
    draw = random.Random(seed)
    monkeypatch.setattr(csv_text, "PART_BYTES", draw.choice([1, 7, 100, 4 << 20]))
    lines = []
    for _ in range(draw.randrange(1, 60)):
        keys = draw.sample(["a", "b", "ñ", 'q"', " ", "C", "c"], draw.randrange(1, 6))
        line = json.dumps({key: _value(draw) for key in keys}, ensure_ascii=draw.random() < 0.5).encode()
        if draw.random() < 0.2:  # a byte is lost or replaced
            at = draw.randrange(len(line))
            line = line[:at] + draw.choice([b"", b"\xff", b"{", b"1"]) + line[at + 1 :]
        lines.append(line)
    lines.insert(draw.randrange(len(lines) + 1), b'{"a": 1}')
    names, rows, bad = convert(tmp_path, b"\n".join(lines) + draw.choice([b"", b"\n"]))
    expected = {}
    for nr, line in enumerate(lines, 1):
        try:
            read = json.loads(line, parse_float=lambda text: _Number(text), parse_int=lambda text: _Number(text))
        except ValueError:
            continue
        if isinstance(read, dict) and len(json.loads(line, object_pairs_hook=list)) == len(read):
            expected[nr] = {key: value for key, value in read.items() if value is not None}
    shown = {True: "true", False: "false"}
    assert {row[-1]: dict(zip(names, row, strict=False)) for row in rows} == {
        nr: dict.fromkeys(names) | {k: shown.get(v, str(v)) if isinstance(v, bool) else str(v) for k, v in one.items()}
        for nr, one in expected.items()
    }
    assert sorted([*bad, *expected]) == list(range(1, len(lines) + 1))


class _Number(str):
    __slots__ = ()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    line = b'{"a": 12345, "b": "some text that is here", "c": 1.25}\n'
    peaks = []
    for rows in (100_000, 400_000):
        path = tmp_path / f"{rows}.jsonl"
        path.write_bytes(line * rows)
        (tmp_path / str(rows)).mkdir()
        tracemalloc.start()
        assert convert_json_lines(path, tmp_path / str(rows), LINES).rows == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_a_part_of_a_folder_may_be_empty(tmp_path: Path) -> None:
    for content, bad_lines in ((b"", []), (b"x\n", [1])):
        names, rows, bad = convert(tmp_path, content, absent=lambda names: ["a"], may_be_empty=True)
        assert (names, rows, list(bad)) == (["a"], [], bad_lines)
