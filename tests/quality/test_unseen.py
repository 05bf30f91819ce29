"""Invisible and undecodable characters in names, in values, and in unused columns. All are reported."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from apex_ml.adapters.duckdb.engine import make_strict
from apex_ml.adapters.duckdb.file_report import FileReport, log_report
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.contract.model import Contract
from apex_ml.contract.per_use import USES
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.errors import DataError
from apex_ml.text import TRIMMED, VisibleFormatter, visible
from tests.support.order_files import order_table

CLIENT, COUNTRY, ROUTE, TARGET, AMOUNT, DAY = (
    "cliente_id", "pais_cd", "ruta_id", "canal_pedido_cd", "facturacion_usd_val", "fecha_pedido_dt",
)  # fmt: skip
NEAR = [
    ("CANAL_PEDIDO_CD", "CANAL_PEDIDO_CD"),
    ("Canal Pedido Cd", "Canal Pedido Cd"),
    (" canal_pedido_cd", " canal_pedido_cd"),
    ("\ufeffcanal_pedido_cd", r"\ufeffcanal_pedido_cd"),
    ("canal_pedido_cd\u00a0", r"canal_pedido_cd\u00a0"),
    ("canal_\u200bpedido_cd", r"canal_\u200bpedido_cd"),
    ("canal_pedido_cd\x00", r"canal_pedido_cd\x00"),
    ("canal\u00adpedidocd", r"canal\u00adpedidocd"),
    ("ｃanal_pedido_cd", "ｃanal_pedido_cd"),
]


@dataclass(frozen=True)
class Split:
    report: FileReport
    accepted: pa.Table
    quarantined: list[dict[str, Any]]

    def reasons(self) -> list[tuple[int, str, str, str]]:
        """Row, column, value and rule of every reason."""
        rows = [(row["row_nr"], json.loads(row["reasons"])) for row in self.quarantined]
        return [(nr, r["column"], r["value"], r["rule"]) for nr, result in rows for r in result]


Splitter = Callable[..., Split]


@pytest.fixture
def split(con: duckdb.DuckDBPyConnection, contract: Contract, tmp_path: Path) -> Splitter:
    def run(table: pa.Table | Path, use: Any = "score", own: Contract = contract, **options: Any) -> Split:
        path = table if isinstance(table, Path) else tmp_path / "file.parquet"
        if not isinstance(table, Path):
            pq.write_table(table, path, **options)
        accepted, bad = tmp_path / "accepted.parquet", tmp_path / "bad.parquet"
        bad.unlink(missing_ok=True)
        report = check_file(
            make_strict(con), path, own, use, as_of=None, accepted=accepted, quarantined=bad, copy=use == "train"
        )
        kept = con.sql(report.query).to_arrow_table()
        return Split(report, kept, pq.read_table(bad).to_pylist() if bad.exists() else [])

    return run


def not_utf8(values: list[bytes]) -> pa.Array:
    """Bytes as a string column, as writers leave them that do not look."""
    return pa.array(values, pa.binary()).view(pa.string())


def renamed(names: dict[str, str]) -> pa.Table:
    table = order_table()
    return table.rename_columns([names.get(name, name) for name in table.column_names])


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("name", "shown"), NEAR, ids=[n.encode("unicode_escape").decode() for n, _ in NEAR])
def test_a_name_that_is_nearly_a_column_of_the_contract_is_refused(
    split: Splitter, name: str, shown: str, use: Any
) -> None:
    for column, near, message in ((TARGET, name, shown), (AMOUNT, AMOUNT.upper(), AMOUNT.upper())):
        with pytest.raises(DataError) as error:
            split(renamed({column: near}), use)
        assert f"{column} (" in str(error.value) and f"→ {message} (rename it)" in str(error.value)
        assert "match: insensitive" in str(error.value)


@pytest.mark.parametrize("name", [n for n, _ in NEAR], ids=[n.encode("unicode_escape").decode() for n, _ in NEAR])
def test_a_near_name_is_accepted_with_match_insensitive(split: Splitter, contract: Contract, name: str) -> None:
    own = contract.model_copy(update={"match": "insensitive"})
    result = split(renamed({TARGET: name, CLIENT: CLIENT.upper()}), "train", own)
    assert result.accepted.column(TARGET).to_pylist() == ["DIGITAL"] * 4
    assert result.report.added == result.report.filled == () and result.report.quarantined == 0
    twice = renamed({TARGET: name}).append_column(TARGET, pa.array(["DIGITAL"] * 4))
    with pytest.raises(DataError, match=r"several columns may be meant(?s:.*)canal_pedido_cd: 'canal_pedido_cd', '"):
        split(twice, "train", own)
    bad = renamed({TARGET: name, CLIENT: CLIENT.upper()}).set_column(0, CLIENT.upper(), pa.array(["X"] * 4))
    assert split(bad, "score", own).reasons()[0][1:3] == (CLIENT, "X")


@pytest.mark.parametrize("match", ["exact", "insensitive"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("values", [["DIGITAL"] * 4, pa.nulls(4, pa.string())], ids=["filled", "empty"])
@pytest.mark.parametrize(("name", "shown"), NEAR, ids=[n.encode("unicode_escape").decode() for n, _ in NEAR])
def test_a_near_name_beside_the_column_itself_is_refused(
    split: Splitter, contract: Contract, name: str, shown: str, values: Any, use: Any, match: str
) -> None:
    table = order_table({TARGET: values}).append_column(name, pa.array(["OTHER"] * 4))
    with pytest.raises(DataError) as error:
        split(table, use, contract.model_copy(update={"match": match}))
    title, result, remedy = str(error.value).splitlines()
    assert title == "file.parquet: several columns may be meant by one name of the contract; deliver each once"
    assert result == f"  {TARGET}: '{TARGET}', '{shown}'"
    assert "remove or rename the others" in remedy


def test_a_missing_column_is_reported_with_a_similar_name(split: Splitter) -> None:
    with pytest.raises(DataError, match=r"agencia_id \(string\) → nothing; agencias_id comes near"):
        split(renamed({"agencia_id": "agencias_id"}))


def test_a_near_key_in_a_request_is_reported(contract: Contract) -> None:
    order = {c.name: None for c in contract.columns.values() if c.required.score}
    order |= {CLIENT: "C000001", DAY: "2024-08-24", COUNTRY: "EC\u200b"}
    keys = {"canal_pedido_cd\u200b": "DIGITAL"}
    with pytest.raises(RefusedError) as error:
        RequestReader(contract).read(json.dumps({"rows": [order | keys]}).encode())
    (fault,) = error.value.faults
    assert fault.path == r"rows[0].canal_pedido_cd\u200b" and fault.rule.endswith("nearly canal_pedido_cd")
    own = contract.model_copy(update={"match": "insensitive"})
    read = RequestReader(own).read(json.dumps({"rows": [order | keys]}).encode())
    assert read.columns[TARGET] == ["DIGITAL"] and read.columns[COUNTRY] == ["EC"]
    both = json.dumps({"rows": [order | keys | {TARGET: "DIGITAL"}]}).encode()
    with pytest.raises(RefusedError, match="it is nearly canal_pedido_cd"):
        RequestReader(own).read(both)


def padded(text: str) -> list[str]:
    """A text with each unseen character before and after it; of the long row of tags a few."""
    signs = [c for c in TRIMMED if ord(c) < 0xE0000 or ord(c) % 256 == 1]
    return [f"{sign}{text}{sign}" for sign in signs]


def test_invisible_characters_around_a_value_are_trimmed_and_counted(
    split: Splitter, contract: Contract, con: duckdb.DuckDBPyConnection
) -> None:
    countries = padded("ec")
    rows = len(countries)
    table = order_table({COUNTRY: countries, ROUTE: padded("r1"), CLIENT: padded("c123456")}, rows=rows)
    result = split(table)
    assert result.report.quarantined == 0 and result.report.warnings == {
        "all columns: unique_row: must be unique in a file": rows - 28
    }
    for column, value in ((COUNTRY, "EC"), (ROUTE, "R1"), (CLIENT, "C123456")):
        assert set(result.accepted.column(column).to_pylist()) == {value}
        assert result.report.normalised[f"{column}: trim + upper"] == rows
    reader = RequestReader(contract)
    order = {c.name: None for c in contract.columns.values() if c.required.score} | {DAY: "2024-08-24"}
    orders = [order | {CLIENT: c, COUNTRY: v} for c, v in zip(padded("c123456"), countries, strict=True)]
    for start in range(0, rows, 500):
        read = reader.read(json.dumps({"rows": orders[start : start + 500]}).encode())
        assert set(read.columns[CLIENT]) == {"C123456"} and set(read.columns[COUNTRY]) == {"EC"} and not read.warnings


def test_invisible_characters_inside_a_value_make_an_unknown_level(split: Splitter, contract: Contract) -> None:
    result = split(order_table({COUNTRY: ["E\u200bC", "E\u0000C", "EC", "EC"]}))
    ((label, rows),) = ((k, n) for k, n in result.report.warnings.items() if k.startswith(COUNTRY + ":"))
    assert rows == 2 and set(result.report.examples[label]) == {r"E\u200bC", r"E\x00C"}
    assert r"'E\u200bC'" in result.report.with_examples(label)
    order = {c.name: None for c in contract.columns.values() if c.required.score}
    order |= {CLIENT: "C000001", DAY: "2024-08-24", COUNTRY: "E\u200bC"}
    read = RequestReader(contract).read(json.dumps({"rows": [order]}).encode())
    assert read.warnings[0][0].endswith(r"(found 'E\u200bC')")
    bad = split(order_table({CLIENT: ["C00\u200b0001", "C000001\u200b!", "C000002", "C000003"]}))
    assert [r[2] for r in bad.reasons()] == [r"C00\u200b0001", r"C000001\u200b!"]
    assert json.loads(bad.quarantined[0]["row"])[CLIENT] == r"C00\u200b0001"


def test_a_null_character_in_a_client_of_any_form_is_refused_where_the_database_would(
    split: Splitter, contract: Contract
) -> None:
    columns = contract.columns | {CLIENT: contract.columns[CLIENT].model_copy(update={"checks": ()})}
    own = contract.model_copy(update={"columns": columns})
    result = split(order_table({CLIENT: ["A\0B", "A", "B", "\0C\0"]}), own=own)
    assert result.reasons() == [(0, CLIENT, r"A\x00B", "text: holds a NUL character, which the database cannot store")]
    assert result.accepted.column(CLIENT).to_pylist() == ["A", "B", "C"]
    order = {c.name: None for c in contract.columns.values() if c.required.score}
    order |= {CLIENT: "A\0B", DAY: "2024-08-24"}
    with pytest.raises(RefusedError, match="holds a NUL"):
        RequestReader(own).read(json.dumps({"rows": [order]}).encode())


UNDECODABLE = {
    "latin-1": (not_utf8([b"Espa\xf1a", b"x", b"x", b"x"]), r"Espa\xf1a"),
    "latin-1 in a dictionary": (not_utf8([b"Espa\xf1a", b"x", b"x", b"x"]).dictionary_encode(), r"Espa\xf1a"),
    "half a character": (not_utf8([b"a\xe2\x82", b"x", b"x", b"x"]), r"a\xe2\x82"),
    "large": (pa.array([b"\xff", b"x", b"x", b"x"], pa.large_binary()).view(pa.large_string()), r"\xff"),
    "time": (pa.array([-1, 0, 0, 0], pa.int64()).view(pa.time64("us")), "-1 us since midnight"),
    "time beyond": (pa.array([2**31 - 1, 0, 0, 0], pa.int32()).view(pa.time32("ms")), "2147483647 ms since midnight"),
    "timestamp": (pa.array([2**62, 0, 0, 0], pa.int64()).view(pa.timestamp("ms")), f"{2**62} ms since 1970-01-01"),
    "json": (pa.array(["{", "1", "1", "1"]).cast(pa.json_()), "{"),
    "nested": (pa.array([["a"], ["x"], ["x"], ["x"]]), "[a]"),
}


@pytest.mark.parametrize(("values", "shown"), UNDECODABLE.values(), ids=UNDECODABLE.keys())
@pytest.mark.parametrize("use", USES)
def test_an_undecodable_value_in_an_unknown_column_is_ignored(
    split: Splitter, use: Any, values: pa.Array, shown: str
) -> None:
    table = order_table({"extra": values})
    assert split(table, use).report.accepted == 4
    result = split(order_table({"extra": values, COUNTRY: ["ec", "EC", "EC", "EC"], CLIENT: ["X", *["C000001"] * 3]}))
    assert (result.report.accepted, result.report.quarantined) == (3, 1)
    assert json.loads(result.quarantined[0]["row"])["extra"] == shown


def test_a_list_of_undecodable_texts_has_a_placeholder(split: Splitter) -> None:
    values = pa.ListArray.from_arrays([0, 1, 2, 3, 4], not_utf8([b"\xff", b"x", b"x", b"x"]))
    result = split(order_table({"extra": values, CLIENT: ["C000001", "X", "C000002", "C000003"]}))
    assert result.report.quarantined == 1
    assert json.loads(result.quarantined[0]["row"])["extra"] == "(cannot be decoded)"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("column", [ROUTE, COUNTRY, TARGET])
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"row_group_size": 2}], ids=str)
def test_an_undecodable_text_quarantines_only_its_row(
    split: Splitter, column: str, use: Any, options: dict[str, Any]
) -> None:
    good = order_table().column(column).to_pylist()
    values = not_utf8([good[0].encode(), b"Espa\xf1a", good[2].lower().encode(), good[3].encode()])
    result = split(order_table({column: values}), use, **options)
    assert result.reasons() == [(1, column, r"Espa\xf1a", "encoding: cannot be decoded; write it as text in UTF-8")]
    assert result.accepted.column(column).to_pylist() == [good[0], good[2], good[3]]
    assert result.report.normalised == {f"{column}: trim + upper": 1}
    assert json.loads(result.quarantined[0]["row"])[column] == r"Espa\xf1a"


@pytest.mark.parametrize("int96", [False, True])
def test_an_out_of_range_instant_quarantines_only_its_row(split: Splitter, tmp_path: Path, int96: bool) -> None:
    day = datetime(2024, 3, 5)
    path = tmp_path / "file.parquet"
    if int96:
        table = order_table({DAY: pa.array([day, datetime(2024, 3, 6), day, day], pa.timestamp("us"))})
        options: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_statistics": False}
        pq.write_table(table, path, use_deprecated_int96_timestamps=True, **options)
        instant = (0).to_bytes(8, "little") + (2460376).to_bytes(4, "little")
        content = path.read_bytes()
        assert content.count(instant) == 1
        path.write_bytes(content.replace(instant, (0).to_bytes(8, "little") + b"\xff\xff\xff\x7f"))
    else:
        ms = int((day - datetime(1970, 1, 1)).total_seconds() * 1000)
        pq.write_table(order_table({DAY: pa.array([ms, 2**62, ms, ms], pa.int64()).view(pa.timestamp("ms"))}), path)
    result = split(path)
    ((row, column, value, rule),) = result.reasons()
    assert (row, column) == (1, DAY) and value.endswith(" ms since 1970-01-01") and rule.startswith("type: not date")
    assert result.accepted.column(DAY).to_pylist() == [day.date()] * 3


def test_an_unreadable_column_is_named_with_its_row_group(
    split: Splitter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nested text is not looked into; for a column of the contract that ends the file."""
    values = pa.ListArray.from_arrays([0, 1, 2, 3, 4], not_utf8([b"\xff", b"x", b"x", b"x"]))
    with pytest.raises(
        DataError, match=r"file\.parquet: column ruta_id \(list<.*\) cannot be decoded: .*write the file"
    ):
        split(order_table({ROUTE: values}))


