"""What a candidate is: a kind of model that can be fitted on codes, kept as bytes, and loaded to score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from apex_ml.contract.feature_column import FeatureColumn

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Part:
    """Encoded features, float32 of shape (n, f), and class indexes, shape (n,)."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class FitContext:
    """What every candidate is fitted with. `report` takes (round, validation log loss) and may raise to prune."""

    classes: tuple[str, ...]
    columns: tuple[FeatureColumn, ...]
    seed: int = 42
    threads: int = 2
    device: Literal["cpu", "cuda"] = "cpu"
    class_weights: Literal["none", "balanced"] = "none"
    early_stopping_rounds: int = 30
    report: Callable[[int, float], None] | None = None


@dataclass(frozen=True)
class Fitted:
    """A fitted candidate: its bytes, what it was fitted with, and log loss by round where it has rounds."""

    content: bytes
    params: Mapping[str, Any]
    curve: Mapping[str, list[float]]


class Scorer(Protocol):
    """Something that scores codes."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class, float32, shape (n, k)."""
        ...


@runtime_checkable
class ExplainedScorer(Protocol):
    """A scorer that can say what each feature adds to an order's margin."""

    def contributions(self, x: np.ndarray) -> np.ndarray:
        """What each feature adds to the margin (log odds) of each class, float32, shape (n, k, f)."""
        ...


class Candidate(ABC):
    """A kind of model. One module a candidate, with the instance in CANDIDATE."""

    name: ClassVar[str]
    """Name in settings and reports: that of the module."""
    file: ClassVar[str]
    """Name of the file that holds a fitted one."""
    requirements: ClassVar[tuple[str, ...]] = ()
    """Packages that fitting and scoring need besides those of every model, with bounds where needed; a literal.

    A package is imported under its own name. A model version is logged with the versions it was fitted with.
    """
    in_image: ClassVar[bool] = True
    """Whether the image of the steps installs the requirements at the next `make lock`; a literal."""

    def defaults(self, context: FitContext) -> dict[str, Any]:
        """The settings that are tried first, and the only ones without a search."""
        return {}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any] | None:
        """Draw settings for a trial of the search; None when there is nothing to search."""
        return None

    @abstractmethod
    def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
        """Fit on the training part; validation may be used to stop, never to fit."""

    @abstractmethod
    def load(self, content: bytes) -> Scorer:
        """Read a fitted one."""
