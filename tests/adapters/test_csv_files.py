"""CSV files become parquet files of text: every row once, with its line, and every line that cannot be parsed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.storage import csv_records, csv_text
from apex_ml.adapters.storage.csv_files import convert_csv
from apex_ml.adapters.storage.csv_records import BAD_QUOTE, TOO_FEW, TOO_MANY
from apex_ml.adapters.storage.text_rows import BAD_TEXT, is_text_table
from apex_ml.contract.file_format import FileFormat
from apex_ml.errors import DataError

COMMA = FileFormat(format="csv")
Converted = tuple[list[str], list[tuple[Any, ...]], dict[int, tuple[str, str]]]


def convert(folder: Path, content: bytes, form: FileFormat = COMMA, name: str = "a.csv", **how: Any) -> Converted:
    """The names, the rows with the line of each as last value, and the bad lines with rule and text."""
    (folder / name).write_bytes(content)
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    converted = convert_csv(folder / name, out, form, **how)
    table = pq.ParquetFile(converted.path).read()  # names may repeat
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    bad: dict[int, tuple[str, str]] = {}
    for row in pq.read_table(converted.bad_path).to_pylist() if converted.bad else ():
        (reason,) = json.loads(row["reasons"])
        bad[row["row_nr"]] = reason["rule"], json.loads(row["row"])["line"]
    assert converted.rows == len(rows) and sum(converted.bad.values()) == len(bad)
    return table.column_names[:-1], rows, bad


def csv_of(**options: Any) -> FileFormat:
    return FileFormat(format="csv", **options)


def test_values_stay_text_and_empty_is_not_the_empty_text(tmp_path: Path) -> None:
    names, rows, bad = convert(tmp_path, b'id,code,note\n007,NA,\n8,"",  x \n1e3,true,"say ""hi"""\n')
    assert names == ["id", "code", "note"] and not bad
    assert rows == [("007", "NA", None, 2), ("8", "", "  x ", 3), ("1e3", "true", 'say "hi"', 4)]


def test_bad_lines_have_their_number_and_cost_no_other_line(tmp_path: Path) -> None:
    content = (
        b'a,b,c\n1,x,2\n2,"abc,3\n3,"q",4\n4,"two\nlines",5\n5,y\n\n6,z,7,8\n7,"g"h,9\n8,\xff,1\n9,"w\nx"\n10,z,"2"'
    )
    _, rows, bad = convert(tmp_path, content)
    assert rows == [
        *(("1", "x", "2", 2), ("3", "q", "4", 4), ("4", "two\nlines", "5", 5), ("10", "z", "2", 14)),
    ]
    assert bad == {
        3: (BAD_QUOTE, '2,"abc,3'),
        7: (TOO_FEW, "5,y"),
        9: (TOO_MANY, "6,z,7,8"),
        10: (BAD_QUOTE, '7,"g"h,9'),
        11: (BAD_TEXT, "8,\\xff,1"),
        12: (TOO_FEW, '9,"w'),  # both of its lines are named, each as itself
        13: (TOO_FEW, 'x"'),
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "mac"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "not ended"])
def test_line_ends_and_byte_order_mark(tmp_path: Path, end: str, mark: bytes, last: bool) -> None:
    content = mark + end.join(["a,b", "1,2", "", "3,4"]).encode() + (end.encode() if last else b"")
    assert convert(tmp_path, content) == (["a", "b"], [("1", "2", 2), ("3", "4", 4)], {})


ENCODED = "a;b\nñandú;1\n€uro;2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "cp1252", "iso-8859-15"])
@pytest.mark.parametrize("part", [1, 4 << 20])
def test_encodings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, part: int) -> None:
    monkeypatch.setattr(csv_text, "PART_BYTES", part)
    form = csv_of(delimiter=";", encoding=encoding)
    _, rows, bad = convert(tmp_path, ENCODED.encode(encoding), form)
    assert rows == [("ñandú", "1", 2), ("€uro", "2", 3)] and not bad


