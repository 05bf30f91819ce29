"""Steps in a shell that is set up for other tools: the same result as in a plain one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.apex_home import Apex
from tests.support.ledger import ROWS, run, scored_rows

SHELL = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "SSL_CERT_FILE": "/dev/null/nothing",
    "REQUESTS_CA_BUNDLE": "/dev/null/nothing",
    "PGSSLMODE": "verify-full",
    "PGOPTIONS": "-c statement_timeout=1",
    "PGSERVICE": "prod",
    "PGHOSTADDR": "10.0.0.1",
    "PGCLIENTENCODING": "LATIN1",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREAUTH": "md5",
    "MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
    "MLFLOW_TRACKING_TOKEN": "x",
    "TMPDIR": "/dev/null/nothing",
    "HOME": "/dev/null/nothing",
    "COLUMNS": "0",
    "TZ": "Nowhere/Land",
    "LC_ALL": "tr_TR.UTF-8",
    "OMP_NUM_THREADS": "0",
    "OMP_THREAD_LIMIT": "1",
    "MKL_NUM_THREADS": "x",
    "NO_COLOR": "1",
}


def test_a_drop_gets_the_same_scores_in_any_shell(scoring: Apex, put_drop: Callable[..., Path]) -> None:
    content = put_drop("a.parquet").read_bytes()
    run(scoring)
    plain = scored_rows(scoring)
    assert len(plain) == ROWS
    assert scoring.call_in_new_process("remove-drop", "a.parquet", "--apply", **SHELL).code == 0
    (scoring.inbox / "a.parquet").write_bytes(content)
    done = scoring.call_in_new_process("score", **SHELL)
    assert done.code == 0, done.err
    assert scored_rows(scoring) == plain


def test_a_model_is_trained_and_logged_in_any_shell(scoring: Apex, tmp_path: Path) -> None:
    """MLflow's client, XGBoost and DuckDB read their own variables."""
    apex = scoring.but(home=tmp_path / "other", processed_url="", model_name="any_shell")
    for step in ("validate", "elt", "split"):
        shutil.copytree(scoring.processed / "first" / step, apex.processed / "first" / step)
    done = apex.call_in_new_process("train", "--run", "first", **SHELL)
    assert done.code == 0 and done.result, done.err
    plain = json.loads((scoring.processed / "first" / "train" / "manifest.json").read_text())["result"]
    assert done.result["model_version"] == 1 and done.result["mlflow_run_id"] != SHELL["MLFLOW_RUN_ID"]
    assert done.result["test_log_loss"] == plain["test_log_loss"]
