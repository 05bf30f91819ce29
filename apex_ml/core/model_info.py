"""What a model was made from: its run, the days and digests of its data, and the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from apex_ml.contract.identity import ContractIdentity
from apex_ml.core.profile import PROFILE, ModelProfile

CONTRACT = "contract"
"""Key of the contract's identity in the record of a model."""
DAYS = ("as_of", "train_first", "train_last", "validation_last", "test_first", "test_last")


@dataclass(frozen=True)
class ModelInfo:
    """The record of a model's data and code, stored with the model and with its version."""

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
    profile: ModelProfile = ModelProfile()
    contract: ContractIdentity | None = None
    """The identity of the contract under which the model was trained; None: an older version of Apex trained it."""

    def as_dict(self) -> dict[str, Any]:
        """Return a form that JSON can hold."""
        values = asdict(self) | {PROFILE: self.profile.as_dict()}
        if self.contract is None:
            del values[CONTRACT]
        else:
            values[CONTRACT] = self.contract.as_dict()
        return values | {name: values[name].isoformat() for name in DAYS} | {"class_shares": list(self.class_shares)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInfo:
        """Read the form of :meth:`as_dict`. Raises KeyError for a value that is missing."""
        given = {f.name: values[f.name] for f in fields(cls) if f.name != CONTRACT}
        given[CONTRACT] = ContractIdentity.from_dict(values.get(CONTRACT))
        days = {name: date.fromisoformat(values[name]) for name in DAYS}
        read = {"class_shares": tuple(values["class_shares"]), PROFILE: ModelProfile.from_dict(values[PROFILE])}
        return cls(**{**given, **days, **read})
