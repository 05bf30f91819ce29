"""The Airflow plugin: links, the Apex page and the Data Docs."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from apex_airflow.links import DataDocsLink, DecisionReportLink, MlflowRunLink, ModelVersionLink
from apex_airflow.pages.web import DOCS, PREFIX, create_app
from apex_airflow.priorities import EarlyChunksFirst
from apex_ml.settings import Settings


class ApexPlugin(AirflowPlugin):
    """The links of the step operator, the order of scoring, the Apex page and the Data Docs.

    Airflow resolves a stored link only when a plugin registers its class.
    """

    name = "apex"
    operator_extra_links = [DataDocsLink(), MlflowRunLink(), ModelVersionLink(), DecisionReportLink()]
    priority_weight_strategies = [EarlyChunksFirst]
    fastapi_apps = [{"app": create_app(Settings.load()), "url_prefix": PREFIX, "name": "Apex"}]
    external_views = [
        {
            "name": "Apex",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "url_route": "apex",
            "category": "browse",
        },
        {
            "name": "Data Docs",
            "href": f"{PREFIX}/{DOCS}/index.html",
            "destination": "nav",
            "category": "browse",
        },
    ]