class _Kms(pe.KmsClient):
    def wrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64decode(key)


def encrypted(path: Path, table: pa.Table, columns: list[str], *, plain_footer: bool) -> Path:
    factory = pe.CryptoFactory(lambda config: _Kms())
    config = pe.EncryptionConfiguration(footer_key="k", column_keys={"c": columns}, plaintext_footer=plain_footer)
    keys = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(path, table.schema, encryption_properties=keys) as writer:
        writer.write_table(table)
    return path


def test_encrypted_files_are_refused_unless_the_column_is_not_needed(split: Splitter, tmp_path: Path) -> None:
    table = order_table({"extra": ["s"] * 4, CLIENT: ["X", "C000001", "C000002", "c000003"]})
    closed = encrypted(tmp_path / "closed.parquet", table, [CLIENT], plain_footer=False)
    with pytest.raises(DataError, match=r"closed\.parquet: an encrypted parquet file.*without encryption"):
        split(closed)
    half = encrypted(tmp_path / "half.parquet", table, [CLIENT, COUNTRY, "extra"], plain_footer=True)
    with pytest.raises(DataError, match=r"half\.parquet: encrypted columns: cliente_id, pais_cd; .*without encryption"):
        split(half)
    result = split(encrypted(tmp_path / "extra.parquet", table, ["extra"], plain_footer=True))
    assert (result.report.accepted, result.report.quarantined) == (3, 1)
    assert json.loads(result.quarantined[0]["row"])["extra"] == "(encrypted)"


