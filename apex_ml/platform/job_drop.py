"""The drop of the main job: a file that a user names, generated rows, or the newest day of the raw data."""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from rich.console import Console

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.parquet_files import check_parquet
from apex_ml.adapters.storage.stores import open_storage
from apex_ml.adapters.storage.text_rows import is_text_table
from apex_ml.adapters.storage.waiting import INBOX, PLACE
from apex_ml.contract.file_format import PARQUET, FileFormat
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.pipeline import Pipeline, PipelineSettings
from apex_ml.errors import ConfigError, DataError
from apex_ml.file_names import hidden
from apex_ml.json_text import json_text
from apex_ml.services.held_back import find_held_back
from apex_ml.services.raw_rows import raw_as_parquet
from apex_ml.services.results import EltResult, ValidateResult
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.settings import Settings
from apex_ml.steps.removal import INVENTED
from apex_ml.wording import counted

DROP_ROWS = 100_000


@dataclass(frozen=True)
class JobDrop:
    """A drop to score: the name under which it goes into the inbox, its content, and its description for the user."""

    name: str
    content: bytes
    description: str

    @property
    def sha256(self) -> str:
        """The key of the drop in the ledger."""
        return hashlib.sha256(self.content).hexdigest()


def deliver(pipeline: PipelineSettings, drop: JobDrop) -> None:
    """Put a drop into the inbox, if it is not there.

    Raises :class:`~apex_ml.errors.ConfigError` when another drop of this name waits, or when Apex only reads the
    bucket of the drops.
    """
    url = pipeline.locations.drops
    if pipeline.drops_are_appends:
        raise ConfigError(f"{url}: the drops are the appends to this table, which Apex only reads; append rows to it")
    if is_object_store(url) and pipeline.options.scoring.after == "keep":
        raise ConfigError(
            f"{url}: Apex only reads it (scoring.after: keep); put the drop there yourself, with a key of its own"
        )
    storage, key = open_storage(pipeline.locations, url, PLACE), f"{INBOX}/{drop.name}"
    if not storage.exists(key):
        storage.put(key, drop.content)
        return
    with storage.open(key) as file:
        if file.read() != drop.content:
            raise ConfigError(f"{url}/{key}: another file of this name waits to be scored; give the drop another name")


def inbox(pipeline: PipelineSettings) -> Path:
    """Return the folder where the drops of a pipeline arrive."""
    return local_folder(pipeline.locations.drops, PLACE) / INBOX


def check_drop(path: Path, form: FileFormat = PARQUET) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` for a drop that the inbox of a pipeline would not accept."""
    if path.is_dir():
        raise ConfigError(f"--drop {path}: is a folder; name a single file")
    if not path.is_file():
        raise ConfigError(f"--drop {path}: there is no such file")
    if hidden(path.name):
        raise ConfigError(f"--drop {path}: its name is that of an unfinished file; rename it")
    try:
        if not is_text_table(path, form):
            check_parquet(path)
    except DataError as error:
        raise ConfigError(f"--drop {path}: {error}") from error


def next_run_number(settings: Settings) -> int:
    """Return 1, 2, 3, … over all main jobs of this home; concurrent callers get different numbers."""
    settings.state.mkdir(parents=True, exist_ok=True)
    counter = settings.state / "run_counter.json"
    with (settings.state / "run_counter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            number = int(json.loads(counter.read_text())["runs"]) + 1
        except FileNotFoundError:
            number = 1
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'{counter}: damaged, expected {{"runs": N}}; remove it to count from 1 again') from error
        write_atomically(counter, json_text({"runs": number}).encode())
    return number


def named_drop(path: Path) -> JobDrop:
    """Return a file of the user as the drop."""
    return JobDrop(path.name, path.read_bytes(), f"the file {path}")


def generated_drop(settings: Settings, pipeline: Pipeline) -> JobDrop:
    """Generate rows of the clients of the raw data, dated the day after its newest."""
    from apex_ml.simulate.drop import make_drop

    number, as_of = next_run_number(settings), _as_of(settings, pipeline)
    with tempfile.TemporaryDirectory(prefix="apex-drop-") as folder, raw_as_parquet(settings, pipeline) as raw:
        path = Path(folder) / f"{INVENTED}{as_of}-{number:04}.parquet"
        generated = make_drop(str(raw), as_of, DROP_ROWS, number, path, pipeline.contract)
        rows, clients = f"{generated.rows:,} invented {pipeline.rows}", counted(generated.clients, "client")
        description = f"{rows} of {clients} dated {as_of}, seed {number}"
        return JobDrop(path.name, path.read_bytes(), description)


def held_back_drop(
    settings: Settings, pipeline: Pipeline, console: Console, validated: ValidateResult | None
) -> JobDrop | None:
    """Return the newest day of the raw data, which validate held back, now or in an earlier run; None without one."""
    context = StepContext(settings, pipeline, "main")
    held_back = None if validated is None else find_held_back(context, validated.data_sha256)
    if held_back is None:
        console.print(
            "No drop: the raw data holds one day only, or the run that held its newest day back was removed. "
            "Put a file into the inbox, or name one: DROP=file.parquet make run",
            markup=False,
        )
        return None
    held, path = held_back
    description = (
        f"the {held.rows:,} {pipeline.rows} of {held.day}, the newest day of the raw data, held back from training"
    )
    if held.day is None:
        description = f"{held.rows:,} {pipeline.rows}, a random part of the raw data, held back from training"
    return JobDrop(f"held-back-{held.day or held.sha256[:12]}.parquet", path.read_bytes(), description)


def _as_of(settings: Settings, pipeline: Pipeline) -> date:
    """Return the day after the newest row of the training data."""
    manifest = latest_manifest(StepContext(settings, pipeline, "main"), EltResult)
    if manifest is None:
        raise DataError(
            f"no finished elt step below {pipeline.locations.processed}: retrain first: {pipeline.command('retrain')}"
        )
    return manifest.result.as_of
