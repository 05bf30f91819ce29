"""A home of Apex with its own services, steps called in this process, and the `apex` command in another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from apex_ml.adapters.postgres.connection import search_path
from apex_ml.adapters.postgres.migrations import migrate_schema
from apex_ml.adapters.storage.storage import Storage
from apex_ml.adapters.storage.stores import open_storage
from apex_ml.contract.pipeline import Pipeline
from apex_ml.faults import HALT
from apex_ml.pipeline_settings import pipeline_variables
from apex_ml.pipeline_values import is_pipeline_argument
from apex_ml.pipelines import load_pipeline
from apex_ml.services.run_folder import StepContext
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.forked_command import Done, Forked, forked
from tests.support.schema import SCHEMA

ORIGIN = "http://airflow.test/dags/orders_retrain/runs/manual__2026-01-02T03%3A04%3A05%2B00%3A00"
COMMAND = [sys.executable, "-c", "from apex_ml.cli.main import main; main()"]


def context_of(settings: Settings, run: str) -> StepContext:
    """What the command gives a step."""
    return StepContext(settings, load_pipeline(settings), run)


def single_pipeline_home(folder: Path, name: str, mlflow_server: str, databases: Mapping[str, Any]) -> Apex:
    """A home with the pipeline of a name in the folder, and its tables."""
    settings = Settings.load(
        home=folder / "home",
        pipelines=folder / "pipelines",
        pipeline=name,
        mlflow_tracking_uri=mlflow_server,
        threads=1,
        **databases,
    )
    migrate_schema(settings, load_pipeline(settings).contract, name)
    return Apex(settings, name)


def changed(settings: Settings, **changes: Any) -> Settings:
    """The settings with other values, also of their pipeline: ``trials=3`` or ``model__trials=3``."""
    of_pipeline = {name: changes.pop(name) for name in [*changes] if is_pipeline_argument(name)}
    if file := changes.pop("contract", None):
        settings = settings.with_pipeline_file(file)
    assert changes.keys() <= Settings.model_fields.keys()
    return settings.model_copy(update=changes).with_pipeline_values(**of_pipeline)


@dataclass(frozen=True)
class Apex:
    """Settings of one home, and ways to work in it."""

    settings: Settings
    schema: str = SCHEMA
    """The schema whose tables :meth:`sql` finds without naming it."""

    def but(self, **changes: Any) -> Apex:
        """The same home with other settings."""
        return replace(self, settings=changed(self.settings, **changes))

    def context(self, run: str) -> StepContext:
        return context_of(self.settings, run)

    @property
    def pipeline(self) -> Pipeline:
        return load_pipeline(self.settings)

    @property
    def processed(self) -> Path:
        return Path(load_pipeline(self.settings).locations.processed)

    @property
    def inbox(self) -> Path:
        folder = Path(load_pipeline(self.settings).locations.drops) / "inbox"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def storage(self) -> Storage:
        """Where the drops are, with inbox/, done/ and quarantine/."""
        places = self.pipeline.locations
        return open_storage(places, places.drops, "locations.drops")

    def deliver(self, name: str, content: bytes) -> None:
        """Put a drop into the inbox, in a folder or in an object store."""
        self.storage.put(f"inbox/{name}", content)

    def environment(self, **extra: str) -> dict[str, str]:
        """Environment of the command: nothing of the developer's own settings; a DAG run is its origin."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("APEX_")}
        inputs = {
            f"APEX_{name.upper()}": str(getattr(self.settings, name))
            for name in self.settings.model_fields_set
            if isinstance(getattr(self.settings, name), str | int | Path) and getattr(self.settings, name) != ""
        }
        given = inputs | pipeline_variables(self.settings)
        return kept | {"APEX_ORIGIN": ORIGIN} | given | {"PYTHONWARNINGS": "default"} | extra

    def call(self, *arguments: str, holder: int = 0, **extra: str) -> Done:
        """Run `apex ARGUMENTS` to its end; keyword arguments are environment variables.

        The process is forked from one that has imported the steps, and is in the mount namespace of the process
        `holder` if given.
        """
        with self.forked(*arguments, holder=holder, **extra) as command:
            return command.ended()

    def call_in_new_process(self, *arguments: str, before: Sequence[str] = (), **extra: str) -> Done:
        """The same in a process that imports everything itself, begun by the command `before` if given."""
        done = subprocess.run(
            [*before, *COMMAND, *arguments],
            env=self.environment(**extra),
            cwd=CODE_ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Done.of(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def forked(self, *arguments: str, holder: int = 0, **extra: str) -> Iterator[Forked]:
        """Begin the command as `call` does; it does not outlive the block."""
        with forked(arguments, self.environment(**extra), holder) as command:
            yield command

    @contextmanager
    def halted(self, point: str, *arguments: str) -> Iterator[Forked]:
        """The command standing still at a fault point."""
        with self.forked(*arguments, APEX_FAULT=point + HALT) as command:
            deadline = time.monotonic() + 60
            while psutil.Process(command.process.pid).status() != psutil.STATUS_STOPPED:
                assert command.process.is_alive() and time.monotonic() < deadline, command.ended(0)
                time.sleep(0.01)
            yield command

    def sql(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query as the writer."""
        with (
            closing(psycopg2.connect(self.settings.writer_url, options=search_path(self.schema))) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def leftovers(self) -> list[Path]:
        """Files and folders of work that did not end."""
        return [p for p in self.settings.home.rglob("*") if p.name.endswith((".partial", ".tmp"))] + [
            p for p in self.processed.rglob("*") if p.name.endswith((".partial", ".tmp"))
        ]
