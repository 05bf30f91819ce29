"""A person in Airflow: asked before a promotion, and going back by the form of orders_rollback."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from playwright.sync_api import expect

from apex_ml.cli import platform as cli
from apex_ml.errors import ApexError
from apex_ml.platform.airflow_api import AirflowApi
from apex_ml.platform.embedded import processes, stop
from apex_ml.platform.embedded.ports import listener
from apex_ml.settings import Settings
from apex_ml.steps.manual_override import force
from tests.support.airflow_ui import browsing, keep, log_in, open_apex
from tests.support.apex_home import Apex
from tests.support.throwaway_home import ports_of

SECONDS = 300.0


def wait(api: AirflowApi, dag_id: str, run_id: str, task_id: str | None = None) -> dict[str, str | None]:
    """Wait until the run has ended, or a task of it waits for an answer; the states of its tasks."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended = api.dag_run(dag_id, run_id).finished
        if task_id or ended:  # else one request is enough
            states = {task.task_id: task.state for task in api.task_runs(dag_id, run_id)}
            if ended or states.get(str(task_id)) == "awaiting_input":
                assert "failed" not in states.values() and not (task_id and ended), states
                return states
        time.sleep(0.5)
    pytest.fail(f"{dag_id} {run_id}: {api.task_runs(dag_id, run_id)}")


