"""The interface of a candidate: a kind of model that is fitted on codes, stored as bytes, and loaded to score."""

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


Watch = Callable[[int, float], bool]
"""Takes (round, validation log loss) after each round, and returns whether the time for the fit is over."""


@dataclass(frozen=True)
class FitContext:
    """Arguments of every fit. `report` takes (round, validation log loss) and may raise to prune the trial."""

    classes: tuple[str, ...]
    columns: tuple[FeatureColumn, ...]
    seed: int = 42
    threads: int = 2
    device: Literal["cpu", "cuda"] = "cpu"
    class_weights: Literal["none", "balanced"] = "none"
    early_stopping_rounds: int = 30
    report: Callable[[int, float], None] | None = None
    watch: Watch | None = None


@dataclass(frozen=True)
class Fitted:
    """A fitted candidate: its bytes, its parameters, and the log loss by round if it has rounds."""

    content: bytes
    params: Mapping[str, Any]
    curve: Mapping[str, list[float]]


class Scorer(Protocol):
    """A model that scores codes."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probability of each class, float32, shape (n, k)."""
        ...


@runtime_checkable
class ExplainedScorer(Protocol):
    """A scorer that explains how much each feature adds to a row's margin."""

    def contributions(self, x: np.ndarray) -> np.ndarray:
        """Contribution of each feature to the margin (log odds) of each class, float32, shape (n, k, f)."""
        ...


class Candidate(ABC):
    """A kind of model. Each candidate has its own module, with the instance in CANDIDATE."""

    name: ClassVar[str]
    """Name in settings and reports, the same as the module's."""
    file: ClassVar[str]
    """Name of the file that holds a fitted model."""
    requirements: ClassVar[tuple[str, ...]] = ()
    """Additional packages that fitting and scoring need, with version bounds if needed. It must be a literal.

    The import name of a package must equal its name. MLflow logs a model version with the installed versions.
    """
    in_image: ClassVar[bool] = True
    """Whether the next `make lock` adds the requirements to the image of the steps. It must be a literal."""

    def defaults(self, context: FitContext) -> dict[str, Any]:
        """Parameters that a search tries first. Without a search they are the only ones."""
        return {}

    def presets(self, context: FitContext) -> tuple[dict[str, Any], ...]:
        """Sets of parameters of which the best on validation is used without a search; a search tries them first."""
        return (self.defaults(context),)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any] | None:
        """Draw parameters for a trial of the search; None when there is nothing to search."""
        return None

    @abstractmethod
    def fit(self, params: Mapping[str, Any], train: Part, validation: Part, context: FitContext) -> Fitted:
        """Fit on the training part. Use the validation part only for early stopping."""

    @abstractmethod
    def load(self, content: bytes) -> Scorer:
        """Load a fitted model."""
