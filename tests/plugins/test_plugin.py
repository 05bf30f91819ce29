"""The plugins folder as Airflow loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from apex_airflow import links
from apex_airflow.operators.step import StepOperator
from apex_plugin import ApexPlugin

LOAD = """
import json, sys
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
from airflow.dag_processing.dagbag import DagBag
from airflow.configuration import conf
bag = DagBag(conf.get('core', 'dags_folder'), bundle_name='dags-folder')
operators = {type(task) for dag in bag.dags.values() for task in dag.tasks if not task.is_mapped}
import apex_airflow.operators.step
print(json.dumps({
    'plugins': [plugin.name for plugin in plugins if 'PLUGINS_FOLDER' in str(plugin.source)],
    'errors': errors,
    'modules': sorted(n for n, m in sys.modules.items() if 'plugins/apex' in str(getattr(m, '__file__', ''))),
    'same_class': {o for o in operators if o.__name__ == 'StepOperator'} == {apex_airflow.operators.step.StepOperator},
}))
"""


def test_every_module_is_imported_once_under_its_own_name() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["plugins"] == ["apex"] and loaded["errors"] == {} and loaded["same_class"]
    assert loaded["modules"] == [
        "apex_airflow",
        "apex_airflow.assets",
        "apex_airflow.deadlines",
        "apex_airflow.inbox",
        "apex_airflow.links",
        "apex_airflow.operators",
        "apex_airflow.operators.approval",
        "apex_airflow.operators.bad_drop",
        "apex_airflow.operators.step",
        "apex_airflow.pages",
        "apex_airflow.pages.charts",
        "apex_airflow.pages.drift",
        "apex_airflow.pages.formats",
        "apex_airflow.pages.metrics",
        "apex_airflow.pages.overview",
        "apex_airflow.pages.page",
        "apex_airflow.pages.permissions",
        "apex_airflow.pages.pipelines",
        "apex_airflow.pages.predictions",
        "apex_airflow.pages.quality",
        "apex_airflow.pages.rendering",
        "apex_airflow.pages.web",
        "apex_airflow.pipelines",
        "apex_airflow.priorities",
        "apex_airflow.runtimes",
        "apex_airflow.runtimes.container",
        "apex_airflow.runtimes.process",
        "apex_airflow.triggers",
        "apex_airflow.triggers.drops",
        "apex_airflow.triggers.events",
        "apex_airflow.triggers.objects",
        "apex_airflow.waiting_objects",
        "apex_plugin",
    ]


@pytest.mark.parametrize(
    ("result", "url"),
    [
        ({"data_docs_url": "http://x/index.html"}, "http://x/index.html"),
        ({"rows": 3}, ""),
        ({"data_docs_url": None}, ""),
        (None, ""),
    ],
)
def test_links(result: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {"step_result": result}
    monkeypatch.setattr(links, "XCom", SimpleNamespace(get_value=lambda ti_key, key: stored[key]))
    key: Any = None
    assert links.DataDocsLink().get_link(object(), ti_key=key) == url
    assert links.MlflowRunLink().get_link(object(), ti_key=key) == ""


def test_every_link_of_the_operator_is_one_that_airflow_can_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "data_docs_url": "Data Docs",
        "mlflow_run_url": "MLflow run",
        "model_version_url": "Model version",
        "decision_report_url": "Decision report",
    }
    result = {field: f"http://x/{field}" for field in fields}
    monkeypatch.setattr(links, "XCom", SimpleNamespace(get_value=lambda ti_key, key: {"step_result": result}[key]))
    key: Any = None
    shown = {link.get_link(object(), ti_key=key): link.name for link in StepOperator.operator_extra_links}
    assert shown == {f"http://x/{field}": name for field, name in fields.items()}
    names = [type(link) for link in ApexPlugin.operator_extra_links]
    assert names == [type(link) for link in StepOperator.operator_extra_links]
