"""The DAGs and pools that Apex needs in Airflow: what is wrong with them, and how `apex up` repairs them.

A user can delete or change each of them in Airflow's UI. A task without its pool waits forever without an error.

Every pipeline has DAGs of its own. The pools are shared: a task can be in one pool only, and the machine, not the
pipeline, limits how many steps of a kind run at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from apex_ml.adapters.postgres import administration
from apex_ml.adapters.postgres.former_dags import retire_dags
from apex_ml.contract.pipeline import DAG_KINDS, DagKind, PipelineSettings, dag_id
from apex_ml.errors import ConfigError, TransientError
from apex_ml.pipeline_settings import former_pipeline, load_all_pipeline_settings
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.services.results import ValidateResult
from apex_ml.settings import Settings

POOLS = {
    "apex_scoring": (2, "Scoring of drops."),
    "apex_training": (1, "Steps of retraining."),
    "apex_shadow": (1, "Challengers that score in shadow."),
    "apex_champion": (1, "Rollbacks, which wait for no training."),
    "apex_monitoring": (1, "Drift, quality, alerts."),
}
PARSE_SECONDS, PATIENT_SECONDS = 90.0, 5.0
"""Seconds that `apex up` waits for Airflow to read the DAG files, and seconds until it reports that."""
FORMER_PREFIX = "apex"
"""The DAGs of the first edition, which had one pipeline, were apex_retrain, apex_score, …"""
UNREADABLE = "unreadable_pipelines.py"
"""The DAG file whose import error lists the pipelines that cannot be read."""
MAX_LISTED = 5
NAMES = {"file": "DAG file", "missing": "DAG", "paused": "DAG", "new": "DAG", "first run": "DAG", "pool": "pool"}


@dataclass(frozen=True)
class Finding:
    """One finding about Airflow for the user.

    ``kind`` is a key of NAMES: a `file` that does not parse, a DAG that is `missing`, `paused` by a person, paused
    since it is `new`, or waits for the `first run`; a `pool` that is gone or has no slot.
    """

    kind: Literal["file", "missing", "paused", "new", "first run", "pool"]
    subject: str
    problem: str
    remedy: str

    @property
    def name(self) -> str:
        """The subject of the finding."""
        return f"{NAMES[self.kind]} {self.subject}"

    @property
    def well(self) -> bool:
        """Whether the state is currently intended."""
        return self.kind == "first run"


def needed_dags(pipeline: PipelineSettings) -> dict[DagKind, str]:
    """The DAGs of a pipeline that must be on, by kind."""
    return {kind: pipeline.dag_id(kind) for kind in DAG_KINDS if kind != "shadow" or pipeline.options.shadow.days}


def prepare_database(settings: Settings, say: Callable[[str], None]) -> None:
    """Before Airflow starts: create the missing pools, and retire the DAGs that had no pipeline in their name.

    Changed slots stay. A DAG that was paused stays paused under its present name.
    """
    administration.make_pools(settings, POOLS)  # without its pool a task would stay scheduled forever
    name = former_pipeline(settings)
    renamed = {dag_id(FORMER_PREFIX, kind): dag_id(name, kind) if name else None for kind in DAG_KINDS}
    with administration.airflow_database(settings) as connection:
        retired = retire_dags(connection, renamed)
    for run in retired.ended:
        say(f"ended as failed, because its DAG has a new name: {run}")
    for paused in retired.paused:
        say(f"DAG {paused} is paused, as it was under its former name")


@dataclass(frozen=True)
class AirflowState:
    """What Airflow has, read once for all pipelines."""

    import_errors: Mapping[str, str]
    """The last line of the error by DAG file."""
    dags: Mapping[str, bool]
    """Whether it is paused, by DAG."""
    pools: Mapping[str, int]
    """Slots by pool."""

    @classmethod
    def read(cls, api: AirflowApi) -> AirflowState:
        """Ask Airflow. Raises :class:`~apex_ml.errors.TransientError` when it does not answer."""
        return cls(api.import_errors(), api.dags(), api.pools())

    def lacks(self, kind: DagKind, dag_id: str) -> bool:
        """Whether a DAG is missing although its file parses."""
        return dag_id not in self.dags and f"{kind}.py" not in self.import_errors


def platform_findings(settings: Settings, state: AirflowState) -> list[Finding]:
    """The problems of DAG files and pools, which all pipelines share.

    A pipeline that cannot be read is no finding: its own section of the status reports it.
    """
    _, faults = load_all_pipeline_settings(settings)
    results = [
        Finding("file", file, f"does not parse: {error}", "correct it; its log: make logs S=airflow-dag-processor")
        for file, error in state.import_errors.items()
        if file != UNREADABLE or not faults
    ]
    pools = state.pools
    for name in POOLS:
        if name not in pools:
            results.append(Finding("pool", name, "does not exist, so its tasks wait forever", "make up"))
        elif pools[name] == 0:
            results.append(Finding("pool", name, "has no slot, so its tasks wait forever", "make up"))
    return results


def pipeline_findings(
    settings: Settings, api: AirflowApi, state: AirflowState, pipeline: PipelineSettings
) -> list[Finding]:
    """The problems of a pipeline's DAGs; also a DAG that waits for the first run.

    Raises :class:`~apex_ml.errors.TransientError` when Airflow does not answer.
    """
    results = []
    for kind, dag in needed_dags(pipeline).items():
        if state.lacks(kind, dag):
            results.append(Finding("missing", dag, "is not in Airflow: it was deleted, or not read yet", "make up"))
        elif state.dags.get(dag):
            results.append(_paused(settings, api, pipeline, kind))
    return results


def repair(settings: Settings, api: AirflowApi, say: Callable[[str], None], *, seconds: float = PARSE_SECONDS) -> None:
    """Restore missing pools and the DAGs of all pipelines; report the repairs and what the user must do.

    The size of a pool stays unless it is zero, and a DAG that a user paused stays paused. A pipeline that cannot be
    read is reported; it stops no other.
    """
    pipelines, faults = load_all_pipeline_settings(settings)
    pools = api.pools()
    for name, (slots, description) in POOLS.items():
        if not pools.get(name):
            api.make_pool(name, slots, description)
            say(f"pool {name} {'had no slot' if name in pools else 'was deleted'}: it has {slots} again")
    _wait_for_dags(pipelines, api, say, seconds)
    state = AirflowState.read(api)
    results = platform_findings(settings, state)
    for pipeline in pipelines:
        results += pipeline_findings(settings, api, state, pipeline)
    for finding in results:
        if finding.kind == "new":
            api.unpause(finding.subject)
            say(f"{finding.name} was paused since Airflow created it: it is on now")
        elif not finding.well:
            say(f"{finding.name} {finding.problem}; remedy: {finding.remedy}")
    for name, fault in faults.items():
        say(f"pipeline {name} has no DAGs: {fault}")


def _paused(settings: Settings, api: AirflowApi, pipeline: PipelineSettings, kind: DagKind) -> Finding:
    dag_id = pipeline.dag_id(kind)
    who = api.paused_by(dag_id)
    if who is not None:
        return Finding("paused", dag_id, f"is paused by {who}", f"apex unpause {dag_id}")
    if kind == "retrain" and not _was_validated(settings, pipeline):
        remedy = f"make run P={pipeline.name}; or put raw files, then {pipeline.command('retrain')}"
        return Finding("first run", dag_id, "is paused until the first run", remedy)
    return Finding("new", dag_id, "is paused since Airflow created it", "make up")


def _was_validated(settings: Settings, pipeline: PipelineSettings) -> bool:
    """Whether raw data of the pipeline was ever validated."""
    # Airflow's own image, where the pools are made, has none of the packages of steps
    from apex_ml.pipelines import load_pipeline
    from apex_ml.services.run_folder import StepContext, latest_manifest

    try:
        full = load_pipeline(settings.model_copy(update={"pipeline": pipeline.name}))
        return latest_manifest(StepContext(settings, full, "status"), ValidateResult) is not None
    except (ConfigError, TransientError):  # a fault of its contract, or of its store, alone: the steps report it
        return False


def _wait_for_dags(
    pipelines: Sequence[PipelineSettings], api: AirflowApi, say: Callable[[str], None], seconds: float
) -> None:
    """Wait until Airflow has read every DAG that is needed and whose file parses."""
    began, silent = time.monotonic(), True
    needed = [(kind, dag_id) for pipeline in pipelines for kind, dag_id in needed_dags(pipeline).items()]
    while True:
        state = AirflowState.read(api)
        # Airflow's processes can have other variables, with which it cannot read a pipeline
        stuck = UNREADABLE in state.import_errors
        missing = [dag_id for kind, dag_id in needed if state.lacks(kind, dag_id)]
        waited = time.monotonic() - began
        if not missing or waited > (PATIENT_SECONDS if stuck else seconds):
            return
        if silent and waited > PATIENT_SECONDS:
            more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
            say(f"waiting for Airflow to read {', '.join(missing[:MAX_LISTED])}{more}")
            silent = False
        time.sleep(0.5)
