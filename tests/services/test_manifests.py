"""Results and manifests as JSON: their keys, and run folders that the previous version left."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.core.batch import Profile
from apex_ml.core.model_evaluation import ComparedWay
from apex_ml.errors import DataError
from apex_ml.json_text import json_text
from apex_ml.services.manifest import Manifest
from apex_ml.services.recorded_batch import read_profile, record_profile, record_report
from apex_ml.services.results import (
    BatchProfile,
    ComparedModel,
    EltResult,
    FolderResult,
    PromoteResult,
    SplitResult,
    TrainResult,
    ValidateResult,
)
from apex_ml.services.run_folder import read_manifest
from apex_ml.services.runs import FolderRuns
from apex_ml.services.scoring_results import DropOutcome, MoreDrops, ScoredDrop, ScoreResult

RESULTS: dict[type[FolderResult], dict[str, Any]] = {
    ValidateResult: {
        "raw": "/data/raw",
        "files": 1,
        "rows": 10,
        "accepted": 8,
        "quarantined": 1,
        "reasons": {"canal_cd: null": 1},
        "warnings": {},
        "normalised": {},
        "batch_warnings": [],
        "expectations": {"evaluated": 20, "failed": 0, "rows": 9, "of_rows": 9},
        "data_docs": "/docs/index.html",
        "data_docs_url": "http://127.0.0.1:8080/apex/data-docs/orders/index.html",
        "data_sha256": "a" * 64,
        "newest": "2024-08-23",
        "as_of": "2024-08-23",
        "profile": {"rows": 9},
        "reports": [{"name": "a.parquet", "rows": 10}],
        "held_back": {"day": "2024-08-23", "rows": 1, "sha256": "b" * 64},
        "redelivered": [],
        "left_out": {"notes.txt": "not a parquet file"},
        "links": {},
    },
    EltResult: {
        "raw": "/data/raw",
        "rows": 8,
        "repeated": 0,
        "examples": 5,
        "entities": 5,
        "as_of": "2024-08-23",
        "data_sha256": "a" * 64,
        "features_sha256": "c" * 64,
        "snapshot_sha256": "d" * 64,
    },
    SplitResult: {
        "strategy": "temporal",
        "promotable": True,
        "parts": {
            "train": {"examples": 3, "first": "2024-01-01", "last": "2024-06-30", "classes": {"A": 2, "B": 1}},
            "test": {
                "examples": 2,
                "first": "2024-07-01",
                "last": "2024-08-22",
                "classes": {"A": 1, "B": 1},
                "drift_from_train": {"pais_cd": 0.01},
            },
        },
        "left_out": 0,
    },
    TrainResult: {
        "model_version": 3,
        "mlflow_run_id": "e" * 32,
        "mlflow_run_url": "http://127.0.0.1:5000/#/experiments/1/runs/e",
        "model_version_url": "http://127.0.0.1:5000/#/models/m/versions/3",
        "winner": "xgboost",
        "candidates": {"xgboost": 0.5},
        "chosen": {"xgboost": {"max_depth": 3}},
        "features": ["pais_cd"],
        "calibration": "none",
        "decision_weights": {"A": 1.0, "B": 1.2},
        "validation_log_loss": 0.5,
        "validation_prior_log_loss": 0.6,
        "test_log_loss": 0.5,
        "test_prior_log_loss": 0.6,
        "test_ece": None,  # was not finite
        "test_accuracy": 0.8,
        "test_macro_f1": 0.7,
        "test_weighted_macro_f1": 0.7,
        "bundle": {"model.json": "f" * 64},
    },
}
"""Results in the manifests of the version before results were typed."""


def written(kind: type[FolderResult], folder: Path, **changes: Any) -> dict[str, Any]:
    content = {
        "step": kind.STEP,
        "run": "first",
        "key": "0" * 64,
        "inputs": {"contract_sha256": "1" * 64},
        "code": {"version": "0.1.0", "git_commit": None, "dirty": False},
        "finished_at": "2026-01-02T03:04:05+00:00",
        "seconds": 1.5,
        "outputs": {"examples.parquet": {"sha256": "2" * 64, "bytes": 10}},
        "result": {"run": "first", "step": kind.STEP, **RESULTS[kind], "seconds": 1.5},
    }
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(content | changes))
    return content


def runs_of(run: Path) -> FolderRuns:
    """The runs in the folder that holds a run."""
    return FolderRuns(run.parent)


@pytest.mark.parametrize("kind", RESULTS)
def test_a_manifest_of_the_previous_version_is_read_and_written_alike(kind: type[FolderResult], tmp_path: Path) -> None:
    content = written(kind, tmp_path / kind.STEP)
    manifest: Manifest[Any] = read_manifest(runs_of(tmp_path), tmp_path.name, kind)
    assert isinstance(manifest.result, kind) and manifest.result.run == "first"
    second = manifest.to_json()
    assert list(second) == list(content)
    assert second == content


PROFILE = {
    "rows": 9,
    "nulls": {"pais_cd": 1},
    "levels": {"canal_cd": {"A": 5, "B": 4}},
    "newest": "2024-08-23",
    "nearly_newest": "2024-08-22",
}
REPORT = {
    "name": "a.parquet",
    "rows": 10,
    "accepted": 8,
    "quarantined": 1,
    "reasons": {"canal_cd: null": 1},
    "warnings": {},
    "normalised": {"pais_cd: trimmed": 2},
    "filled": [],
    "added": ["nota"],
    "cast": [["pais_cd", "int64", "string"]],
    "examples": {"canal_cd: null": ["null"]},
}
WAY = {
    "way": "corrected",
    "features": 7,
    "validation_log_loss": 0.5,
    "test_log_loss": None,  # was not finite
    "accuracy": 0.8,
    "calibration_error": 0.01,
}


@pytest.mark.parametrize("more", [{}, {"of_another_version": {"n": [1, None]}}])
@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (ValidateResult, {"profile": PROFILE, "reports": [REPORT]}),
        (ValidateResult, {"profile": {"rows": 9}, "reports": [{"name": "a.parquet"}, {}]}),
        (TrainResult, {"comparison": [WAY, {"way": "ours"}]}),
    ],
)
def test_parts_of_any_version_are_written_as_they_were_read(
    kind: type[FolderResult], parts: dict[str, Any], more: dict[str, Any]
) -> None:
    parts = {
        name: {**part, **more} if isinstance(part, dict) else [{**inner, **more} for inner in part]
        for name, part in parts.items()
    }
    content = {"run": "first", "step": kind.STEP, **RESULTS[kind], **parts}
    written_again = kind.from_json(content).to_json()
    assert written_again == content
    assert {name: json_text(written_again[name]) for name in parts} == {n: json_text(p) for n, p in parts.items()}


def test_the_evidence_of_any_version_is_written_as_it_was_read() -> None:
    evidence = {"later_key": [1, None], "gain": 0.01, "segments": [{"segment": "PE", "low": None}], "decided_in": 7}
    content = {
        "run": "first",
        "step": "promote",
        "promoted": True,
        "challenger_version": 2,
        "champion_version": None,
        "reasons": ["better"],
        "evidence": evidence,
    }
    written_again = PromoteResult.from_json(content).to_json()
    assert json_text(written_again) == json_text(content)


def test_the_record_of_a_batch_is_the_json_of_its_profile_and_reports() -> None:
    profile = Profile(9, {"pais_cd": 1}, {"canal_cd": {"A": 5, "B": 4}}, date(2024, 8, 23), date(2024, 8, 22))
    assert json_text(record_profile(profile).to_json()) == json_text(PROFILE)
    assert read_profile(BatchProfile.from_json(PROFILE)) == profile
    assert read_profile(BatchProfile.from_json({"rows": 9})) is None and read_profile(None) is None
    report = FileReport(
        "a.parquet",
        10,
        8,
        1,
        {"canal_cd: null": 1},
        {},
        {"pais_cd: trimmed": 2},
        (),
        ("nota",),
        (("pais_cd", "int64", "string"),),
        {"canal_cd: null": ("null",)},
        "SELECT 1",
    )
    assert json_text(record_report(report).to_json()) == json_text(report.as_dict()) == json_text(REPORT)
    way = ComparedWay("corrected", 7, 0.5, math.nan, 0.8, 0.01)
    assert json_text(ComparedModel(**asdict(way)).to_json()) == json_text(asdict(way)) == json_text(WAY)


def test_values_have_types(tmp_path: Path) -> None:
    for kind in (ValidateResult, SplitResult):
        written(kind, tmp_path / kind.STEP)
    validated = read_manifest(runs_of(tmp_path), tmp_path.name, ValidateResult)
    assert validated.result.as_of == date(2024, 8, 23) and validated.as_of == "2024-08-23"
    assert validated.result.held_back is not None and validated.result.held_back.rows == 1
    assert read_manifest(runs_of(tmp_path), tmp_path.name, SplitResult).result.parts["test"].last == date(2024, 8, 22)


def test_keys_of_another_version_are_ignored(tmp_path: Path) -> None:
    content = written(EltResult, tmp_path / "elt")
    newer = content["result"] | {"shards": 4}
    (tmp_path / "elt" / "manifest.json").write_text(json.dumps(content | {"result": newer}))
    assert read_manifest(runs_of(tmp_path), tmp_path.name, EltResult).result.entities == 5


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "{}", '{"step": "elt"}', '{"result": {}}'])
def test_a_damaged_manifest_names_the_folder_to_remove(content: str, tmp_path: Path) -> None:
    (tmp_path / "elt").mkdir()
    (tmp_path / "elt" / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"elt/manifest.json: damaged; remove it and run the step again"):
        read_manifest(runs_of(tmp_path), tmp_path.name, EltResult)


def test_a_result_without_required_keys_is_damaged(tmp_path: Path) -> None:
    content = written(EltResult, tmp_path / "elt")
    del content["result"]["as_of"]
    (tmp_path / "elt" / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="damaged"):
        read_manifest(runs_of(tmp_path), tmp_path.name, EltResult)


def test_a_scored_drop_is_one_flat_object() -> None:
    run = ScoredDrop(
        run_id=1,
        rows_in=3,
        rows_scored=2,
        rows_quarantined=1,
        confidence_mean=0.9,
        ms_total=5.0,
        reasons={"r": 1},
        warnings={},
    )
    drops = (DropOutcome(drop="a", state="scored", sha256="s", scored=run), DropOutcome(drop="b", state="gone"))
    result = ScoreResult(run="r", step="score", model_version=None, drops=(*drops, MoreDrops(more=4)), scored=1)
    assert result.to_json() == {
        "run": "r",
        "step": "score",
        "model_version": None,
        "scored": 1,
        "drops": [
            {
                "drop": "a",
                "state": "scored",
                "sha256": "s",
                "run_id": 1,
                "rows_in": 3,
                "rows_scored": 2,
                "rows_quarantined": 1,
                "confidence_mean": 0.9,
                "ms_total": 5.0,
                "reasons": {"r": 1},
                "warnings": {},
            },
            {"drop": "b", "state": "gone"},
            {"more": 4},
        ],
    }


def test_former_keys_are_read() -> None:
    """Those of the first edition, which said orders where this one says rows."""
    held = {"day": "2024-08-23", "sha256": "b" * 64}
    content = {"run": "first", "step": "validate", **RESULTS[ValidateResult]}
    former = ValidateResult.from_json(content | {"held_back": held | {"orders": 7}})
    assert former == ValidateResult.from_json(content | {"held_back": held | {"rows": 7}})
    assert former.held_back is not None and former.held_back.rows == 7
    decided = {"run": "first", "step": "promote", "promoted": True, "challenger_version": 2, "champion_version": None}
    evidence = {"holdout_orders": 300, "seen_orders_dropped": 2}
    result = PromoteResult.from_json(decided | {"reasons": [], "evidence": evidence})
    assert result.evidence.as_dict() == evidence | {"holdout_rows": 300, "seen_rows_dropped": 2}
