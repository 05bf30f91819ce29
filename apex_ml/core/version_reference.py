"""What the scored rows of a version are compared with, from the record of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from apex_ml.core.degradation import EXPECTED, Expectation
from apex_ml.core.profile import PROFILE, ModelProfile


@dataclass(frozen=True)
class VersionReference:
    """A version's profile, and the loss that is expected of it; None where its record has no expectation."""

    profile: ModelProfile = ModelProfile()
    expected: Expectation | None = None

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> Self:
        """Read the record of a version. A part that the record of an older release lacks stays empty.

        >>> VersionReference.from_dict({"run": "r"}) == VersionReference()
        True
        """
        expected = about.get(EXPECTED)
        profile = ModelProfile.from_dict(about.get(PROFILE, {}))
        return cls(profile, Expectation.from_dict(expected) if expected else None)