def test_bytes_that_are_no_text_are_a_bad_line_in_every_encoding(tmp_path: Path) -> None:
    _, rows, bad = convert(tmp_path, b"a,b\n\x81,1\n\x80,2\n", csv_of(encoding="cp1252"))
    assert rows == [("€", "2", 3)] and [rule for rule, _ in bad.values()] == [BAD_TEXT] and list(bad) == [2]
    half = "a,b\nx,1\ny,2\n".encode("utf-16-le").replace("x".encode("utf-16-le"), b"\x00\xd8")
    _, rows, bad = convert(tmp_path, half, csv_of(encoding="utf-16-le"))
    assert rows == [("y", "2", 3)] and list(bad) == [2]


@pytest.mark.parametrize(
    ("declared", "content", "message"),
    [
        ("utf-8", ENCODED.encode("utf-16"), "begins as text in UTF-16; write encoding: utf-16 under files .* in UTF-8"),
        ("cp1252", ENCODED.encode("utf-16"), "begins as text in UTF-16; write encoding: utf-16 under .* in cp1252"),
        ("utf-8", ENCODED.encode("utf-16-be"), "begins as text in UTF-16; write encoding: utf-16-be under"),
        ("utf-16", ENCODED.encode("utf-16-be"), "begins as text in UTF-16; write encoding: utf-16-be under"),
        ("utf-16-be", b"\xff\xfe" + ENCODED.encode("utf-16-le"), "begins as text in UTF-16; write encoding: utf-16 "),
        ("utf-16", ENCODED.encode("utf-16-le"), "begins as text in UTF-16; write encoding: utf-16-le under"),
        (
            "utf-16",
            "年年年年年年年年;月月月\n".encode("utf-16-le"),
            "begins without a byte order mark; write encoding: utf-16-le under",
        ),
        ("utf-16", ENCODED.encode("utf-32"), "begins as text in UTF-32; write encoding: utf-32 under"),
        (
            "cp1252",
            ENCODED.encode("utf-8-sig"),
            "begins as text in UTF-8 with a byte order mark; write encoding: utf-8",
        ),
        (
            "utf-16",
            ENCODED.encode("utf-8-sig"),
            "begins as text in UTF-8 with a byte order mark; write encoding: utf-8",
        ),
        ("utf-16", ENCODED.encode(), "of one byte a character, not in UTF-16; write encoding: utf-8 under"),
        ("utf-16-le", ENCODED.encode("cp1252"), "of one byte a character, not in UTF-16-LE; write encoding: cp1252"),
        (
            "cp1252",
            (ENCODED + "á;1\n").encode(),
            "is text in UTF-8, and encoding is cp1252; write encoding: utf-8 under",
        ),
        ("utf-8", "año;b\n1;2\n".encode("cp1252"), "line 1: the header is no text .* such as encoding: cp1252"),
    ],
)
def test_another_encoding_than_declared_is_refused_with_the_remedy(
    tmp_path: Path, declared: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=rf"^a\.csv: .*{message}"):
        convert(tmp_path, content, csv_of(delimiter=";", encoding=declared))


@pytest.mark.parametrize(
    ("declared", "written"),
    [("utf-16-le", "utf-16"), ("utf-16-be", "utf-16-be"), ("utf-32", "utf-32"), ("utf-8", "utf-8-sig"), ("gbk", "gbk")],
)
def test_an_encoding_that_reads_the_file_is_not_refused(tmp_path: Path, declared: str, written: str) -> None:
    content = "a;b\n汉字;1\n".encode(written)
    assert convert(tmp_path, content, csv_of(delimiter=";", encoding=declared))[:2] == (["a", "b"], [("汉字", "1", 2)])
    # one text of Windows that is UTF-8 by chance is no proof
    text = convert(tmp_path, "a;b\nCAFÉ»;1\n".encode("cp1252"), csv_of(delimiter=";", encoding="cp1252"))
    assert text[1] == [("CAFÉ»", "1", 2)]


