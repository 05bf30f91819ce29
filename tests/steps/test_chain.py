"""The first run, step by step: counts add up, a second call is the same, and every output is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.mlflow.registry import CHALLENGER, CHAMPION, Registry
from apex_ml.adapters.storage.files import sha256_of
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Model
from apex_ml.errors import ConfigError, DataError
from apex_ml.pipelines import load_pipeline
from apex_ml.services.run_folder import StepContext
from apex_ml.steps.elt import elt
from apex_ml.steps.promote import promote
from apex_ml.steps.split import split
from apex_ml.steps.train import train
from apex_ml.steps.validate import validate

RUN = "first"
STEPS = ("validate", "elt", "split", "train")


def test_counts_add_up(chain: Any, orders: pa.Table, contract: Contract) -> None:
    results = chain.results
    clients = len(set(orders[contract.entity].to_pylist()))
    assert results["validate"]["rows"] == results["validate"]["accepted"] == orders.num_rows
    assert results["validate"]["quarantined"] == 0 and results["validate"]["files"] == 4
    assert (results["elt"]["rows"], results["elt"]["repeated"]) == (orders.num_rows, 0)
    assert results["elt"]["examples"] == results["elt"]["entities"] == clients
    parts = results["split"]["parts"]
    assert sum(p["examples"] for p in parts.values()) + results["split"]["left_out"] == clients
    assert all(sum(p["classes"].values()) == p["examples"] for p in parts.values())
    assert parts["train"]["last"] < parts["validation"]["first"] <= parts["validation"]["last"] < parts["test"]["first"]


def test_the_point_in_time_is_the_day_after_the_newest_order(chain: Any, orders: pa.Table, contract: Contract) -> None:
    newest = max(orders[contract.timestamp].cast(pa.date32()).to_pylist())
    assert chain.results["validate"]["newest"] == newest.isoformat()
    assert chain.results["validate"]["as_of"] == chain.results["elt"]["as_of"] > newest.isoformat()


def test_the_model_beats_the_prior_and_becomes_champion(chain: Any) -> None:
    trained, promoted = chain.results["train"], chain.results["promote"]
    assert trained["validation_log_loss"] < trained["validation_prior_log_loss"]
    assert 0.975 < trained["test_log_loss"] < trained["test_prior_log_loss"]
    assert promoted["promoted"] and promoted["champion_version"] == trained["model_version"]
    registry = Registry(chain.apex.settings, load_pipeline(chain.apex.settings).model_name)
    result = registry.by_alias(CHAMPION)
    assert result is not None and result.version == trained["model_version"]
    assert registry.by_alias(CHALLENGER) is None
    assert promoted["evidence"]["holdout_rows"] == chain.results["split"]["parts"]["test"]["examples"]


@pytest.mark.parametrize("step", STEPS)
def test_every_output_is_in_the_manifest(chain: Any, step: str) -> None:
    folder = chain.apex.processed / RUN / step
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["outputs"]) == files
    for name, message in manifest["outputs"].items():
        assert message == {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
    assert json.loads(json.dumps(manifest["result"])) == manifest["result"]


def test_no_partial_file_is_left(chain: Any) -> None:
    assert chain.apex.leftovers() == []
    assert sorted(p.name for p in (chain.apex.processed / RUN).iterdir()) == sorted([*STEPS, "promote"])


def test_steps_called_again_return_the_same_result_without_new_work(chain: Any, contract: Contract) -> None:
    context: StepContext = chain.apex.context(RUN)
    folders = {step: context.output(step).stat().st_ino for step in STEPS}
    second = {
        "validate": validate(context, raw=None, as_of=None, force=False).to_json(),
        "elt": elt(context).to_json(),
        "split": split(context, strategy="temporal").to_json(),
        "train": train(context, trials=0).to_json(),
        "promote": promote(context, who="another").to_json(),
    }
    expected = {
        **chain.results,
        "validate": {k: v for k, v in second["validate"].items() if k in chain.results["validate"]},
    }
    assert second["validate"]["data_sha256"] == expected["validate"]["data_sha256"]
    for step in ("elt", "split"):
        assert second[step] == chain.results[step]
    assert {k: v for k, v in second["train"].items() if k in chain.results["train"]} == chain.results["train"]
    promotes = ("promoted", "champion_version", "challenger_version", "reasons")
    assert {k: second["promote"][k] for k in promotes} == {k: chain.results["promote"][k] for k in promotes}
    assert {step: context.output(step).stat().st_ino for step in STEPS} == folders
    assert Registry(chain.apex.settings, load_pipeline(chain.apex.settings).model_name).by_version(2) is None
    assert chain.apex.sql("SELECT action, state FROM orders.promotions") == [("promote", "done")]


def test_unchanged_data_end_the_next_run_early(chain: Any) -> None:
    content = validate(chain.apex.context("second"), raw=None, as_of=None, force=False).to_json()
    assert "no new raw data since" in content["skip"] and "(run first)" in content["skip"]
    assert not chain.apex.context("second").output("validate").exists()


def test_examples_come_in_a_stated_order_with_their_features(chain: Any, contract: Contract) -> None:
    table = pq.read_table(chain.apex.processed / RUN / "elt" / "examples.parquet")
    keys = list(zip(table[contract.timestamp].to_pylist(), table[contract.entity].to_pylist(), strict=True))
    assert keys == sorted(keys)
    snapshot = pq.read_table(chain.apex.processed / RUN / "elt" / "snapshot.parquet")
    assert snapshot[contract.entity].to_pylist() == sorted(table[contract.entity].to_pylist())


def test_the_registered_model_is_the_trained_one(chain: Any, contract: Contract) -> None:
    settings = chain.apex.settings
    registry = Registry(settings, load_pipeline(settings).model_name)
    version = registry.by_alias(CHAMPION)
    assert version is not None
    registered = Model.from_files(registry.files(version))
    folder = chain.apex.processed / RUN
    trained = Model.from_files({p.name: p.read_bytes() for p in (folder / "train" / "bundle").iterdir()})
    test = pq.read_table(folder / "split" / "test.parquet")
    assert registered.probabilities(test).tobytes() == trained.probabilities(test).tobytes()
    assert registered.info.contract_sha256 == contract.digest()
    for tag in ("data_sha256", "contract_sha256", "features_sha256", "git_commit", "split", "run"):
        assert version.tags[f"apex.{tag}"] == str(getattr(registered.info, tag))


def test_the_mlflow_run_has_data_and_metrics(chain: Any) -> None:
    trained = chain.results["train"]
    answer = httpx.get(
        f"{chain.apex.settings.tracking_uri}/api/2.0/mlflow/runs/get", params={"run_id": trained["mlflow_run_id"]}
    )
    run = answer.raise_for_status().json()["run"]
    metrics = {m["key"]: m["value"] for m in run["data"]["metrics"]}
    assert metrics["validation_log_loss"] == pytest.approx(trained["validation_log_loss"])
    # it was called by a run of Airflow, not by the OS user of this process
    assert {"key": "mlflow.user", "value": "Airflow"} in run["data"]["tags"]
    (dataset,) = run["inputs"]["dataset_inputs"]
    data_sha256 = chain.results["validate"]["data_sha256"]
    assert dataset["dataset"]["digest"] == data_sha256[:32]
    assert {"key": "data_sha256", "value": data_sha256} in dataset["tags"]
    assert chain.apex.sql("SELECT mlflow_run_id, data_sha256 FROM orders.model_versions") == [
        (trained["mlflow_run_id"], data_sha256)
    ]


def test_from_the_model_version_to_airflow_expectations_and_data_and_back(chain: Any) -> None:
    settings, trained, validated = chain.apex.settings, chain.results["train"], chain.results["validate"]
    version = Registry(settings, load_pipeline(settings).model_name).by_version(trained["model_version"])
    assert version is not None and version.run_id == trained["mlflow_run_id"]
    tags, card = version.tags, version.description
    assert tags["apex.airflow_run_url"] == settings.origin and f"[Airflow run]({settings.origin})" in card
    assert tags["apex.data_docs_url"] == validated["data_docs_url"] and validated["data_docs_url"] in card
    raw = load_pipeline(settings).locations.raw
    assert tags["apex.data_url"] == raw and f"`{raw}`, 4 files" in card
    assert validated["data_sha256"] in card and tags["apex.contract_sha256"] in card
    assert f"{trained['test_log_loss']:.5f} | {trained['test_prior_log_loss']:.5f}" in card
    assert "### Decision\n\nPromoted by test:" in card
    note = httpx.get(f"{settings.tracking_uri}/api/2.0/mlflow/runs/get", params={"run_id": version.run_id}).json()
    run_tags = {t["key"]: t["value"] for t in note["run"]["data"]["tags"]}
    assert card.startswith(run_tags["mlflow.note.content"]) and run_tags["apex.data_docs_url"]

    for step in ("train", "promote"):  # what the buttons of the Airflow tasks lead to
        result = chain.results[step]
        assert result["model_version_url"].endswith(
            f"/#/models/{load_pipeline(settings).model_name}/versions/{version.version}"
        )
        assert result["mlflow_run_url"].endswith(f"/runs/{version.run_id}")
    page = Path(validated["data_docs"]).read_text()
    assert f'href="{settings.origin}"' in page and validated["data_sha256"] in page
    assert f'href="{settings.tracking_uri}/#/models/{load_pipeline(settings).model_name}"' in page
    assert page.count('id="apex-lineage"') == 1


def test_a_changed_model_file_is_detected(chain: Any, tmp_path: Path) -> None:
    settings = chain.apex.but(home=tmp_path).settings
    registry = Registry(settings, load_pipeline(settings).model_name)
    version = registry.by_alias(CHAMPION)
    assert version is not None
    (registry.fetch(version) / "booster.ubj").write_bytes(b"another")
    with pytest.raises(DataError, match=r"booster\.ubj has sha256 .*registered was .*remove the folder"):
        registry.files(version)


@pytest.mark.parametrize(
    "step", [elt, lambda c: split(c, strategy="temporal").to_json(), lambda c: train(c, trials=0).to_json()]
)
def test_a_step_without_the_one_before_names_the_command(chain: Any, tmp_path: Path, step: Any) -> None:
    context = chain.apex.but(home=tmp_path, processed_url="").context("alone")
    with pytest.raises(
        DataError, match=r"run alone: the step \w+ has not finished; run: apex (?!validate --run)[\w -]+ --run alone"
    ):
        step(context)


@pytest.mark.parametrize("run", ["../up", "", ".hidden", "a/b", "a b", "x" * 201])
def test_a_run_name_that_leaves_the_folder_is_refused(chain: Any, run: str) -> None:
    with pytest.raises(ConfigError, match="--run"):
        chain.apex.context(run)
