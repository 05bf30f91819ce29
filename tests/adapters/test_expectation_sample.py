"""Great Expectations validates a sample of a large batch: bounded, reproducible, from every file, and reported."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.expectations.project import BatchVerdict, check_batch, name_source, rows_to_check
from apex_ml.contract.model import Contract
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import Settings

ROWS, FILES = 8_000, 4


@pytest.fixture
def accepted(orders: pa.Table, contract: Contract, tmp_path: Path) -> Path:
    folder = tmp_path / "accepted"
    folder.mkdir()
    columns = [orders.column(name).cast(column.arrow_type) for name, column in contract.columns.items()]
    table = pa.table(columns, names=list(contract.columns)).slice(0, ROWS)
    for number in range(FILES):
        part = table.slice(number * ROWS // FILES, ROWS // FILES)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=500)
    return folder


def _rows_to_check(settings: Settings, accepted: Path) -> tuple[pa.Table, int]:
    return rows_to_check(settings, load_pipeline(settings), accepted)


def test_a_batch_within_the_limit_is_validated_in_full(
    home: Callable[..., Settings], contract: Contract, accepted: Path
) -> None:
    table, of_rows = _rows_to_check(home(expectation_rows=ROWS), accepted)
    assert table.num_rows == of_rows == ROWS
    assert BatchVerdict(1, (), (), accepted, ROWS, ROWS).rows_in_words == "all 8,000 accepted rows"


def test_a_larger_batch_uses_the_same_sample_each_time(
    home: Callable[..., Settings], contract: Contract, accepted: Path
) -> None:
    limit = 2_000
    (table, of_rows), (second, _) = (_rows_to_check(home(expectation_rows=limit), accepted) for _ in range(2))
    assert of_rows == ROWS and table.equals(second)
    assert table.column_names == list(contract.columns)
    assert abs(table.num_rows - limit) < 5 * (limit * (1 - limit / ROWS)) ** 0.5
    known = [set(map(str, pq.read_table(path).to_pylist())) for path in sorted(accepted.glob("*.parquet"))]
    drawn = set(map(str, table.to_pylist()))
    assert drawn <= set().union(*known)
    for rows in known:
        assert len(rows & drawn) == pytest.approx(limit / FILES, rel=0.25)


def test_data_docs_show_the_number_of_validated_rows(
    home: Callable[..., Settings], contract: Contract, accepted: Path
) -> None:
    settings = home(expectation_rows=1_000)
    verdict = check_batch(settings, load_pipeline(settings), "train", accepted, "night", date(2100, 1, 1))
    assert verdict.errors == () and 800 < verdict.rows < 1_200 and verdict.of_rows == ROWS
    name_source(settings, load_pipeline(settings), verdict, "night", "/raw <folder>", "d" * 64)
    page = verdict.page.read_text()
    assert f"a sample of {verdict.rows:,} of 8,000 accepted rows" in page and "raw data /raw &lt;folder&gt;" in page
    assert "Airflow run" not in page  # started on the command line


def test_a_verdict_without_a_page_is_not_marked(home: Callable[..., Settings], tmp_path: Path) -> None:
    settings = home()
    name_source(
        settings, load_pipeline(settings), BatchVerdict(0, (), (), tmp_path / "none.html"), "night", "/raw", "d" * 64
    )
    assert list(tmp_path.glob("*.html")) == []