def test_a_log_line_stays_one_line_and_a_traceback_is_indented() -> None:
    record = logging.makeLogRecord({"levelname": "ERROR", "msg": "bad drop=%s", "args": ("a\nERROR forged\r\x85",)})
    formatter = VisibleFormatter("%(levelname)s %(message)s")
    assert formatter.format(record) == r"ERROR bad drop=a; ERROR forged; \u0085"
    try:
        raise ValueError("first\nERROR forged")
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *trace = formatter.format(record).split("\n")
    assert first.startswith("ERROR bad") and trace and all(line.startswith("  ") for line in trace)


def test_an_absent_value_is_shown_as_null_and_repeated_rows_as_a_warning(
    split: Splitter, caplog: pytest.LogCaptureFixture
) -> None:
    missing = split(order_table({CLIENT: [None, " ", "C000001", "C000002"]}))
    label = f"{CLIENT}: not_null"
    assert sorted(missing.report.with_examples(label).split("(found ")[1][:-1].split(", ")) == ["' '", "null"]
    level = split(order_table({CLIENT: ["null", "C000001", "C000002", "C000003"]}))
    assert level.report.with_examples(next(iter(level.report.reasons))).endswith("(found 'null')")
    row = order_table(rows=1)
    repeated = split(pa.concat_tables([row] * 4))
    with caplog.at_level(logging.WARNING):
        log_report(repeated.report, "score")
    assert repeated.report.accepted == 4
    assert "rows_warned file=file.parquet rows=3 rule=all columns: unique_row" in caplog.text


