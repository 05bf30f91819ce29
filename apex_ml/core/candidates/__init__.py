"""The candidates: kinds of model that a training can compare. Adding one is adding one file to this folder.

The file's name is the candidate's name in `APEX_CANDIDATES`. It holds everything about the candidate: its packages, its
parameters and their search space, how it is fitted and loaded, and an instance of it in CANDIDATE. See
:class:`~apex_ml.core.candidates.interface.Candidate`.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_ml.discovery import CANDIDATES, module_names
from apex_ml.errors import ConfigError

if TYPE_CHECKING:
    from apex_ml.core.candidates.interface import Candidate

ALWAYS_REPORTED = ("prior", "logistic")
"""Fitted beside every winner, for comparison."""


def candidate_names() -> tuple[str, ...]:
    """Names of all candidates, whether their libraries are installed or not."""
    return module_names(CANDIDATES)


@lru_cache
def candidate(name: str) -> Candidate:
    """The candidate of a name; its module is imported now and not before.

    Raises :class:`~apex_ml.errors.ConfigError` for an unknown name or a package that is not installed.
    """
    if lacking := missing_requirements(name):
        raise ConfigError(f"the candidate {name} needs {', '.join(lacking)}: pip install {_quoted(lacking)}")
    loaded: Candidate = import_module(f"{__name__}.{name}").CANDIDATE
    return loaded


def missing_requirements(name: str) -> list[str]:
    """Requirements of a candidate that are not installed. Nothing is imported."""
    return [r for r in declared(name, "requirements", ()) if find_spec(distribution(r).replace("-", "_")) is None]


def image_requirements() -> list[str]:
    """What the image of the steps must install, for all candidates that belong there."""
    return sorted(
        {
            r
            for name in candidate_names()
            if declared(name, "in_image", True)
            for r in declared(name, "requirements", ())
        }
    )


def declared(name: str, attribute: str, default: Any) -> Any:
    """A literal that the candidate's class assigns, read from its source: importing it would import its library.

    Raises :class:`~apex_ml.errors.ConfigError` for an unknown name.
    """
    spec = find_spec(f"{__name__}.{name}") if name in candidate_names() else None
    if spec is None or spec.origin is None:
        raise ConfigError(f"no such candidate {name!r}; there are {', '.join(candidate_names())}")
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [attribute]:
            return ast.literal_eval(node.value)
    return default


def distribution(requirement: str) -> str:
    """The name in a requirement.

    >>> distribution("lightgbm>=4.6")
    'lightgbm'
    """
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _quoted(requirements: list[str]) -> str:
    return " ".join(f"'{requirement}'" for requirement in requirements)
