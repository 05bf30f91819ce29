"""Find the modules of a package by their file names, so that adding a plug-in is adding a file."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pkgutil import iter_modules


def module_names(package: str, besides: Collection[str] = ()) -> tuple[str, ...]:
    """Names of a package's modules, sorted, without `besides`. Imports neither the package nor the modules.

    >>> module_names("apex_ml.core.candidates", besides=("interface",))
    ('lightgbm', 'logistic', 'prior', 'xgboost')
    """
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return tuple(sorted(module.name for module in iter_modules(folders) if module.name not in besides))
