"""The split strategies. To add one, add a file or folder here. Its name is the strategy's name in `model.split`."""

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
        raise ConfigError(f"no split strategy {name!r}; the strategies are {', '.join(names)}")
    strategy: SplitStrategy = import_module(f"{__name__}.{name}").STRATEGY
    return strategy
