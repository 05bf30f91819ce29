"""What a model was made from: its run, the days and digests of its data, and the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from typing import Any

DAYS = ("as_of", "train_first", "train_last", "validation_last", "test_first", "test_last")


@dataclass(frozen=True)
class ModelInfo:
    """The record of a model's data and code, stored with the model and with its version.

    `profile` holds counts of the features and predictions, as JSON; see `core.profile`.
    """

    run: str
    as_of: date
    data_sha256: str
    contract_sha256: str
    features_sha256: str
    split: str
    promotable: bool
    train_first: date
    train_last: date
    validation_last: date
    test_first: date
    test_last: date
    class_shares: tuple[float, ...]
    seed: int
    git_commit: str | None
    dirty: bool
    profile: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold."""
        values = asdict(self)
        return values | {name: values[name].isoformat() for name in DAYS} | {"class_shares": list(self.class_shares)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInfo:
        """Read the form of :meth:`as_dict`. Raises KeyError for a value that is missing."""
        given = {f.name: values[f.name] for f in fields(cls)}
        days = {name: date.fromisoformat(values[name]) for name in DAYS}
        return cls(**{**given, **days, "class_shares": tuple(values["class_shares"])})
