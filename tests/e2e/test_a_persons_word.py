"""A person in Airflow: asked before a promotion, and going back by the form of apex_rollback."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from apex_home import Apex
from throwaway_home import open_folder, throwaway

from apex_ml.errors import ApexError
from apex_ml.platform import embedded
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.steps.by_hand import force

SECONDS = 300.0


def wait(api: AirflowApi, dag_id: str, run_id: str, task_id: str | None = None) -> dict[str, str | None]:
    """Wait until the run has ended, or a task of it waits for an answer; the states of its tasks."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        states = {task.task_id: task.state for task in api.task_runs(dag_id, run_id)}
        if (task_id and states.get(task_id) == "awaiting_input") or (
            not task_id and api.dag_run(dag_id, run_id).finished
        ):
            return states
        assert "failed" not in states.values(), states
        time.sleep(0.5)
    pytest.fail(f"{dag_id} {run_id}: {states}")


def parked(apex: Apex) -> None:
    """Wait until the scheduler has heard of the pause: an answer before that fails the try, and is asked for again."""
    deadline = time.monotonic() + SECONDS
    while "state=awaiting_input, executor=" not in (apex.settings.logs / "airflow-scheduler.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.platform
@pytest.mark.timeout(900)
def test_a_person_approves_and_goes_back(raw: Path) -> None:
    with open_folder() as home:
        settings = throwaway(home)
        (home / ".env").write_text(f"APEX_APPROVAL=true\nAPEX_RAW_URL={raw}\n")
        (home / ".env").chmod(0o600)
        try:
            settings = embedded.up(settings.load(home=home, **ports(settings)))
            with AirflowApi(settings, patience=120) as api:
                story(api, Apex(settings))
        finally:
            embedded.destroy(settings)


def ports(settings: Any) -> dict[str, int]:
    return {name: getattr(settings, name) for name in ("pg_port", "mlflow_port", "airflow_port")}


def story(api: AirflowApi, apex: Apex) -> None:
    def ledger() -> list[tuple[Any, ...]]:
        return apex.sql("SELECT action, from_version, to_version, who, reasons FROM apex.promotions ORDER BY 1")

    api.unpause("apex_retrain")
    first = api.trigger("apex_retrain")
    wait(api, "apex_retrain", first, "approve")
    parked(apex)
    assert ledger() == []
    place = f"/dags/apex_retrain/dagRuns/{first}/taskInstances/approve/-1/hitlDetails"
    asked = api._call("GET", place)
    assert asked["subject"] == "May version 1 become champion?" and "There is no champion" in asked["body"]
    assert (asked["options"], asked["defaults"]) == (["Approve", "Reject"], ["Reject"])
    api._call("PATCH", place, json={"chosen_options": ["Approve"], "params_input": {}})
    assert set(wait(api, "apex_retrain", first).values()) == {"success"}
    assert (api.result("apex_retrain", first, "promote") or {})["promoted"]
    ((action, before, after, who, _),) = ledger()
    assert (action, before, after, who) == ("promote", None, 1, "admin in Airflow")

    # the same data give the same model: it is no better, and nobody is asked
    second = api.trigger("apex_retrain", {"force": True})
    assert set(wait(api, "apex_retrain", second).values()) == {"success"}
    assert not (api.result("apex_retrain", second, "promote") or {})["promoted"]

    force(apex.context("by-hand"), version=2, reason="to have something to go back from", who="ann")
    with pytest.raises(ApexError, match="reason"):
        api.trigger("apex_rollback")
    back = api.trigger("apex_rollback", {"reason": "worse in the field"})
    assert wait(api, "apex_rollback", back) == {"rollback": "success"}
    assert ("rollback", 2, 1, "admin in Airflow", ["worse in the field"]) in ledger()