@pytest.mark.parametrize(
    ("form", "content", "values"),
    [
        (csv_of(delimiter=";"), b'a;b\n"x;y";1,5\n', ("x;y", "1,5")),
        (csv_of(delimiter="\t"), b"a\tb\nx y\t1\n", ("x y", "1")),
        (csv_of(quote="'"), b"a,b\n'x,''y''','1'\n", ("x,'y'", "1")),
        (csv_of(quote=""), b'a,b\n"x,y"\n', ('"x', 'y"')),
        (csv_of(escape="\\"), b'a,b\n"x\\"y",c\\,d\n', ('x"y', "c,d")),
        (csv_of(nulls=("", "NA", "-")), b'a,b\nNA,"NA"\n', (None, "NA")),
        (csv_of(nulls=("NA",)), b"a,b\nNA,\n", (None, "")),
        (COMMA, b'a,b\n5" pipe,x"y"\n', ('5" pipe', 'x"y"')),
    ],
)
def test_signs(tmp_path: Path, form: FileFormat, content: bytes, values: tuple[str | None, ...]) -> None:
    _, rows, bad = convert(tmp_path, content, form)
    assert rows == [(*values, 2)] and not bad


def test_an_empty_text_in_quotes_is_null_where_the_column_is_not_text(tmp_path: Path) -> None:
    _, rows, _ = convert(tmp_path, b'id,note\n"",""\n"5","x"\n', is_text=lambda name: name == "note")
    assert rows == [(None, "", 2), ("5", "x", 3)]


def test_headers(tmp_path: Path) -> None:
    assert convert(tmp_path, b'\n"a\nb","c ""d""",,c\n1,2,3,4\n')[:2] == (
        *(["a\nb", 'c "d"', "", "c"], [("1", "2", "3", "4", 4)]),
    )
    assert convert(tmp_path, b"a,a\n1,2\n") == (["a", "a"], [("1", "2", 2)], {})  # the checks refuse the name
    assert convert(tmp_path, b"a,b") == (["a", "b"], [], {})
    for content, fault in {
        b"": "is empty; deliver it with a row that names the columns",
        b"\n\n": "is empty",
        b'a,"b\n1,2\n': "line 1: the header cannot be read: a quote is not closed",
        b"a;b;c\n1;2;3\n": r'has one column, a;b;c; if the values are separated by \';\', write delimiter: ";" under',
    }.items():
        with pytest.raises(DataError, match=rf"a\.csv: {fault}"):
            convert(tmp_path, content)


def test_files_without_a_header(tmp_path: Path) -> None:
    names = [["a", "b", "target"], ["a", "b"]]
    assert convert(tmp_path, b"1,2,x\n3\n", names=names) == (
        *(["a", "b", "target"], [("1", "2", "x", 1)], {2: (TOO_FEW, "3")}),
    )
    assert convert(tmp_path, b"1,2", names=names) == (["a", "b"], [("1", "2", 1)], {})
    with pytest.raises(DataError, match=r"the first row has 4 values, and files\.names lists 3 or 2; correct the file"):
        convert(tmp_path, b"1,2,3,4\n", names=names)


def _zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(("name", "compress"), [("a.csv.gz", gzip.compress), ("a.CSV.ZST", _zst)])
def test_compressed_files(tmp_path: Path, name: str, compress: Any) -> None:
    content = b"a,b\n" + b"".join(b"%d,x\n" % n for n in range(50_000))
    _, rows, bad = convert(tmp_path, compress(content), name=name)
    assert len(rows) == 50_000 and rows[-1] == ("49999", "x", 50_001) and not bad
    half = len(compress(content)) // 2
    for damaged in (compress(content)[:half], content):
        with pytest.raises(DataError, match=rf"{name}: a damaged or truncated (gzip|zstd) file; deliver it again"):
            convert(tmp_path, damaged, name=name)


