"""Find the modules of a package by their file names, so that adding a plug-in is adding a file."""

from __future__ import annotations

from importlib.util import find_spec
from pkgutil import iter_modules

CANDIDATES = "apex_ml.core.candidates"
SPLIT_STRATEGIES = "apex_ml.core.strategies"
ALERT_CHANNELS = "apex_ml.adapters.alerts"
NOT_PLUGINS = {CANDIDATES: {"interface"}, SPLIT_STRATEGIES: {"interface"}, ALERT_CHANNELS: {"channel", "notify"}}
"""Modules of these packages that are no plug-ins."""
FIRST = {"temporal", "webhook"}
"""Plug-ins that are listed first: the defaults."""


def module_names(package: str) -> tuple[str, ...]:
    """Names of a package's plug-ins, defaults first, then sorted. Imports neither the package nor the modules.

    >>> module_names(CANDIDATES)
    ('lightgbm', 'logistic', 'prior', 'xgboost', 'xgboost_native')
    >>> module_names(SPLIT_STRATEGIES)
    ('temporal', 'legacy', 'random', 'stratified_random')
    """
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    names = {module.name for module in iter_modules(folders)} - NOT_PLUGINS.get(package, set())
    return tuple(sorted(names, key=lambda name: (name not in FIRST, name)))
