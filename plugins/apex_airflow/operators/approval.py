"""Approval by a user before a better challenger becomes champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context

from apex_airflow.links import RESULT_KEY

APPROVE, REJECT = "Approve", "Reject"


class ApprovalOperator(HITLOperator):
    """Ask a user whether to apply the gate's decision. The task waits without a worker slot.

    The question shows the reasons and the evidence of the step that decided. Nothing is asked when that step did not
    promote. The answer is the task's XCom, ``{"asked": bool, "approved": bool, "by": str}``. A rejection does not
    skip the following tasks, because they record it. Without an answer within ``response_timeout`` the option in
    ``defaults`` is taken, and ``by`` says so.

    :param decided_by: task_id of the step ``promote --hold``.
    """

    def __init__(self, *, decided_by: str, **kwargs: Any) -> None:
        super().__init__(subject="May the challenger become champion?", options=[APPROVE, REJECT], **kwargs)
        self.decided_by = decided_by

    def execute(self, context: Context) -> Any:
        """Ask, or return immediately when there is nothing to approve."""
        decision = context["ti"].xcom_pull(task_ids=self.decided_by, key=RESULT_KEY)
        if not isinstance(decision, Mapping) or not decision.get("held"):
            self.log.info("The gate did not promote: nothing to approve")
            return {"asked": False, "approved": False, "by": ""}
        self.subject = f"May version {decision['challenger_version']} become champion?"
        self.body = question(decision)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the answer; raise when Airflow could not process it."""
        answer = super().execute_complete(context, event)
        user = answer["responded_by_user"]
        by = f"{_name(user)} in Airflow" if user else f"the default after {self.response_timeout} without an answer"
        approved = answer["chosen_options"] == [APPROVE]
        self.log.info("%s by %s", "Approved" if approved else "Rejected", by)
        return {"asked": True, "approved": approved, "by": by}


def question(decision: Mapping[str, Any]) -> str:
    """Return the decision as Markdown: the reasons, then the evidence.

    >>> print(question({"reasons": ["better"], "champion_version": 3,
    ...                 "evidence": {"gain": 0.01234, "looks": 2, "classes": {}}}))
    The current champion is version 3. The gate would promote:
    - better
    <BLANKLINE>
    | evidence | |
    | --- | --- |
    | gain | 0.01234 |
    | looks | 2 |
    """
    champion = decision.get("champion_version")
    present = f"The current champion is version {champion}." if champion else "There is no champion."
    reasons = "".join(f"\n- {reason}" for reason in decision.get("reasons", ()))
    evidence = {k: v for k, v in decision.get("evidence", {}).items() if isinstance(v, int | float | str)}
    rows = "".join(f"\n| {k} | {f'{v:.6g}' if isinstance(v, float) else v} |" for k, v in evidence.items())
    return f"{present} The gate would promote:{reasons}\n\n| evidence | |\n| --- | --- |{rows}"


def _name(user: Any) -> str:
    fields = user if isinstance(user, Mapping) else vars(user)
    return str(fields.get("name") or fields.get("id"))


def answer_args(task_id: str) -> list[str]:
    """Return the templated arguments that pass a user's answer to ``apex promote``."""
    pulled = f"ti.xcom_pull(task_ids='{task_id}')"
    return [
        f"{{{{ '--who=' ~ {pulled}.by if {pulled}.approved }}}}",
        f"{{{{ '--declined=' ~ {pulled}.by if {pulled}.asked and not {pulled}.approved }}}}",
    ]
