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

LOAD = """
import json, sys
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
from airflow.dag_processing.dagbag import DagBag
from airflow.configuration import conf
bag = DagBag(conf.get('core', 'dags_folder'), bundle_name='dags-folder')
operators = {type(task) for dag in bag.dags.values() for task in dag.tasks if not task.is_mapped}
import apex_airflow.step_operator
print(json.dumps({
    'plugins': [plugin.name for plugin in plugins if 'PLUGINS_FOLDER' in str(plugin.source)],
    'errors': errors,
    'modules': sorted(n for n, m in sys.modules.items() if 'plugins/apex' in str(getattr(m, '__file__', ''))),
    'same_class': operators == {apex_airflow.step_operator.StepOperator},
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
        "apex_airflow.drop_trigger",
        "apex_airflow.links",
        "apex_airflow.step_operator",
        "apex_airflow.step_process",
        "apex_airflow.web",
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
