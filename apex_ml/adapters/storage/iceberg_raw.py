"""Copy the current snapshot of an Iceberg table to a folder of parquet files, one for each of its data files.

The columns of the copies are those of the table as it is now: renamed columns, added ones and deleted rows are settled
by pyiceberg. A data file that was copied before is not read again.
"""

from __future__ import annotations

import json
from pathlib import Path

from pyiceberg.table import FileScanTask, StaticTable

from apex_ml.adapters.storage.atomic_writes import new_file, write_atomically
from apex_ml.adapters.storage.files import digest, map_disk_errors
from apex_ml.adapters.storage.iceberg_files import open_iceberg, refusal, version_of, write_tasks
from apex_ml.adapters.storage.mirror import locked
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.table_formats import TABLE_RECORD
from apex_ml.errors import DataError
from apex_ml.json_text import json_file


def copy_iceberg(storage: Storage, url: str, folder: Path, max_bytes: int) -> int:
    """Make a folder hold the rows of the table's current snapshot; returns the number of its data files.

    Waits for another process that does the same. Raises :class:`~apex_ml.errors.DataError` for a table that cannot be
    read, for one with more than `max_bytes`, and when a file of the snapshot is gone.
    """
    table = open_iceberg(storage, url)
    snapshot = None if table is None else table.current_snapshot()
    if table is None or snapshot is None:
        raise DataError(f"{url}: the Iceberg table has no rows yet; append some, or correct the location")
    with map_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        tasks = _plan(table, url)
        if (size := sum(task.file.file_size_in_bytes for task in tasks.values())) > max_bytes:
            raise DataError(
                f"{url}: {size:,} bytes are more than the copies of a pipeline's raw files may have"
                f" ({max_bytes:,}: APEX_SPOOL_MB); allow more"
            )
        for path in folder.iterdir():
            if path.name not in tasks:
                path.unlink()
        for name, task in tasks.items():
            if not (folder / name).exists():
                _copy(table, url, task, folder / name)
        record = version_of(table, snapshot, url).as_dict() | {"files": sorted(tasks)}
        write_atomically(folder / TABLE_RECORD, json_file(record))
    return len(tasks)


def _plan(table: StaticTable, url: str) -> dict[str, FileScanTask]:
    """The data files of the snapshot, by the names of their copies."""
    try:
        tasks = list(table.scan().plan_files())
    except (ValueError, NotImplementedError) as error:
        why = "it has equality deletes" if "equality deletes" in str(error) else str(error).splitlines()[0][:300]
        raise refusal(url, why) from error
    except FileNotFoundError as error:
        raise _gone(url, error) from error
    schema = table.schema()
    columns = json.loads(schema.model_dump_json())["fields"]
    named = {}
    for task in tasks:
        deletes = sorted(file.file_path for file in task.delete_files)
        stem = task.file.file_path.rpartition("/")[2].rpartition(".")[0][-120:]
        named[f"{stem}-{digest([task.file.file_path, deletes, columns])[:12]}.parquet"] = task
    return named


def _copy(table: StaticTable, url: str, task: FileScanTask, path: Path) -> None:
    try:
        with new_file(path) as temporary:
            write_tasks(table, url, [task], temporary)
    except FileNotFoundError as error:
        raise _gone(url, error) from error


def _gone(url: str, error: FileNotFoundError) -> DataError:
    return DataError(
        f"{url}: a file of its current snapshot is gone ({error}): it expired while it was read, or was deleted; run"
        " again"
    )
