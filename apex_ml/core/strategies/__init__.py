"""The split strategies. Adding one is adding a file or folder here, named as the strategy is in `APEX_SPLIT`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from apex_ml.discovery import SPLIT_STRATEGIES, module_names
from apex_ml.errors import ConfigError

if TYPE_CHECKING:
    from apex_ml.core.strategies.interface import SplitStrategy


def split_strategy(name: str) -> SplitStrategy:
    """The strategy of a name. Raises :class:`~apex_ml.errors.ConfigError` for an unknown one."""
    if name not in (names := module_names(SPLIT_STRATEGIES)):
        raise ConfigError(f"no such split strategy {name!r}; there are {', '.join(names)}")
    strategy: SplitStrategy = import_module(f"{__name__}.{name}").STRATEGY
    return strategy
