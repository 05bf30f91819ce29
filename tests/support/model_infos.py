"""The record of a model that a test makes without the steps."""

from __future__ import annotations

from datetime import date

from apex_ml.core.model_info import ModelInfo

INFO = ModelInfo(
    run="r",
    as_of=date(2024, 8, 24),
    data_sha256="d" * 64,
    contract_sha256="c" * 64,
    features_sha256="f" * 64,
    split="temporal",
    promotable=True,
    train_first=date(2024, 1, 1),
    train_last=date(2024, 6, 30),
    validation_last=date(2024, 7, 31),
    test_first=date(2024, 8, 1),
    test_last=date(2024, 8, 23),
    class_shares=(),
    seed=42,
    git_commit="abc123",
    dirty=False,
)
