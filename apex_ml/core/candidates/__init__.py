"""The candidates. Adding one is one module with a CANDIDATE, and its name here."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from apex_ml.core.candidates.interface import Candidate
from apex_ml.errors import ConfigError

MODULES = {
    "prior": "class_prior",
    "logistic": "logistic",
    "xgboost": "xgboost_trees",
    "lightgbm": "lightgbm_trees",
}
ALWAYS_REPORTED = ("prior", "logistic")
"""Fitted beside every winner, for comparison."""


@lru_cache
def candidate(name: str) -> Candidate:
    """The candidate of a name; its library is imported now and not before.

    Raises :class:`~apex_ml.errors.ConfigError` for an unknown name or a library that is not installed.
    """
    if name not in MODULES:
        raise ConfigError(f"no such candidate {name!r}; there are {', '.join(MODULES)}")
    try:
        found = import_module(f"apex_ml.core.candidates.{MODULES[name]}").CANDIDATE
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the candidate {name} needs the package {error.name}: pip install apex-ml[{name}]"
        ) from error
    assert isinstance(found, Candidate)
    return found
