"""Registers with Airflow what Apex adds to its UI."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from apex_airflow.links import DataDocsLink, MlflowRunLink


class ApexPlugin(AirflowPlugin):
    """The links of the step operator. Airflow resolves a stored link only when a plugin names its class."""

    name = "apex"
    operator_extra_links = [DataDocsLink(), MlflowRunLink()]
