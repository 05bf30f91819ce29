"""Random damage never gives a traceback, a hang, a crash or a row that breaks the contract.

The damaged files of corruptions.py are checked in separate processes, so that a crash of native code is reported with
its file. Each file must be refused by a DataError that names it, or give a correct result: no row is lost, and no
accepted row violates the contract.

What can be detected, and what cannot. Parquet guards pages by a CRC32 where the writer leaves one: Spark does (the real
files carry them), PyArrow only when asked, DuckDB never. Such a changed page is always refused (`certain` cases). In a
file without checksums changed bytes can decode to other values. Apex checks these like all others, so that accepted
rows satisfy the contract, but it cannot detect a valid value that became another valid one. The same holds for the
footer and the page headers, which parquet never guards: a renamed column there is a missing and an added one.

APEX_TEST_FUZZ=2000 checks as many; 500 are checked without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.file_schema import read_schema
from apex_ml.adapters.storage.parquet_pages import verify_pages
from apex_ml.errors import DataError
from apex_ml.settings import Settings
from apex_ml.simulate.files import write_part

CASES = int(os.environ.get("APEX_TEST_FUZZ", "500"))
PARTS = 4
SECONDS_A_CASE = 60.0


@pytest.fixture(scope="module")
def sources(healthy_orders: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files to damage: one as Spark writes it, one with checksums, and two slices of the real ones where they are."""
    folder = tmp_path_factory.mktemp("sources")
    orders = healthy_orders.slice(0, 2_000)
    write_part(orders, folder / "spark.parquet", plain=frozenset({"cliente_id"}))
    pq.write_table(orders, folder / "sums.parquet", write_page_checksum=True, compression="none", use_dictionary=False)
    files = sorted(folder.iterdir())
    if raw := os.environ.get("APEX_TEST_RAW"):
        for nr, path in enumerate(sorted(Path(raw).glob("*.parquet"))[:2]):
            piece = pq.read_table(path).slice(7_000 * nr, 2_000)
            target = folder / f"real-{nr}.parquet"
            pq.write_table(piece, target, use_deprecated_int96_timestamps=True, store_schema=False)
            files.append(target)
    return files


def run(numbers: range, sources: list[Path], folder: Path) -> list[dict[str, Any]]:
    """Outcomes of the damaged files of these numbers. A worker that dies or hangs is reported and replaced."""
    results: list[dict[str, Any]] = []
    first = numbers.start
    while first < numbers.stop:
        log = folder / f"{first}.jsonl"
        command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("fuzz_worker.py")), str(folder)]
        command += [str(n) for n in (first, numbers.stop, numbers.step)] + [str(path) for path in sources]
        with log.open("wb") as out, (folder / "stderr").open("wb") as err:
            worker = subprocess.Popen(command, stdout=out, stderr=err)
            grown, size = time.monotonic(), 0
            while worker.poll() is None and time.monotonic() - grown < SECONDS_A_CASE:
                time.sleep(0.05)
                if log.stat().st_size > size:
                    grown, size = time.monotonic(), log.stat().st_size
            hangs = worker.poll() is None
            if hangs:
                worker.kill()
            worker.wait()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        results += [line for line in lines if "number" in line]
        if worker.returncode == 0:
            break
        at = lines[-1].get("at") if lines else None
        words = (folder / "stderr").read_text()[-1_500:]
        assert at is not None, f"the worker failed between files: {words}"
        why = f"hangs for {SECONDS_A_CASE:g} s" if hangs else f"ends with {worker.returncode}: {words}"
        results.append({"number": at, "what": f"number {at}", "state": "wrong", "why": why})
        first = at + numbers.step
    return results


@pytest.mark.parametrize("part", range(PARTS))
def test_a_damaged_file_is_refused_or_read_correctly(sources: list[Path], tmp_path: Path, part: int) -> None:
    numbers = range(part, CASES, PARTS)
    result = run(numbers, sources, tmp_path)
    assert sorted(line["number"] for line in result) == list(numbers)
    wrong = [f"{line['what']}: {line['why']}" for line in result if line["state"] == "wrong"]
    assert not wrong, "\n".join(wrong[:10])
    states = Counter(line["state"] for line in result)
    if len(result) >= 100:  # some files are refused, and some are read
        assert min(states["refused"], states["right"]) > 0.2 * len(result), states


def test_real_files_with_changed_bytes_are_refused(real_raw: Path, tmp_path: Path) -> None:
    """Change one byte of each column of a real part file, one at a time, and truncate the file."""
    source = sorted(real_raw.glob("*.parquet"))[0]
    content = source.read_bytes()
    length = int.from_bytes(content[-8:-4], "little") + 8
    metadata = pq.read_metadata(source)
    chunks = [metadata.row_group(0).column(nr) for nr in range(metadata.num_columns)]
    for nr, chunk in enumerate(chunks):
        changed = bytearray(content)
        changed[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1 << (nr % 8)
        (tmp_path / f"{nr}.parquet").write_bytes(changed)
    (tmp_path / "cut.parquet").write_bytes(content[: -length // 2])
    with engine.connect(Settings.load(home=tmp_path / "home")) as con:
        for path in sorted(tmp_path.glob("*.parquet")):
            with pytest.raises(DataError, match=path.name):
                read_schema(path)
                verify_pages(con, path)
