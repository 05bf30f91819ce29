"""What the role of a pipeline may do in Airflow's login manager on a server (FAB)."""

from __future__ import annotations

from collections.abc import Iterable

from apex_ml.contract.pipeline import DAG_KINDS, dag_id

Permission = tuple[str, str]
"""An action and what it is done to, as Flask-AppBuilder names them: ``("can_read", "DAG:claims_score")``."""

ALL_DAGS: Permission = ("can_read", "DAGs")
"""Reading every DAG, which a viewer may."""
ACTS: tuple[Permission, ...] = (
    ("can_create", "DAG Runs"),
    ("can_edit", "DAG Runs"),
    ("can_edit", "Task Instances"),
    ("can_edit", "HITL Detail"),
    ("can_read", "Plugins"),
)
"""Triggering and ending runs, clearing tasks, answering approvals, and the Apex page.

Airflow grants what concerns a run only to whom may edit its DAG, too.
"""


def role_permissions(pipeline: str, viewer: Iterable[Permission]) -> list[Permission]:
    """The permissions of the role of a pipeline: those of a viewer and of who acts, on its DAGs alone.

    >>> role_permissions("claims", [("can_read", "DAGs"), ("can_read", "Website")])[-2:]
    [('can_read', 'DAG:claims_shadow'), ('can_edit', 'DAG:claims_shadow')]
    """
    general = [permission for permission in viewer if permission != ALL_DAGS]
    dags = [(action, f"DAG:{dag_id(pipeline, kind)}") for kind in DAG_KINDS for action in ("can_read", "can_edit")]
    return [*general, *ACTS, *dags]