@pytest.mark.parametrize("zone", ["tzlocal()", "SA Pacific Standard Time", "Perú/Lima\u200b"])
def test_an_invalid_time_zone_is_named(split: Splitter, zone: str) -> None:
    values = pa.array([datetime(2024, 3, 5)] * 4, pa.timestamp("us", zone))
    with pytest.raises(DataError) as error:
        split(order_table({DAY: values}))
    message = str(error.value)
    assert (
        f"file.parquet: column {DAY}: the time zone '{visible(zone)}' is not known" in message
        and "write an IANA" in message
    )
    assert split(order_table({"extra": values, CLIENT: ["X", *["C000001"] * 3]})).report.quarantined == 1


def test_messages_and_logs_show_invisible_characters(split: Splitter, caplog: pytest.LogCaptureFixture) -> None:
    assert str(DataError("a\u200b.parquet:\nb\x00")) == "a\\u200b.parquet:\nb\\x00"
    shown = VisibleFormatter("%(message)s").format(logging.makeLogRecord({"msg": "x=%s", "args": ("\ufeffEC",)}))
    assert shown == r"x=\ufeffEC"
    result = split(order_table({COUNTRY: ["E\u200bC", "ec\u00a0", "EC", "EC"], "more": ["x"] * 4}))
    with caplog.at_level(logging.INFO):
        log_report(result.report, "score")
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any(line.startswith("rows_warned file=file.parquet rows=1 rule=pais_cd: domain") for line in lines)
    assert any(r"(found 'E\u200bC')" in line for line in lines)
    assert any("ignored=('more',)" in line for line in lines)
    assert "rows_normalised file=file.parquet rows=1 rule=pais_cd: trim + upper" in caplog.text