def parked(apex: Apex) -> None:
    """Wait until the scheduler has heard of the pause: an answer before that fails the try, and is asked for again."""
    deadline = time.monotonic() + SECONDS
    while "state=awaiting_input, executor=" not in (apex.settings.logs / "airflow-scheduler.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.platform
@pytest.mark.timeout(900)
def test_a_user_approves_and_rolls_back(platform: tuple[AirflowApi, Apex]) -> None:
    api, apex = platform

    def ledger() -> list[tuple[Any, ...]]:
        return apex.sql("SELECT action, from_version, to_version, who, reasons FROM orders.promotions ORDER BY 1")

    api.unpause("orders_retrain")
    first = api.trigger("orders_retrain")
    wait(api, "orders_retrain", first, "approve")
    parked(apex)
    assert ledger() == []
    place = f"/dags/orders_retrain/dagRuns/{first}/taskInstances/approve/-1/hitlDetails"
    requested = api.connection.call("GET", place)
    assert requested["subject"] == "May version 1 become champion?" and "There is no champion" in requested["body"]
    assert (requested["options"], requested["defaults"]) == (["Approve", "Reject"], ["Reject"])
    api.connection.call("PATCH", place, json={"chosen_options": ["Approve"], "params_input": {}})
    assert set(wait(api, "orders_retrain", first).values()) == {"success"}
    assert (api.result("orders_retrain", first, "promote") or {})["promoted"]
    ((action, before, after, who, _),) = ledger()
    assert (action, before, after, who) == ("promote", None, 1, "admin in Airflow")

    # the same data give the same model: it is not better, and approval is skipped
    second = api.trigger("orders_retrain", {"force": True})
    assert set(wait(api, "orders_retrain", second).values()) == {"success"}
    assert not (api.result("orders_retrain", second, "promote") or {})["promoted"]

    (_, _, _, who, _) = ledger()[-1]
    assert who == "orders_retrain in Airflow, started by admin"

    force(apex.context("manual"), version=2, reason="to have something to go back from", who="ann")
    with pytest.raises(ApexError, match="reason"):
        api.trigger("orders_rollback")
    back = api.trigger("orders_rollback", {"reason": "worse in the field"})
    assert wait(api, "orders_rollback", back) == {"rollback": "success"}
    assert ("rollback", 2, 1, "admin in Airflow", ["worse in the field"]) in ledger()


@pytest.mark.platform
def test_the_page_needs_a_login(platform: tuple[AirflowApi, Apex]) -> None:
    api, apex = platform
    with httpx.Client(base_url=f"{api.connection.url}/apex", trust_env=False) as client:
        for path in ("/", "/static/page.css", "/data-docs/index.html", "/metrics"):
            assert client.get(path).status_code == 401, path
        for path in ("/", "/data-docs/index.html"):
            led = client.get(path, headers={"Accept": "text/html"}, follow_redirects=True)
            assert led.status_code == 200 and led.url.path == "/auth/login", led.url
            assert led.url.params["next"] == f"/apex{path}"
        # a token for the metrics is one for the metrics alone
        header = {"Authorization": f"Bearer {apex.settings.metrics_token.get_secret_value()}"}
        assert 'apex_champion_version{pipeline="orders"} 1.0' in client.get("/metrics", headers=header).text
        assert client.get("/", headers=header).status_code == 403


@pytest.mark.platform
@pytest.mark.browser
def test_a_user_rolls_back_on_the_page(platform: tuple[AirflowApi, Apex]) -> None:
    api, apex = platform
    settings = apex.settings
    [(loss,)] = apex.sql("SELECT challenger_log_loss FROM orders.model_history WHERE action = 'promote'")
    with browsing() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{api.connection.url}/apex/data-docs/index.html")
        page.fill("input[name=username]", "viewer")
        page.fill("input[name=password]", settings.airflow_viewer_password.get_secret_value())
        page.keyboard.press("Enter")
        page.wait_for_url(f"{api.connection.url}/apex/data-docs/index.html")
        page.get_by_role("link", name="orders", exact=True).click()
        page.wait_for_url(f"{api.connection.url}/apex/data-docs/orders/index.html")
        page.context.close()

        page = browser.new_page(viewport={"width": 1280, "height": 900})
        log_in(page, api.connection.url, "viewer", settings.airflow_viewer_password.get_secret_value())
        frame = open_apex(page)
        expect(frame.get_by_role("heading", name="Champion: version 1")).to_be_visible()
        expect(frame.get_by_text(f"Log loss {loss:.4f}, class prior")).to_be_visible()
        expect(frame.get_by_text("Roll back …")).to_have_count(0)
        refused = page.evaluate(
            "async (body) => (await fetch('/api/v2/dags/orders_rollback/dagRuns', {method: 'POST',"
            " body: JSON.stringify("
            "body), headers: {'Content-Type': 'application/json'}})).status",
            {"logical_date": None, "conf": {"reason": "a viewer may not", "version": 2}},
        )
        assert refused == 403
        page.context.close()

        page = browser.new_page(viewport={"width": 1280, "height": 900})
        log_in(page, api.connection.url, "admin", settings.airflow_admin_password.get_secret_value())
        frame = open_apex(page)
        # what a form of another site could send in the admin's name is no request to Airflow
        forged = "(body) => fetch('/api/v2/dags/orders_rollback/dagRuns', {method: 'POST', body}).then((a) => a.status)"
        assert page.evaluate(forged, '{"logical_date": null, "conf": {"reason": "forged"}}') == 422
        frame.get_by_text("Roll back …").click()
        frame.get_by_label("To").select_option("2")
        frame.get_by_label("Why").fill("by the page")
        frame.get_by_role("button", name="Roll back").click()
        # the page reloads when the run has ended
        expect(frame.get_by_role("heading", name="Champion: version 2")).to_be_visible(timeout=1000 * SECONDS)
        keep(page, "apex-in-airflow", full=False)
        with page.context.expect_page() as docs:  # out of Airflow's frame
            frame.get_by_role("link", name="Data Docs").click()
        assert docs.value.url == f"{api.connection.url}/apex/data-docs/orders/index.html"
        frame.get_by_role("link", name="rollback", exact=True).click()
        page.wait_for_url(f"{api.connection.url}/dags/orders_rollback**")
        page.context.close()
    assert apex.sql("SELECT who, reasons FROM orders.promotions WHERE to_version = 2 AND action = 'rollback'") == [
        ("admin in Airflow", ["by the page"])
    ]


@pytest.mark.platform
def test_down_leaves_nothing(new_platform: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test on this platform."""
    settings, ports = new_platform, ports_of(new_platform)
    monkeypatch.setenv("APEX_HOME", str(settings.home))
    for name, port in ports.items():
        monkeypatch.setenv(f"APEX_{name.upper()}", str(port))
    assert stop.down(settings)
    assert processes.family(settings) == []
    assert all(listener(port) is None for port in ports.values())
    status = CliRunner().invoke(cli.status, ["--check"])
    assert status.exit_code == 20 and "The platform is down" in status.output
    assert isinstance(CliRunner().invoke(cli.mlflow_ui).exception, Exception)
