"""The question before a promotion: when it is asked, and what an answer, or none, leads to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskAwaitingInput

from apex_airflow.operators.approval import APPROVE, REJECT, ApprovalOperator, answer_args

HELD = {
    "held": True,
    "challenger_version": 7,
    "champion_version": 3,
    "reasons": ["better by 0.01"],
    "evidence": {"gain": 0.01, "classes": {"a": 1}},
}


@pytest.fixture
def approval() -> ApprovalOperator:
    with DAG("orders_retrain"):
        return ApprovalOperator(
            task_id="approve", decided_by="decide", defaults=REJECT, response_timeout=timedelta(hours=2)
        )


def context(decision: Any) -> Any:
    def pull(task_ids: str, key: str) -> Any:
        assert (task_ids, key) == ("decide", "step_result")
        return decision

    ti = SimpleNamespace(xcom_pull=pull, id="ti-1")
    return {"ti": ti, "task_instance": ti}


def event(option: str, user: Any) -> dict[str, Any]:
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_by_user": user,
        "responded_at": datetime(2026, 1, 2, tzinfo=UTC),
    }


@pytest.mark.parametrize("decision", [None, {}, {"promoted": False, "reasons": ["no better"]}])
def test_approval_is_skipped_when_the_gate_did_not_promote(approval: ApprovalOperator, decision: Any) -> None:
    assert approval.execute(context(decision)) == {"asked": False, "approved": False, "by": ""}


def test_the_question_shows_reasons_and_evidence(approval: ApprovalOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: dict[str, Any] = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **kwargs: requested.update(kwargs))
    with pytest.raises(TaskAwaitingInput) as waits:
        approval.execute(context(HELD))
    assert waits.value.timeout == timedelta(hours=2)
    assert requested["subject"] == "May version 7 become champion?"
    assert (requested["options"], requested["defaults"]) == ([APPROVE, REJECT], [REJECT])
    for words in ("current champion is version 3", "- better by 0.01", "| gain | 0.01 |"):
        assert words in requested["body"]
    assert "classes" not in requested["body"]


@pytest.mark.parametrize(
    ("option", "user", "approved", "by"),
    [
        (APPROVE, {"id": "1", "name": "ann"}, True, "ann in Airflow"),
        (REJECT, SimpleNamespace(id="2", name="bob"), False, "bob in Airflow"),
        (REJECT, None, False, "the default after 2:00:00 without an answer"),
        (APPROVE, None, True, "the default after 2:00:00 without an answer"),
    ],
)
def test_the_answer_reaches_the_step(
    approval: ApprovalOperator, option: str, user: Any, approved: bool, by: str
) -> None:
    answer = approval.execute_complete(context(HELD), event(option, user))
    assert answer == {"asked": True, "approved": approved, "by": by}
    assert rendered(answer) == [f"--who={by}" if approved else f"--declined={by}"]


def test_without_approval_the_step_has_no_answer_arguments() -> None:
    assert rendered({"asked": False, "approved": False, "by": ""}) == []


def rendered(answer: dict[str, Any]) -> list[str]:
    """The arguments as the step operator passes them on: those that render to nothing are left out."""
    ti = SimpleNamespace(xcom_pull=lambda task_ids: {"approve": answer}[task_ids])
    # Airflow's templates print None as nothing too
    environment = jinja2.Environment(undefined=jinja2.Undefined)
    return [text for arg in answer_args("approve") if (text := environment.from_string(arg).render(ti=ti))]
