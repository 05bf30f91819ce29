"""DAG runs of a running platform: whether one is still to come, and a report of them for a test that fails."""

from __future__ import annotations

from apex_ml.errors import ApexError
from apex_ml.platform.airflow_api import AirflowApi


def is_idle(api: AirflowApi, dag_id: str) -> bool:
    """Whether no run of a DAG is active and none is about to begin for an asset event that came during the last one.

    The events are asked for first: the scheduler removes an event and creates its run in one transaction.
    """
    queued = api.connection.call("GET", f"/dags/{dag_id}/assets/queuedEvents", missing=True)
    if queued and queued["queued_events"]:
        return False
    return all(run.finished for run in api.dag_runs(dag_id))


def report_runs(api: AirflowApi, *dag_ids: str) -> str:
    """The newest runs of the DAGs with their tasks, the errors of failed ones, and the asset events that wait."""
    lines = []
    for dag_id in dag_ids:
        try:
            queued = api.connection.call("GET", f"/dags/{dag_id}/assets/queuedEvents", missing=True)
            lines.append(f"{dag_id}: asset events queued: {queued and queued['queued_events']}")
            for run in api.dag_runs(dag_id, limit=5):
                lines.append(f"  {run.run_id} {run.state}, started {run.started}, ended {run.ended}")
                for task in api.task_runs(dag_id, run.run_id):
                    lines.append(
                        f"    {task.name}: {task.state}, try {task.try_number}, {task.started}, {task.seconds} s"
                    )
                    if task.state in ("failed", "up_for_retry"):
                        lines += [f"      {error}" for error in api.log(dag_id, run.run_id, task).errors]
        except ApexError as error:
            lines.append(f"{dag_id}: {error}")
    return "\n".join(lines)