def test_messages_name_a_remedy(split: Splitter, contract: Contract) -> None:
    def without(step: Any) -> Contract:
        column = contract.columns[DAY]
        kept = tuple(s for s in column.normalise if not (s == step or hasattr(s, step)))
        return contract.model_copy(
            update={"columns": contract.columns | {DAY: column.model_copy(update={"normalise": kept})}}
        )

    cases = [
        (
            DAY,
            pa.array(["2024-03-05"] * 4, pa.large_string()),
            without("date_formats"),
            "add date_formats to its normalise",
        ),
        (DAY, pa.array([datetime(2024, 3, 5, 12)] * 4), without("day_of_timestamp"), "add day_of_timestamp to its"),
        (DAY, pa.array(["05.03.2024"] * 4), contract, "write it as YYYY-MM-DD or DD/MM/YYYY"),
        ("materiales_distintos_val", pa.array([True] * 4), contract, "bool is not int64; deliver whole numbers"),
        (DAY, pa.array([20240305] * 4), contract, "int64 is not date; deliver dates or timestamps"),
    ]
    for column, values, own, remedy in cases:
        result = split(order_table({column: values}), own=own)
        assert {r[1] for r in result.reasons()} == {column} and remedy in result.reasons()[0][3], remedy
        label = f"{column}: {result.reasons()[0][3]}"
        assert result.report.examples[label] and "(found '" in result.report.with_examples(label)
