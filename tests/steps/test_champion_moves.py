"""Manual moves, races and kills: all readers see one champion at every moment."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest
from click.testing import CliRunner

from apex_ml.adapters.mlflow.registry import CHALLENGER, CHAMPION, Registry
from apex_ml.adapters.mlflow.tracking import refuse_deleted
from apex_ml.adapters.postgres.champions import NewDecision
from apex_ml.adapters.postgres.migrations import migrate_all, migrate_schema
from apex_ml.cli.main import apex as cli
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError, TransientError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.reports import champion_history
from apex_ml.services import champion_ledger
from apex_ml.services.scorer import load_scorer
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.manual_override import MANUAL, force, rollback
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.train import train
from tests.support.apex_home import Apex
from tests.support.schema import SCHEMA
from tests.support.throwaway_home import free_ports

RACERS = 20


def back(nights: Any, run: str = MANUAL, to: int | None = None) -> dict[str, Any]:
    return rollback(nights.apex.context(run), to=to, reason="it is worse in the field", who="ann").to_json()


def forced(nights: Any, version: int | None = None, run: str = MANUAL) -> dict[str, Any]:
    return force(nights.apex.context(run), version=version, reason="the region needs it", who="ann").to_json()


def move(expected: int | None, to: int) -> NewDecision:
    who = f"racer-{to}"
    return NewDecision("promote", "pending", f"run-{to}", who, ("a reason",), from_version=expected, to_version=to)


def test_twenty_concurrent_promotions_have_one_winner_and_readers_see_one_champion(nights: Any) -> None:
    settings = nights.apex.settings
    versions = [*nights.versions.values(), *nights.more(RACERS - 2)]
    ended = threading.Event()
    observations: list[list[int | None]] = [[], []]

    def watch(versions_read: list[int | None]) -> None:
        while not ended.is_set():
            result = champion_ledger.resolve(settings, SCHEMA, Registry(settings, load_pipeline(settings).model_name))
            versions_read.append(result.version if result else None)

    winners: list[int] = []
    with ThreadPoolExecutor(RACERS + 2) as pool:
        watchers = [pool.submit(watch, observed) for observed in observations]
        expected: int | None = None
        for _ in range(2):
            start = threading.Barrier(RACERS)

            def race(version: int, expected: int | None = expected, start: threading.Barrier = start) -> Any:
                start.wait()
                return version, *champion_ledger.apply(
                    settings, SCHEMA, Registry(settings, load_pipeline(settings).model_name), move(expected, version)
                )

            racers = [v for v in [*versions, *nights.more(1)] if v != expected][:RACERS]
            results = list(pool.map(race, racers))
            won = [version for version, applied, _ in results if applied]
            assert len(won) == 1
            (refusal,) = {text for _, applied, text in results if not applied}
            assert f"found version {won[0]}: promote by racer-{won[0]} (run run-{won[0]}) at 20" in refusal
            expected = won[0]
            winners.append(expected)
        ended.set()
        for watcher in watchers:
            watcher.result()
    assert nights.ledger() == [("promote", None, winners[0], "done"), ("promote", winners[0], winners[1], "done")]
    assert nights.champion() == winners[1]
    # each reader saw the champions in order, and never an earlier one again
    order: list[int | None] = [None, *winners]
    for observed in observations:
        places = [order.index(version) for version in observed]
        assert places and places == sorted(places)


def test_concurrent_promotions_of_a_run_are_decided_once(nights: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: nights.apex.call("promote", "--run", "one"), range(2)))
    assert [e.code for e in ended] == [0, 0], [e.err for e in ended]
    assert all(e.result and e.result["promoted"] for e in ended)
    assert nights.ledger() == [("promote", None, 1, "done")]


def test_repeated_rollbacks_go_further_back(nights: Any) -> None:
    promote(nights.apex.context("one"), who="test")
    forced(nights, 2)
    (third,) = nights.more(1)
    forced(nights, third)
    first = back(nights)
    assert first["moved"] and (first["from_version"], first["champion_version"]) == (third, 2)
    assert back(nights)["champion_version"] == 1
    with pytest.raises(ConfigError, match="version 1 is the first champion; name another with --to"):
        back(nights)
    assert back(nights, to=third)["champion_version"] == third == nights.champion()
    assert nights.ledger()[-3:] == [
        ("rollback", third, 2, "done"),
        ("rollback", 2, 1, "done"),
        ("rollback", 1, third, "done"),
    ]
    ((who, reasons),) = nights.apex.sql("SELECT who, reasons FROM orders.promotions ORDER BY promotion_id DESC LIMIT 1")
    assert (who, reasons) == ("ann", ["it is worse in the field"])


def test_a_retried_run_moves_the_champion_once(nights: Any) -> None:
    promote(nights.apex.context("one"), who="test")
    forced(nights, 2)
    forced(nights, *nights.more(1))
    results = [back(nights, run="rollback-7") for _ in range(2)]
    assert [r["champion_version"] for r in results] == [2, 2] and all(r["moved"] for r in results)
    assert nights.champion() == 2 and len(nights.ledger()) == 4


def test_ledger_and_alias_agree_on_who_is_challenger_after_every_move(nights: Any) -> None:
    registry = Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name)

    def challengers() -> tuple[int | None, list[int]]:
        result = registry.by_alias(CHALLENGER)
        rows = nights.apex.sql(
            "SELECT version FROM orders.challenger WHERE model_name = %s",
            (load_pipeline(nights.apex.settings).model_name,),
        )
        return (result.version if result else None), [version for (version,) in rows]

    assert challengers() == (None, [])
    promote(nights.apex.context("one"), who="test")
    assert challengers() == (None, [])
    promote(nights.apex.context("two"), who="test")
    assert challengers() == (2, [2])
    forced(nights)
    assert nights.champion() == 2 and challengers() == (None, [])
    back(nights)
    assert nights.champion() == 1 and challengers() == (2, [2])
    (third,) = nights.more(1)
    forced(nights, third)
    assert challengers() == (2, [2])
    registry.set_alias(CHAMPION, 2)  # by the MLflow UI
    assert champion_ledger.resolve(nights.apex.settings, SCHEMA, registry) and challengers() == (None, [])
    # a killed move is brought to its end by the same run
    killed = nights.apex.call("rollback", "--run", "r", "--reason", "bad", "--to", "1", APEX_FAULT="promotion_done")
    assert killed.code == -signal.SIGKILL and challengers() == (None, [2])
    assert back(nights, run="r")["moved"] and challengers() == (2, [2])
    registry.drop_alias(CHALLENGER)
    assert champion_history.heal(nights.apex.settings, nights.apex.pipeline) == "" and challengers() == (
        2,
        [2],
    )


@pytest.mark.parametrize(
    ("point", "state", "alias"),
    [("promotion_pending", "pending", 2), ("promotion_alias_moved", "pending", 1), ("promotion_done", "done", 1)],
)
def test_a_killed_rollback_is_finished_and_all_readers_see_one_champion(
    nights: Any, point: str, state: str, alias: int
) -> None:
    promote(nights.apex.context("one"), who="test")
    forced(nights, 2)
    killed = nights.apex.call("rollback", "--run", "r", "--reason", "bad", APEX_FAULT=point)
    assert killed.code == -signal.SIGKILL and killed.result is None
    assert nights.ledger()[-1] == ("rollback", 2, 1, state) and nights.champion() == alias
    settings = nights.apex.settings
    with ThreadPoolExecutor(8) as pool:
        result = list(
            pool.map(
                lambda _: champion_ledger.resolve(
                    settings, SCHEMA, Registry(settings, load_pipeline(settings).model_name)
                ),
                range(8),
            )
        )
    assert {f.version for f in result if f} == {1} and None not in result
    assert back(nights, run="r")["champion_version"] == 1
    assert nights.champion() == 1
    assert [row for row in nights.ledger() if row[0] == "rollback"] == [("rollback", 2, 1, "done")]


def test_a_rejected_challenger_can_be_forced_and_the_ledger_keeps_what_the_gate_measured(nights: Any) -> None:
    promote(nights.apex.context("one"), who="test")
    rejected = promote(nights.apex.context("two"), who="test").to_json()
    assert not rejected["promoted"]
    assert forced(nights)["champion_version"] == 2 == nights.champion()
    assert nights.ledger()[-1] == ("force", 1, 2, "done")
    ((evidence, reasons),) = nights.apex.sql("SELECT evidence, reasons FROM orders.promotions WHERE action = 'force'")
    assert evidence["challenger_log_loss"] == rejected["evidence"]["challenger_log_loss"]
    assert evidence["decided_in"] == 2 and reasons == ["the region needs it"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["promote"], "give --run"),
        (["promote", "--force"], "give --reason"),
        (["promote", "--run", "one", "2"], "go with --force"),
        (["promote", "--run", "one", "--reason", "x"], "go with --force"),
        (["promote", "--force", "--reason", "x", "--hold"], "exclude each other"),
    ],
)
def test_contradictory_arguments_are_reported(arguments: list[str], words: str) -> None:
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, ConfigError) and words in str(error)


def test_impossible_moves_are_refused_with_the_remedy(nights: Any) -> None:
    with pytest.raises(ConfigError, match="there is no champion to go back from"):
        back(nights)
    with pytest.raises(ConfigError, match="there is no challenger; name a version"):
        forced(nights)
    promote(nights.apex.context("one"), who="test")
    for wrong, words in (
        (lambda: back(nights), "version 1 is the first champion"),
        (lambda: back(nights, to=98), "has no version 98"),
        (lambda: forced(nights, 99), "has no version 99"),
        (lambda: forced(nights, 1), "version 1 is champion already"),
        (lambda: force(nights.apex.context("r"), version=2, reason=" ", who="ann").to_json(), "--reason is empty"),
    ):
        with pytest.raises(ConfigError, match=words):
            wrong()
    ended = nights.apex.call("promote", "--force", "--reason", "x", "99")
    assert ended.code == 30 and "has no version 99" in ended.err and "Traceback" not in ended.err
    assert nights.ledger() == [("promote", None, 1, "done")]


def test_a_version_that_no_snapshot_fits_is_refused(nights: Any) -> None:
    promote(nights.apex.context("one"), who="test")
    other = nights.apex.but(processed_url=str(nights.apex.settings.home / "elsewhere"))
    with pytest.raises(ConfigError, match=r"no history snapshot under .*elsewhere fits the features of version 2"):
        force(other.context("x"), version=2, reason="x", who="ann")


def test_a_concurrent_change_of_the_champion_is_reported_with_name_and_time(
    nights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(nights.apex.context("one"), who="test")
    (third,) = nights.more(1)
    looked_up = Registry.by_version

    def meanwhile(self: Registry, version: int) -> Any:
        monkeypatch.setattr(Registry, "by_version", looked_up)
        forced(nights, third)
        return looked_up(self, version)

    monkeypatch.setattr(Registry, "by_version", meanwhile)
    with pytest.raises(ConfigError, match=rf"found version {third}: force by ann \(run manual\) at 20\d\d-.* UTC"):
        forced(nights, 2)
    assert nights.champion() == third


@pytest.fixture
def scoring_night(nights: Any, raw: Path, contract: Contract) -> Any:
    """The first version is champion and a drop waits."""
    promote(nights.apex.context("one"), who="test")
    forced(nights, 2)
    make_drop(str(raw), date(2024, 8, 24), 300, 1, nights.apex.inbox / "a.parquet", contract)
    return nights


def versions_used(apex: Apex) -> list[tuple[Any, ...]]:
    return apex.sql(
        "SELECT d.name, r.model_version, array_agg(DISTINCT s.model_version)::int[], count(*)::int"
        " FROM orders.scored AS s JOIN orders.scoring_runs AS r USING (run_id) JOIN"
        " orders.drops AS d USING (drop_id)"
        " GROUP BY 1, 2 ORDER BY 1"
    )


def test_a_drop_keeps_the_version_with_which_its_scoring_started(
    scoring_night: Any, raw: Path, contract: Contract
) -> None:
    apex: Apex = scoring_night.apex
    with contextlib.closing(psycopg2.connect(apex.settings.writer_url)) as blocker, blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE orders.scored IN ACCESS EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(score, apex.context("scoring"), ["a.parquet"])
            deadline = time.monotonic() + 30
            while not apex.sql(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                assert time.monotonic() < deadline and not running.done()
                time.sleep(0.05)
            assert back(scoring_night)["champion_version"] == 1  # does not wait for the scoring
            assert not running.done()
            blocker.rollback()
            assert running.result(30).model_version == 2
    make_drop(str(raw), date(2024, 8, 24), 300, 2, apex.inbox / "b.parquet", contract)
    assert score(apex.context("scoring"), ["b.parquet"]).to_json()["model_version"] == 1
    assert versions_used(apex) == [("a.parquet", 2, [2], 300), ("b.parquet", 1, [1], 300)]


def test_a_held_promotion_is_applied_or_declined_later(nights: Any) -> None:
    one, two = (nights.apex.context(run) for run in ("one", "two"))
    for _ in range(2):
        held = promote(one, who="test", hold=True).to_json()
        assert held["held"] and not held["promoted"] and held["champion_version"] is None
    assert nights.ledger() == [] and nights.champion() is None
    declined = promote(two, who="test", declined="ann in Airflow").to_json()
    assert not declined["promoted"] and declined["reasons"][0] == "not approved: ann in Airflow"
    assert len(declined["reasons"]) == 2 and declined["evidence"]["holdout_rows"] > 0
    assert promote(two, who="test").to_json()["reasons"] == declined["reasons"]
    assert promote(one, who="ann in Airflow").to_json()["promoted"]
    assert promote(one, who="test", declined="bob").to_json()["promoted"]  # what was decided stays
    assert nights.ledger() == [("reject", None, 2, "done"), ("promote", None, 1, "done")]
    second = promote(nights.apex.context("two"), who="test", hold=True).to_json()
    assert "held" not in second and not second["promoted"]


def test_the_history_shows_when_who_what_and_why(nights: Any) -> None:
    settings, pipeline = nights.apex.settings, nights.apex.pipeline
    assert json.loads(champion_history.as_json(settings, pipeline, [])) == {
        "model": pipeline.model_name,
        "champion": None,
        "history": [],
    }
    promote(nights.apex.context("one"), who="test")
    promote(nights.apex.context("two"), who="test")
    Registry(settings, pipeline.model_name).set_alias(CHAMPION, 2)
    table = nights.apex.call("champion")
    assert table.code == 0, table.err
    assert f"champion: {pipeline.model_name} version 2" in table.out
    for words in ("none → 1", "1 → 2", "promote", "reject", "manual", "by the MLflow UI", "class prior"):
        assert words in table.out, table.out
    content = json.loads(champion_history.as_json(settings, pipeline, champion_history.history(settings, pipeline, 20)))
    assert content["champion"] == 2
    assert [row["action"] for row in content["history"]] == ["manual", "reject", "promote"]
    newest = content["history"][0]
    assert (newest["from_version"], newest["to_version"], newest["state"]) == (1, 2, "done")
    assert [row["action"] for row in champion_history.history(settings, pipeline, 1, moves_only=True)] == ["manual"]
    assert [row["action"] for row in champion_history.history(settings, pipeline, 9, moves_only=True)] == [
        "manual",
        "promote",
    ]


def test_without_mlflow_the_history_is_shown_with_a_warning(nights: Any) -> None:
    promote(nights.apex.context("one"), who="test")
    (port,) = free_ports(1)
    other = nights.apex.but(mlflow_tracking_uri=f"http://127.0.0.1:{port}")
    assert "could not be compared with the ledger: MLflow at" in champion_history.heal(other.settings, other.pipeline)
    assert champion_history.heal(nights.apex.settings, nights.apex.pipeline) == ""
    assert len(champion_history.history(other.settings, other.pipeline, 5)) == 1


def mlflow(nights: Any, method: str, path: str, **content: Any) -> None:
    """Do what a person does in MLflow."""
    base = f"{nights.apex.settings.tracking_uri}/api/2.0/mlflow"
    httpx.request(method, f"{base}/{path}", json=content).raise_for_status()


def test_a_removed_alias_is_reported_with_a_remedy(nights: Any) -> None:
    name, version = load_pipeline(nights.apex.settings).model_name, nights.versions["one"]
    promote(nights.apex.context("one"), who="test")
    mlflow(nights, "DELETE", "registered-models/alias", name=name, alias=CHAMPION)
    with pytest.raises(TransientError, match=rf"alias champion was removed from version {version}.*promote --force"):
        load_scorer(nights.apex.context("scoring"))
    assert nights.ledger()[-1] == ("manual", version, None, "done")


def test_a_deleted_champion_is_reported_with_a_remedy(nights: Any) -> None:
    name, version = load_pipeline(nights.apex.settings).model_name, nights.versions["one"]
    promote(nights.apex.context("one"), who="test")
    mlflow(nights, "DELETE", "model-versions/delete", name=name, version=str(version))
    with pytest.raises(TransientError, match=rf"version {version}, the champion, was deleted.*promote --force"):
        load_scorer(nights.apex.context("scoring"))
    forced(nights, nights.versions["two"])
    assert nights.champion() == nights.versions["two"]


def test_a_renamed_model_stops_everything_with_a_remedy_and_the_ledger_stays(nights: Any) -> None:
    name, version = load_pipeline(nights.apex.settings).model_name, nights.versions["one"]
    promote(nights.apex.context("one"), who="test")
    before = nights.ledger()
    mlflow(nights, "POST", "registered-models/rename", name=name, new_name=f"{name}_renamed")
    for call in (
        lambda: load_scorer(nights.apex.context("scoring")),
        lambda: refuse_deleted(nights.apex.settings, SCHEMA, name),
        lambda: back(nights),
    ):
        with pytest.raises(
            ConfigError, match=rf"no registered model {name}, although version {version} .*rename it back"
        ):
            call()
    assert nights.ledger() == before
    mlflow(nights, "POST", "registered-models/rename", name=f"{name}_renamed", new_name=name)
    assert load_scorer(nights.apex.context("scoring")).version.version == version


def test_training_does_not_begin_when_its_experiment_was_deleted(nights: Any) -> None:
    settings = nights.apex.settings
    created = Registry(settings, load_pipeline(settings).model_name).experiment("orders/retrain")
    mlflow(nights, "POST", "experiments/delete", experiment_id=created)
    try:
        (nights.apex.processed / "three").mkdir()
        for step in ("elt", "split"):
            shutil.copytree(nights.apex.processed / "one" / step, nights.apex.processed / "three" / step)
        with pytest.raises(
            ConfigError, match=f"orders/retrain was deleted.*experiments restore --experiment-id {created}"
        ):
            train(nights.apex.context("three"), trials=0)
    finally:
        mlflow(nights, "POST", "experiments/restore", experiment_id=created)


def test_a_deleted_run_does_not_stop_the_gate(nights: Any) -> None:
    version = Registry(nights.apex.settings, load_pipeline(nights.apex.settings).model_name).by_version(
        nights.versions["one"]
    )
    assert version is not None
    mlflow(nights, "POST", "runs/delete", run_id=version.run_id)
    try:
        assert promote(nights.apex.context("one"), who="test").to_json()["promoted"]
        assert load_scorer(nights.apex.context("scoring")).version.version == version.version
    finally:
        mlflow(nights, "POST", "runs/restore", run_id=version.run_id)


def test_a_model_of_another_pipeline_is_not_adopted(nights: Any) -> None:
    """A pipeline with another name and the same registered model neither takes the champion nor trains a version."""
    apex = nights.apex
    assert promote(apex.context("one"), who="test").promoted
    ledger = nights.ledger()
    apex.sql("DELETE FROM apex.known_pipelines")
    pipeline = load_pipeline(apex.settings)
    migrate_all(apex.settings, [pipeline], "orders")
    migrate_schema(apex.settings, pipeline.contract, "jumps")  # its tables were made under another model.name
    other = replace(apex.context("two"), pipeline=replace(pipeline, name="jumps"))
    registry = Registry(apex.settings, pipeline.model_name)
    reason = rf"pipeline jumps: model\.name: {pipeline.model_name} is the registered model of the pipeline orders"
    two = nights.versions["two"]
    for attempt in (
        lambda: champion_ledger.resolve(apex.settings, "jumps", registry),
        lambda: champion_ledger.apply(apex.settings, "jumps", registry, move(None, two)),
        lambda: champion_ledger.reject(apex.settings, "jumps", registry, replace(move(None, two), action="reject")),
        lambda: champion_history.heal(apex.settings, other.pipeline),
        lambda: refuse_deleted(apex.settings, "jumps", pipeline.model_name),
        lambda: load_scorer(other),
    ):
        with pytest.raises(ConfigError, match=reason):
            attempt()
    assert apex.sql("SELECT FROM jumps.promotions") == [] and nights.ledger() == ledger
    assert nights.champion() == nights.versions["one"]
    assert champion_ledger.resolve(apex.settings, SCHEMA, registry) is not None
