"""Runs in an object store: two machines that share nothing else, kills at every point, and the limit of the copies."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.adapters.storage.files import sha256_of
from apex_ml.adapters.storage.object_store import ObjectStorage
from apex_ml.adapters.storage.stores import open_objects
from apex_ml.contract.model import Contract
from apex_ml.errors import DataError, TransientError
from apex_ml.services.held_back import find_held_back
from apex_ml.services.results import EltResult, SplitResult, ValidateResult
from apex_ml.services.run_folder import latest_manifest, step_manifest
from apex_ml.services.stored_runs import StoredRuns
from apex_ml.settings import Settings
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.elt import elt
from apex_ml.steps.prune import find_prunable, prune
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import ORIGIN, Apex
from tests.support.faulty_store import Faults, faulty
from tests.support.home_with_champion import RUN
from tests.support.ledger import counts
from tests.support.object_servers import ObjectServer

AS_OF = date(2024, 8, 24)
POINTS = ("output_written", "output_file_uploaded", "output_uploaded", "output_published")
"""Where a step that writes may be killed."""
Machine = Callable[[str], Apex]


@pytest.fixture
def machine(
    request: pytest.FixtureRequest,
    raw: Path,
    databases: Any,
    mlflow_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:
    """Homes of machines that share a bucket, a database and MLflow."""
    server: ObjectServer = request.getfixturevalue(getattr(request, "param", "moto"))
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    place = server.url
    shared = databases.migrated()
    storage = None

    def home(name: str) -> Apex:
        nonlocal storage
        apex = Apex(
            Settings.load(
                home=tmp_path / name,
                raw_url=f"{place}/raw",
                drops_url=f"{place}/drops",
                processed_url=f"{place}/processed",
                model_name=f"stored_{place[-8:]}",
                mlflow_tracking_uri=mlflow_server,
                threads=1,
                origin=ORIGIN,
                **shared,
            )
        )
        if storage is None:
            storage = open_objects(apex.pipeline.locations, f"{place}/raw")
            for path in raw.rglob("*.parquet"):
                storage.put(path.relative_to(raw).as_posix(), path.read_bytes())
        return apex

    return home


def stored(apex: Apex) -> ObjectStorage:
    return open_objects(apex.pipeline.locations, apex.pipeline.locations.processed)


def keys(apex: Apex, prefix: str = "") -> set[str]:
    return {file.key for file in stored(apex).list_all(prefix)}


def validated(apex: Apex, run: str = "night") -> ValidateResult:
    context = apex.context(run)
    result = validate(context, raw=None, as_of=AS_OF, force=True)
    context.runs.release()  # as the end of its process does
    return result


@pytest.fixture
def written(machine: Machine) -> Apex:
    """A machine that has validated a run."""
    apex = machine("one")
    validated(apex)
    return apex


def test_a_night_and_its_scoring_go_on_from_machine_to_machine(
    machine: Machine, chain: Any, raw: Path, contract: Contract, tmp_path: Path
) -> None:
    one, two = machine("one"), machine("two")
    as_of = chain.results["validate"]["as_of"]
    steps = [("validate", "--as-of", as_of, "--force"), ("elt",), ("split",), ("train",), ("promote",)]
    for number, (step, *options) in enumerate(steps):
        done = (one, two)[number % 2].call(step, "--run", RUN, *options)
        assert done.code == 0, (step, done.err)
    make_drop(str(raw), AS_OF, 300, 1, tmp_path / "a.parquet", contract)
    one.deliver("a.parquet", (tmp_path / "a.parquet").read_bytes())
    third = machine("three")
    done = third.call("score")
    assert done.code == 0 and done.result is not None and done.result["rows_scored"] == 300, done.err
    assert counts(third) == (1, 1, 300)
    assert not list(third.settings.home.rglob("examples.parquet"))  # only what scoring needs
    for step in ("validate", "elt", "split"):
        here, there = (json.loads(at.runs.manifest(RUN, step)) for at in (chain.apex.context(RUN), two.context(RUN)))
        sha = {name: file["sha256"] for name, file in here["outputs"].items()}
        assert sha == {name: file["sha256"] for name, file in there["outputs"].items()}, step
    ours, theirs = (Registry(a.settings, a.pipeline.model_name).by_alias(CHAMPION) for a in (chain.apex, third))
    assert ours is not None and theirs is not None
    again = machine("four").call("train", "--run", RUN, "--reproduce")
    assert again.result is not None and again.result["reproduced"], again.err
    repeated = machine("five").call("promote", "--run", RUN)  # the report of the decision is in the store as well
    assert repeated.result is not None and repeated.result["decision_report_url"], repeated.err
    assert all(apex.leftovers() == [] for apex in (one, two, third))


@pytest.mark.parametrize("where", ["same", "other"])
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_step_is_complete_or_absent_and_is_repeated(
    machine: Machine, written: Apex, point: str, where: str
) -> None:
    killed = written.call("elt", "--run", "night", APEX_FAULT=point)
    assert killed.code == -signal.SIGKILL, killed.err
    other = machine("two")
    is_published = point == "output_published"
    assert ("manifests/elt/night.json" in keys(other)) == is_published
    assert (latest_manifest(other.context("x"), EltResult) is not None) == is_published
    repeated = (written if where == "same" else other).call("elt", "--run", "night")
    assert repeated.code == 0, repeated.err
    is_known = is_published or where == "same"
    assert ("step_done" in repeated.err) != is_known  # the work of the killed step is not lost on its machine
    third = machine("three")
    assert split(third.context("night"), strategy="temporal").parts["test"].examples > 0
    ids = {key.split("/")[3] for key in keys(other, "runs/night/elt/")}
    assert len(ids) == 1 and written.leftovers() == []


def test_a_killed_reader_goes_on_with_the_files_that_it_lacks(machine: Machine, written: Apex) -> None:
    other = machine("two")
    assert other.call("elt", "--run", "night", APEX_FAULT="output_file_downloaded").code == -signal.SIGKILL
    assert any(other.context("night").runs.root.rglob("part-*.parquet"))
    repeated = other.call("elt", "--run", "night")
    assert repeated.code == 0 and "output_downloaded" in repeated.err, repeated.err
    files = len(step_manifest(other.context("night"), ValidateResult).outputs)
    assert files > 1 and f"files={files} " not in repeated.err


def test_a_reader_gets_one_output_while_another_replaces_it(machine: Machine, written: Apex) -> None:
    reader = machine("two").context("night")
    before = step_manifest(reader, ValidateResult)
    validate(written.context("night"), raw=None, as_of=None, force=True, without_newest_day=True)
    after = step_manifest(reader, ValidateResult)
    assert after.outputs != before.outputs and after.result.as_of != before.result.as_of
    folders = {reader.runs.output("night", "validate", "accepted", m.outputs) for m in (before, after)}
    assert len(folders) == 2
    assert reader.output("validate", "accepted") == reader.runs.output("night", "validate", "accepted", after.outputs)


def test_a_result_is_found_without_a_download(machine: Machine, written: Apex) -> None:
    other = machine("two")
    again = validated(other)
    assert again.data_sha256 == step_manifest(written.context("night"), ValidateResult).result.data_sha256
    assert not list(other.context("night").runs.root.rglob("part-*.parquet"))


def test_a_damaged_or_lost_object_is_named(machine: Machine, written: Apex) -> None:
    storage = stored(written)
    (key, *_) = sorted(key for key in keys(written) if "/accepted/" in key)
    with storage.open(key) as file:
        content = file.read()
    storage.put(key, content[:-1] + b"?")
    with pytest.raises(DataError, match=rf"{key}: is not the file that the step wrote"):
        elt(machine("two").context("night"))
    storage.delete(key)
    with pytest.raises(DataError, match=rf"{key}: is missing"):
        elt(machine("two").context("night"))
    storage.put("manifests/validate/night.json", b"{")
    with pytest.raises(DataError, match=r"manifests/validate/night\.json: damaged; remove it and run the step again"):
        elt(machine("two").context("night"))
    storage.delete("manifests/validate/night.json")
    with pytest.raises(DataError, match="the step validate has not finished"):
        elt(machine("two").context("night"))


def test_the_newest_day_that_was_held_back_is_read_elsewhere(machine: Machine) -> None:
    result = validate(machine("one").context("held"), raw=None, as_of=None, force=True, without_newest_day=True)
    held = find_held_back(machine("two").context("main"), result.data_sha256)
    assert held is not None and held[1].is_file() and result.held_back == held[0]


def test_the_rows_of_a_failed_validation_are_in_the_store(machine: Machine) -> None:
    apex = machine("one")
    with pytest.raises(DataError):
        validate(apex.context("night"), raw=None, as_of=date(2020, 1, 1), force=True)
    assert "manifests/validate.failed/night.json" in keys(apex) and "manifests/validate/night.json" not in keys(apex)


@pytest.mark.parametrize("machine", ["moto", "rclone", "google"], indirect=True)
def test_old_runs_are_removed_from_the_store_and_from_this_machine(
    machine: Machine, written: Apex, contract: Contract
) -> None:
    other = machine("two")
    elt(other.context("night"))
    validated(written, "later")
    context = other.context("prune")
    small = contract.model_copy(update={"batch": contract.batch.model_copy(update={"recent": 0})})
    context = replace(context, pipeline=replace(context.pipeline, contract=small))
    assert find_prunable(context, timedelta(1)).runs == []
    match = find_prunable(context, timedelta(seconds=-60))
    assert [run.name for run in match.runs] == ["later"] and match.bytes > 1000
    assert match.kept == {"night": "the newest history snapshot of its features"}
    prune(context, match)
    assert {key.split("/")[1] for key in keys(other, "runs/")} == {"night"}
    assert latest_manifest(written.context("x"), ValidateResult).run == "night"  # type: ignore[union-attr]
    assert (written.context("x").runs.root / "later").exists()
    prune(written.context("prune"), find_prunable(written.context("prune"), timedelta(seconds=-60)))
    assert not (written.context("x").runs.root / "later").exists()


def test_a_killed_removal_is_finished_by_the_next(written: Apex, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(point: str) -> None:
        assert point == "manifests_deleted"
        raise KeyboardInterrupt

    runs = written.context("prune").runs
    (night,) = runs.sizes()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("apex_ml.services.stored_runs.reach", killed)
        runs.remove(night)
    assert runs.manifests("validate") == {} and keys(written, "runs/night/")
    (left,) = runs.sizes()
    assert 0 < left.bytes < night.bytes
    runs.remove(left)
    assert keys(written) == set() and runs.sizes() == []


def test_the_copies_stay_within_the_limit(machine: Machine, written: Apex, monkeypatch: pytest.MonkeyPatch) -> None:
    validated(written, "later")
    size = sum(file.bytes for file in step_manifest(written.context("night"), ValidateResult).outputs.values())
    other = machine("two").but(spool_mb=1)
    runs = other.context("night").runs
    assert isinstance(runs, StoredRuns)
    monkeypatch.setattr(runs._copies, "max_bytes", int(size * 1.5))
    first = runs.output("night", "validate", "")
    with pytest.raises(TransientError, match=r"running steps read leave no room .* APEX_SPOOL_MB"):
        runs.output("later", "validate", "")
    runs.release()
    assert runs.output("later", "validate", "").is_dir()
    assert not first.exists()
    monkeypatch.setattr(runs._copies, "max_bytes", size // 2)
    with pytest.raises(DataError, match=r"more than the copies of a pipeline's outputs may have .*APEX_SPOOL_MB"):
        runs.output("night", "validate", "")


def test_under_faults_of_the_store_an_output_is_whole_or_absent(
    machine: Machine, written: Apex, moto: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})
    faults, direct, failed = Faults(5, 0.2), machine("direct"), 0
    with faulty(moto, faults) as broken:
        for number, step in enumerate([elt, partial(split, strategy="temporal")] * 3):
            run = f"night-{number // 2}"
            validated(written, run)
            monkeypatch.setenv("AWS_ENDPOINT_URL", broken.endpoint)
            for attempt in range(100):
                try:
                    step(machine(f"{number}-{attempt % 2}").context(run))
                    break
                except TransientError:
                    failed += 1
            monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
            for kind in (EltResult, SplitResult)[: 1 + number % 2]:
                files = step_manifest(direct.context(run), kind).outputs
                folder = direct.context(run).output(kind.STEP)
                assert {name: sha256_of(folder / name) for name in files} == {n: f.sha256 for n, f in files.items()}
    assert failed and faults.counts.total() > 10


def test_a_store_that_does_not_answer_is_tried_again_later(
    machine: Machine, written: Apex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apex_ml.adapters.storage.stores.RETRIES", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"manifests/validate/night\.json: cannot be reached for now"):
        elt(machine("two").context("night"))
