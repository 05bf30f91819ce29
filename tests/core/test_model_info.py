"""The record of a model as JSON: other programs and stored models read exactly these keys and forms."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.core.model_info import ModelInfo
from apex_ml.core.profile import Bins, ModelProfile, Profile
from apex_ml.core.version_reference import VersionReference
from apex_ml.json_text import json_text
from tests.support.model_infos import INFO

WHOLE = replace(INFO, class_shares=(0.25, 0.75), git_commit=None, profile=ModelProfile(recent={"country": [3, 4]}))
TEXT = (
    '{"run": "r", "as_of": "2024-08-24", "data_sha256": "' + "d" * 64 + '", "contract_sha256": "' + "c" * 64 + '",'
    ' "features_sha256": "' + "f" * 64 + '", "split": "temporal", "promotable": true, "train_first": "2024-01-01",'
    ' "train_last": "2024-06-30", "validation_last": "2024-07-31", "test_first": "2024-08-01",'
    ' "test_last": "2024-08-23", "class_shares": [0.25, 0.75], "seed": 42, "git_commit": null, "dirty": false,'
    ' "profile": {"recent": {"country": [3, 4]}}}'
)


def test_the_json_of_a_record_is_stable_and_read_back() -> None:
    assert json_text(WHOLE.as_dict()) == TEXT
    assert ModelInfo.from_dict(json.loads(TEXT)) == WHOLE


def test_a_record_without_a_value_is_refused() -> None:
    values = json.loads(TEXT)
    del values["split"]
    with pytest.raises(KeyError, match="split"):
        ModelInfo.from_dict(values)


def test_the_json_of_a_profile_is_stable_and_read_back() -> None:
    counted = Profile({"country": Bins(("EC", "PE")), "age": Bins(edges=(0.5, 2.0))}, classes=2)
    counted.add_features(pa.table({"country": ["EC", "PE", "EC"], "age": [0.0, 1.0, None]}))
    counted.add_predictions(np.array([0, 1, 1]), np.array([0.02, 0.96, 1.0]))
    profile = counted.of_model({"country": [3, 4, 0, 0]})
    text = (
        '{"bins": {"country": {"levels": ["EC", "PE"]}, "age": {"edges": [0.5, 2.0]}},'
        ' "features": {"country": [2, 1, 0, 0], "age": [1, 1, 0, 1]}, "predicted": [1, 2],'
        ' "confidence": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],'
        ' "recent": {"country": [3, 4, 0, 0]}}'
    )
    assert json_text(profile.as_dict()) == text
    assert ModelProfile.from_dict(json.loads(text)) == profile


@pytest.mark.parametrize("profile", [{}, {"features": {"country": [1]}}, {"recent": {}}])
def test_a_profile_of_an_older_release_is_read(profile: dict[str, object]) -> None:
    assert ModelProfile.from_dict(profile).as_dict() == profile
    assert VersionReference.from_dict({"run": "r", "profile": profile}).profile.as_dict() == profile
