"""Buttons of a task that open the results of its step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom
from airflow.sdk.types import TaskInstanceKey

RESULT_KEY = "step_result"
"""XCom key of a step's whole result, also when ``return_value`` is a list to map over."""


class ResultLink(BaseOperatorLink):
    """A button for a URL in the step's result; without that URL there is no button."""

    field: ClassVar[str]

    def get_link(self, operator: object, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL that the step reported; an empty text hides the button."""
        result = XCom.get_value(ti_key=ti_key, key=RESULT_KEY)
        return str(result.get(self.field) or "") if isinstance(result, Mapping) else ""


class DataDocsLink(ResultLink):
    """The Data Docs page of the batch that the step checked."""

    name = "Data Docs"
    field = "data_docs_url"


class DecisionReportLink(ResultLink):
    """The report of the gate's decision, in MLflow."""

    name = "Decision report"
    field = "decision_report_url"


class MlflowRunLink(ResultLink):
    """The MLflow run that the step wrote or used."""

    name = "MLflow run"
    field = "mlflow_run_url"


class ModelVersionLink(ResultLink):
    """The registered version that the step trained or compared, with its description."""

    name = "Model version"
    field = "model_version_url"
