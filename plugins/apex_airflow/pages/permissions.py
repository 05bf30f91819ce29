"""Who may see which pipeline: the users who may read its scoring DAG in Airflow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.configuration import conf
from airflow.models.dag import DagModel

from apex_ml.contract.pipeline import dag_id


def visible(manager: BaseAuthManager[Any], user: BaseUser, pipelines: Iterable[str]) -> tuple[str, ...]:
    """The pipelines that a user may see, in the given row."""
    names = tuple(pipelines)
    dags = [dag_id(name, "score") for name in names]
    teams = _teams(dags)
    allowed: set[str] = set()
    for team in {teams.get(dag) for dag in dags}:
        of_team = {dag for dag in dags if teams.get(dag) == team}
        allowed |= manager.filter_authorized_dag_ids(dag_ids=of_team, user=user, method="GET", team_name=team)
    return tuple(name for name in names if dag_id(name, "score") in allowed)


def may_roll_back(manager: BaseAuthManager[Any], user: BaseUser, pipeline: str) -> bool:
    """Whether a user may trigger the rollback of a pipeline."""
    dag = dag_id(pipeline, "rollback")
    details = DagDetails(id=dag, team_name=_teams([dag]).get(dag))
    return manager.is_authorized_dag(method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user)


def _teams(dags: list[str]) -> dict[str, str | None]:
    """The team of each DAG, where Airflow has teams."""
    return DagModel.get_dag_id_to_team_name_mapping(dags) if conf.getboolean("core", "multi_team") else {}
