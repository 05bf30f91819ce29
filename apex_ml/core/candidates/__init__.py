"""The candidates: kinds of model that a training can compare. To add one, add a file to this folder.

The file name is the candidate's name in `model.candidates`. The file holds all about the candidate: its packages, its
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
"""Also fitted for every winner, for comparison."""


def candidate_names() -> tuple[str, ...]:
    """Names of all candidates, whether their libraries are installed or not."""
    return module_names(CANDIDATES)


@lru_cache
def candidate(name: str) -> Candidate:
    """Import the module of a candidate and return the candidate.

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
    """Requirements that the image of the steps installs, of all candidates with `in_image`."""
    return sorted(
        {
            r
            for name in candidate_names()
            if declared(name, "in_image", True)
            for r in declared(name, "requirements", ())
        }
    )


def declared(name: str, attribute: str, default: Any) -> Any:
    """Read a literal attribute of a candidate's class from its source, because an import would load its library.

    Raises :class:`~apex_ml.errors.ConfigError` for an unknown name.
    """
    spec = find_spec(f"{__name__}.{name}") if name in candidate_names() else None
    if spec is None or spec.origin is None:
        raise ConfigError(f"no candidate {name!r}; the candidates are {', '.join(candidate_names())}")
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
