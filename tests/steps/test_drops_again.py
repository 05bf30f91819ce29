"""A drop that is scored again, corrected, repaired or changed while it is scored; and its export to a file."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.cli.steps import score as score_command
from apex_ml.cli.tables import export
from apex_ml.errors import ConfigError, DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.steps.list_drops import list_drops
from apex_ml.steps.score import rescore
from tests.support.apex_home import Apex
from tests.support.home_with_champion import register
from tests.support.ledger import ROWS, counts, places, run, scored_rows

Drop = Callable[..., Path]


def again(apex: Apex, name: str) -> dict[str, Any]:
    return rescore(apex.context("again"), name).to_json()


def test_a_drop_is_scored_again_by_todays_champion_as_a_new_run(scoring: Apex, chain: Any, put_drop: Drop) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        return table.set_column(0, "cliente_id", pa.array(["nobody", *table["cliente_id"].to_pylist()[1:]]))

    # two versions of the same files, under a name of the test's own
    like = Registry(chain.apex.settings, load_pipeline(chain.apex.settings).model_name).by_alias(CHAMPION)
    assert like is not None
    scoring = scoring.but(model_name="scored_again")
    older, newer = (register(scoring.settings, "scored_again", like) for _ in range(2))
    registry = Registry(scoring.settings, load_pipeline(scoring.settings).model_name)
    registry.set_alias(CHAMPION, older)
    put_drop(changed=spoil)
    run(scoring)
    first = scored_rows(scoring)
    registry.set_alias(CHAMPION, newer)
    result = again(scoring, "a.parquet")
    assert result["model_version"] == newer and result["drops"][0]["rows_scored"] == ROWS - 1
    assert counts(scoring) == (1, 2, 2 * (ROWS - 1))
    current = scoring.sql("SELECT DISTINCT model_version, run_id, count(*) OVER () FROM orders.scored_current")
    assert current == [(newer, result["drops"][0]["run_id"], ROWS - 1)]
    assert [r[:9] for r in scored_rows(scoring)[::2]] == [r[:9] for r in first]  # sorted by row, both runs of each
    assert scoring.sql("SELECT count(*) FROM orders.quarantined_rows") == [(1,)]
    assert scoring.sql("SELECT name, model_version FROM orders.drop_summary") == [("a.parquet", newer)]
    assert places(scoring) == {"inbox": [], "done": ["a.parquet"], "quarantine": []}


def test_a_drop_to_score_again_is_named_by_id_or_sha256_too(scoring: Apex, put_drop: Drop) -> None:
    put_drop()
    run(scoring)
    ((drop_id, sha256),) = scoring.sql("SELECT drop_id, sha256 FROM orders.drops")
    for inputs in (str(drop_id), sha256[:10]):
        assert again(scoring, inputs)["drops"][0]["drop"] == "a.parquet"
    assert counts(scoring) == (1, 3, 3 * ROWS)


def test_what_cannot_be_scored_again(scoring: Apex, put_drop: Drop) -> None:
    with pytest.raises(DataError, match="b.parquet: no scored drop has this name"):
        again(scoring, "b.parquet")
    put_drop()
    run(scoring)
    (scoring.inbox.parent / "done" / "a.parquet").unlink()
    with pytest.raises(DataError, match=r"a\.parquet: the file with sha256 .*… is gone from .*done"):
        again(scoring, "a.parquet")
    with pytest.raises(ConfigError, match="give one of them"):
        CliRunner().invoke(score_command, ["--rescore", "a.parquet", "--list"], catch_exceptions=False)


def test_a_repaired_file_of_the_same_name_is_picked_up_and_ends_the_alert(scoring: Apex, put_drop: Drop) -> None:
    for _ in range(2):  # delivered twice, reported once
        (scoring.inbox / "a.parquet").write_bytes(b"junk")
        with pytest.raises(DataError):
            run(scoring)
    ((kind, subject, message),) = scoring.sql("SELECT kind, subject, message FROM orders.open_alerts")
    assert (kind, subject) == ("bad_drop", "a.parquet") and "not a parquet file" in message
    put_drop()
    assert list_drops(scoring.context("sweep")).to_json()["chunks"] == [{"label": "a.parquet", "drops": ["a.parquet"]}]
    assert run(scoring)["scored"] == 1
    assert scoring.sql("SELECT count(*) FROM orders.open_alerts") == [(0,)]
    assert scoring.sql("SELECT count(*) FROM orders.alerts WHERE resolved_at IS NOT NULL") == [(1,)]
    assert places(scoring)["inbox"] == [] and places(scoring)["done"] == ["a.parquet"]


@contextlib.contextmanager
def held(scoring: Apex) -> Iterator[threading.Thread]:
    """A scoring of a.parquet that waits for a lock half way while the block runs, and goes on after it."""
    with contextlib.closing(psycopg2.connect(scoring.settings.writer_url)) as blocker, blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE orders.scoring_runs IN ACCESS EXCLUSIVE MODE")
        worker = threading.Thread(target=lambda: results.append(run(scoring)))
        results: list[dict[str, Any]] = []
        worker.results = results  # type: ignore[attr-defined]
        worker.start()
        deadline = time.monotonic() + 30
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not scoring.sql(waiting) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield worker
    worker.join(60)


def test_a_file_that_is_deleted_while_it_is_scored_leaves_nothing(scoring: Apex, put_drop: Drop) -> None:
    path = put_drop()
    with held(scoring) as worker:
        path.unlink()
    assert worker.results[0]["drops"] == [{"drop": "a.parquet", "state": "gone"}]  # type: ignore[attr-defined]
    assert counts(scoring) == (0, 0, 0) and scoring.leftovers() == []


def test_a_file_replaced_while_scoring_is_scored_with_its_new_content(scoring: Apex, put_drop: Drop) -> None:
    path = put_drop(seed=1)
    with held(scoring) as worker:
        path.unlink()
        put_drop(seed=2, rows=300)
    assert worker.results[0]["drops"] == [{"drop": "a.parquet", "state": "changed"}]  # type: ignore[attr-defined]
    assert counts(scoring) == (0, 0, 0) and places(scoring)["inbox"] == ["a.parquet"]
    assert run(scoring)["rows_scored"] == 300


def test_an_unwritable_inbox_is_reported_before_scoring(scoring: Apex, put_drop: Drop) -> None:
    """As an unprivileged user, for whom the closed folder is closed."""
    put_drop()
    scoring.inbox.chmod(0o555)
    try:
        if scoring.inbox.stat().st_uid == 0:  # root can write everywhere, except in a read-only mount
            inside = f'mount --bind -o ro "{scoring.inbox}" "{scoring.inbox}" && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", inside, "sh"]
            probe = subprocess.run([*command, "true"], capture_output=True, check=False)
            if probe.returncode:
                pytest.skip("root without the right to mount cannot be refused a folder")
            done = scoring.call_in_new_process("score", before=command)
        else:
            done = scoring.call("score")
    finally:
        scoring.inbox.chmod(0o755)
    assert done.code == ConfigError.exit_code and "inbox: cannot be written" in done.err, done.err
    assert counts(scoring) == (0, 0, 0)
    assert run(scoring)["rows_scored"] == ROWS


def test_an_exported_run_has_its_lineage(
    scoring: Apex, put_drop: Drop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_drop()
    result = run(scoring)
    for name, value in scoring.environment().items():
        if name.startswith("APEX_"):
            monkeypatch.setenv(name, value)
    out = tmp_path / "run.parquet"
    message = CliRunner().invoke(export, ["a.parquet", "--out", str(out)], catch_exceptions=False)
    assert f"{ROWS} orders of run" in message.output
    table = pq.read_table(out)
    names = [n for n in table.column_names if not n.startswith("p_") and n != "confidence"]
    expected = scoring.sql(f"SELECT {', '.join(names)} FROM orders.scored ORDER BY row_nr")
    assert [tuple(row.values()) for row in table.select(names).to_pylist()] == expected
    assert table["confidence"].to_pylist() == pytest.approx([row[8] for row in scored_rows(scoring)])
    assert table.schema.metadata[b"run_id"].decode() == str(result["drops"][0]["run_id"])
    assert table.schema.metadata[b"drop"] == b"a.parquet"
    assert [p.name for p in tmp_path.glob("*.tmp")] == []
    with pytest.raises(DataError, match="99: no scoring run has this id"):
        CliRunner().invoke(export, ["99"], catch_exceptions=False)