def test_a_parquet_file_is_no_csv_and_a_header_may_begin_as_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_bytes(b"PAR1,b\n1,2\n")
    assert not is_text_table(tmp_path / "a.parquet", COMMA)
    assert is_text_table(tmp_path / "b.csv", COMMA) and not is_text_table(tmp_path / "b.csv", FileFormat())


def test_a_quote_that_is_never_closed_costs_one_line(tmp_path: Path) -> None:
    lines = [b"%d,%s" % (n, b"x" * 90) for n in range(40_000)]
    lines[7] = b'7,"' + b"x" * 90
    _, rows, bad = convert(tmp_path, b"a,b\n" + b"\n".join(lines))
    assert len(rows) == len(lines) - 1 and list(bad) == [9] and bad[9][0] == BAD_QUOTE


def test_a_line_without_end_is_one_bad_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "MAX_RECORD", 100)
    monkeypatch.setattr(csv_text, "PART_BYTES", 64)
    _, rows, bad = convert(tmp_path, b'a,b\n1,"' + b"y" * 1000 + b"\n2,z\n")
    assert rows == [("2", "z", 3)] and list(bad) == [2]


FORMS = (COMMA, csv_of(delimiter=";", escape="\\"), csv_of(quote="", delimiter="\t"), csv_of(delimiter="|", quote="'"))


@pytest.mark.parametrize("seed", range(60))
def test_no_line_is_lost_however_the_text_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    draw = random.Random(seed)
    form = FORMS[seed % len(FORMS)]
    signs = [form.delimiter] * 4 + [form.quote or "x"] * 3 + ["\n"] * 3 + ["\r\n", "\r", "a", "é", "\\", "1"]
    content = (form.delimiter.join("pqr") + "\n" + "".join(draw.choices(signs, k=80))).encode()
    if draw.random() < 0.3:
        place = draw.randrange(6, len(content) + 1)
        content = content[:place] + b"\xff" + content[place:]
    outcomes = []
    for part in (1 << 20, 1, 3, 7):
        monkeypatch.setattr(csv_text, "PART_BYTES", part)
        outcomes.append(convert(tmp_path, content, form))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    _, rows, bad = outcomes[0]
    of_rows = {row[-1] + n for row in rows for n in range(1 + sum(map(_line_ends, row[:-1])))}
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    filled = {number for number, line in enumerate(lines, 1) if line and number > 1}
    assert filled <= of_rows | set(bad) and not of_rows & set(bad)


def _line_ends(value: str | None) -> int:
    return 0 if value is None else value.replace("\r\n", "\n").replace("\r", "\n").count("\n")


@pytest.mark.parametrize("seed", range(20))
def test_what_another_writer_writes_is_read_as_it_was(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    values = ["", "a", "NA", "007", 'say "hi"', "x,y", "two\nlines", "\r\n", " ", "ñ", "''", "\\", "1.5", "\t"]
    table = [tuple(draw.choices(values, k=4)) for _ in range(200)]
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=draw.choice(["\n", "\r\n"])).writerows(
        [("a", *"bcd"), *table]
    )
    _, rows, bad = convert(tmp_path, text.getvalue().encode())
    assert [row[:-1] for row in rows] == table and not bad


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "PART_BYTES", 1 << 16)
    block = b"".join(b'%d,"x, %d",%d\n' % (n, n, n) for n in range(20_000))
    peaks = []
    for blocks in (2, 12):
        (tmp_path / "a.csv").write_bytes(b"a,b,c\n" + block * blocks)
        (out := tmp_path / str(blocks)).mkdir()
        before = pa.default_memory_pool().bytes_allocated()
        tracemalloc.start()
        assert convert_csv(tmp_path / "a.csv", out, COMMA).rows == 20_000 * blocks
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pa.default_memory_pool().bytes_allocated() <= before + (1 << 20)
    assert peaks[1] < 2 * peaks[0], peaks
