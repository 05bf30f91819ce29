"""A drop of ten thousand files, as Spark leaves them, beside one file with the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene
from benchmarks.scored_drops import put, scored_once

ROUNDS = 3
PARTS, ROWS = 10_000, 12_500_000


@measurement
def folder_drop(scene: Scene) -> Iterator[Row]:
    """The same rows by the whole command, in turn from one file and from a folder of 10,000 files."""
    files: list[float] = []
    folders: list[float] = []
    for seed in range(1, ROUNDS + 1):
        path = put(scene, f"one-{seed}.parquet", ROWS, 300 + seed)
        folder = _in_parts(path, path.with_name(f"many-{seed}"))
        files.append(scored_once(scene, path.name, ROWS)[0].seconds)
        folders.append(scored_once(scene, folder.name, ROWS)[0].seconds)
    yield Row(
        f"score {ROWS:,} rows from {PARTS:,} files / from one file",
        median(many / one for many, one in zip(folders, files, strict=True)),
        "×",
        1.2,
        Beside("from one file, whole command, s", median(files)),
        f"median of {ROUNDS} pairs",
    )


def _in_parts(path: Path, folder: Path) -> Path:
    """The rows of a file in many files, complete when the marker is there."""
    folder.mkdir()
    numbers = iter(range(PARTS))
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS // PARTS):
            with pq.ParquetWriter(folder / f"part-{next(numbers):05d}.snappy.parquet", batch.schema) as part:
                part.write_batch(batch)
    (folder / "_SUCCESS").touch()
    return folder
