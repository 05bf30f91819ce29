"""One step, one immutable output with a manifest. Where it is, :mod:`apex_ml.services.runs` knows.

A step gets everything that its result depends on. When the output for the same inputs is finished, its result is
returned at once. Otherwise the step works in a hidden folder, which becomes the output when it is complete.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from apex_ml import __version__
from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.adapters.storage.files import digest
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ConfigError, DataError
from apex_ml.json_text import json_file
from apex_ml.services.manifest import CodeVersion, Manifest, R
from apex_ml.services.runs import MANIFEST, Runs, list_files, open_runs
from apex_ml.settings import CODE_ROOT, Settings

logger = logging.getLogger(__name__)
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


@dataclass(frozen=True)
class StepContext:
    """The arguments of every step: the settings of the platform, the pipeline and the name of the run.

    Raises :class:`~apex_ml.errors.ConfigError` when the name of the run could leave its folder.
    """

    settings: Settings
    pipeline: Pipeline
    run: str

    def __post_init__(self) -> None:
        if not _RUN.fullmatch(self.run):
            raise ConfigError(
                f"--run {self.run!r}: use letters, digits and . _ + - (at most 200), starting with one of the first two"
            )

    @property
    def contract(self) -> Contract:
        """Contract of the pipeline."""
        return self.pipeline.contract

    @property
    def schema(self) -> str:
        """Schema of the pipeline in Postgres."""
        return self.pipeline.schema

    @property
    def model_name(self) -> str:
        """Registered model of the pipeline in MLflow."""
        return self.pipeline.model_name

    @cached_property
    def runs(self) -> Runs:
        """The outputs of all runs of the pipeline."""
        return open_runs(self.settings, self.pipeline)

    @property
    def processed(self) -> Path:
        """Folder of this machine in which steps work."""
        return self.runs.root

    def output(self, step: str, name: str = "") -> Path:
        """The local path of a file or folder that a step of this run wrote; see :meth:`Runs.output`."""
        return self.runs.output(self.run, step, name)


@lru_cache(maxsize=1)
def git_commit() -> tuple[str | None, bool]:
    """Commit of the code and whether the checkout was changed after it.

    Outside a checkout, as in an image, it is the commit of the settings, else None.
    """
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=CODE_ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=CODE_ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return Settings.load().git_commit or None, False
    return commit, bool(changed)


def read_manifest(runs: Runs, run: str, kind: type[R]) -> Manifest[R]:
    """Read the manifest of a finished step, whose result is of this kind.

    Raises :class:`~apex_ml.errors.DataError` when the step has not finished, naming the command to run, and when the
    manifest is damaged.
    """
    step = kind.STEP
    try:
        return _parse(runs, run, kind, runs.manifest(run, step))
    except FileNotFoundError as error:
        # without --force `validate` has nothing to do until new raw data arrives, and this error would come back
        command = f"apex {step}{' --force' if step == 'validate' else ''} --run {run}"
        raise DataError(f"run {run}: the step {step} has not finished; run: {command}") from error


def _parse(runs: Runs, run: str, kind: type[R], content: bytes) -> Manifest[R]:
    try:
        return Manifest.from_json(json.loads(content), kind)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # no JSON, or JSON of another shape
        place = runs.manifest_place(run, kind.STEP)
        raise DataError(f"{place}: damaged; remove it and run the step again") from error


def step_manifest(context: StepContext, kind: type[R]) -> Manifest[R]:
    """Manifest of a step of this run, as :func:`read_manifest` reads it."""
    return read_manifest(context.runs, context.run, kind)


def run_step(context: StepContext, kind: type[R], inputs: Mapping[str, Any], work: Callable[[Path], R]) -> R:
    """Do the work of a step once and return its result.

    `inputs` is everything that the result depends on, as JSON-able values; the contract is added. `work` gets the
    folder to write into and returns a small result. The manifest lists the output files with their sha256.
    """
    step = kind.STEP
    inputs = {**inputs, "contract_sha256": context.contract.digest()}
    key = digest(inputs)
    if (result := _finished(context, kind, key)) is not None:
        return result
    started = time.monotonic()
    commit, dirty = git_commit()
    with context.runs.new_output(context.run, step) as partial:
        result = work(partial)
        outputs = list_files(partial)
        seconds = round(time.monotonic() - started, 3)
        result = replace(result, seconds=seconds)
        manifest = Manifest(
            step=step,
            run=context.run,
            key=key,
            inputs=inputs,
            code=CodeVersion(version=__version__, git_commit=commit, dirty=dirty),
            finished_at=context.settings.now().isoformat(timespec="seconds"),
            seconds=seconds,
            outputs=outputs,
            result=result,
        )
        write_atomically(partial / MANIFEST, json_file(manifest.to_json()))
    logger.info("step_done step=%s run=%s seconds=%s", step, context.run, seconds)
    return result


def _finished(context: StepContext, kind: type[R], key: str) -> R | None:
    """The result of an earlier call with the same inputs; None without one."""
    try:
        content = context.runs.manifest(context.run, kind.STEP)
    except FileNotFoundError:
        return None
    manifest = _parse(context.runs, context.run, kind, content)
    is_same = manifest.key == key
    logger.info("%s step=%s run=%s", "step_found" if is_same else "step_inputs_changed", kind.STEP, context.run)
    return manifest.result if is_same else None


def recent_manifests(
    context: StepContext, kind: type[R], accept: Callable[[Manifest[R]], bool] = lambda _: True
) -> list[Manifest[R]]:
    """The finished manifests of a step in all runs for which `accept` is true, by as_of and time, newest first."""
    runs = context.runs
    manifests = [_parse(runs, run, kind, content) for run, content in runs.manifests(kind.STEP).items()]
    accepted = [manifest for manifest in manifests if accept(manifest)]
    return sorted(accepted, key=lambda m: (m.as_of, m.finished_at, m.run), reverse=True)


def latest_manifest(
    context: StepContext, kind: type[R], accept: Callable[[Manifest[R]], bool] = lambda _: True
) -> Manifest[R] | None:
    """The newest of :func:`recent_manifests`; None without one."""
    return next(iter(recent_manifests(context, kind, accept)), None)
