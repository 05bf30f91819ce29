"""The DAGs and pools that Apex needs in Airflow: what is wrong with them, and how `apex up` repairs them.

A user can delete or change each of them in Airflow's UI. A task without its pool waits forever without an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from apex_ml.adapters.postgres import administration
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.services.results import ValidateResult
from apex_ml.settings import Settings

RETRAIN, SCORE, MONITOR, ROLLBACK, SHADOW = (
    "orders_retrain",
    "orders_score",
    "orders_monitor",
    "orders_rollback",
    "orders_shadow",
)
DAGS = (RETRAIN, SCORE, MONITOR, ROLLBACK, SHADOW)
POOLS = {
    "orders_scoring": (2, "Scoring of drops."),
    "orders_training": (1, "Steps of orders_retrain."),
    "orders_shadow": (1, "Challengers that score in shadow."),
    "orders_champion": (1, "Rollbacks, which wait for no training."),
    "apex_monitoring": (1, "Drift, quality, alerts."),
}
PARSE_SECONDS, PATIENT_SECONDS = 90.0, 5.0
"""Seconds that `apex up` waits for Airflow to read the DAG files, and seconds until it reports that."""
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


def needed_dags(settings: Settings) -> tuple[str, ...]:
    """The DAGs that must be on with these settings."""
    shadow_days = load_pipeline_settings(settings).options.shadow.days
    return tuple(dag_id for dag_id in DAGS if dag_id != SHADOW or shadow_days)


def make_pools(settings: Settings) -> None:
    """Create the missing pools; changed slots stay."""
    administration.make_pools(settings, POOLS)  # without its pool a task would stay scheduled forever


def findings(settings: Settings, api: AirflowApi) -> list[Finding]:
    """The problems of DAG files, DAGs and pools with their remedies; also a DAG that waits for the first run.

    Raises :class:`~apex_ml.errors.TransientError` when Airflow does not answer.
    """
    errors, dags, pools = api.import_errors(), api.dags(), api.pools()
    results = [
        Finding("file", file, f"does not parse: {error}", "correct it; its log: make logs S=airflow-dag-processor")
        for file, error in errors.items()
    ]
    for dag_id in needed_dags(settings):
        if dag_id not in dags and _file_of(dag_id) not in errors:
            results.append(Finding("missing", dag_id, "is not in Airflow: it was deleted, or not read yet", "make up"))
        elif dags.get(dag_id):
            results.append(_paused(settings, api, dag_id))
    for name in POOLS:
        if name not in pools:
            results.append(Finding("pool", name, "does not exist, so its tasks wait forever", "make up"))
        elif pools[name] == 0:
            results.append(Finding("pool", name, "has no slot, so its tasks wait forever", "make up"))
    return results


def repair(settings: Settings, api: AirflowApi, say: Callable[[str], None], *, seconds: float = PARSE_SECONDS) -> None:
    """Restore missing pools and DAGs; report the repairs and what the user must do.

    The size of a pool stays unless it is zero, and a DAG that a user paused stays paused.
    """
    pools = api.pools()
    for name, (slots, description) in POOLS.items():
        if not pools.get(name):
            api.make_pool(name, slots, description)
            say(f"pool {name} {'had no slot' if name in pools else 'was deleted'}: it has {slots} again")
    _wait_for_dags(settings, api, say, seconds)
    for finding in findings(settings, api):
        if finding.kind == "new":
            api.unpause(finding.subject)
            say(f"{finding.name} was paused since Airflow created it: it is on now")
        elif not finding.well:
            say(f"{finding.name} {finding.problem}; remedy: {finding.remedy}")


def _file_of(dag_id: str) -> str:
    return f"{dag_id.rpartition('_')[2]}.py"


def _paused(settings: Settings, api: AirflowApi, dag_id: str) -> Finding:
    who = api.paused_by(dag_id)
    if who is not None:
        return Finding("paused", dag_id, f"is paused by {who}", f"apex unpause {dag_id}")
    if dag_id == RETRAIN and not _was_validated(settings):
        return Finding("first run", dag_id, "is paused until the first run", "make run; or put raw files, make train")
    return Finding("new", dag_id, "is paused since Airflow created it", "make up")


def _was_validated(settings: Settings) -> bool:
    """Whether this home has ever validated raw data."""
    # Airflow's own image, where the pools are made, has none of the packages of steps
    from apex_ml.pipelines import load_pipeline
    from apex_ml.services.run_folder import StepContext, latest_manifest

    return latest_manifest(StepContext(settings, load_pipeline(settings), "status"), ValidateResult) is not None


def _wait_for_dags(settings: Settings, api: AirflowApi, say: Callable[[str], None], seconds: float) -> None:
    """Wait until Airflow has read every DAG that is needed and whose file parses."""
    began, silent = time.monotonic(), True
    while True:
        dags, errors = api.dags(), api.import_errors()
        missing = [name for name in needed_dags(settings) if name not in dags and _file_of(name) not in errors]
        waited = time.monotonic() - began
        if not missing or waited > seconds:
            return
        if silent and waited > PATIENT_SECONDS:
            say(f"waiting for Airflow to read {', '.join(missing)}")
            silent = False
        time.sleep(0.5)
