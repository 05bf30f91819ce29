"""Split strategies are found by their names; a file adds one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from apex_ml.contract.model import Contract
from apex_ml.core import strategies
from apex_ml.core.development import Options
from apex_ml.core.features import feature_columns
from apex_ml.core.strategies import split_strategy
from apex_ml.discovery import SPLIT_STRATEGIES, module_names
from apex_ml.errors import ConfigError
from apex_ml.setting_types import check_split

STRATEGY_FILE = """
import numpy as np

from apex_ml.core.strategies.interface import SplitStrategy


class Thirds(SplitStrategy):
    name = "thirds"

    def assign(self, days, target, split, seed):
        return (np.arange(len(days)) % 3).astype(np.int8)


STRATEGY = Thirds()
"""


@pytest.fixture
def folder_of_strategies(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder of strategy modules, which Apex finds like its own."""
    strategies.__path__.append(str(tmp_path))
    yield tmp_path
    strategies.__path__.remove(str(tmp_path))
    sys.modules.pop("apex_ml.core.strategies.thirds", None)


def test_one_file_adds_a_strategy(folder_of_strategies: Path, contract: Contract) -> None:
    with pytest.raises(
        ConfigError, match="no split strategy 'thirds'; the strategies are temporal, legacy, random, stratified"
    ):
        split_strategy("thirds")
    (folder_of_strategies / "thirds.py").write_text(STRATEGY_FILE)
    assert check_split("thirds") == "thirds"
    thirds, examples = split_strategy("thirds"), pa.table({"a": [1]})
    parts = thirds.assign(np.arange(6), np.zeros(6), contract.split, 1)
    assert parts.tolist() == [0, 1, 2] * 2 and not thirds.promotable and not thirds.is_promotable(contract)
    assert thirds.assign_rows(np.arange(6), np.zeros(6), np.arange(6), contract.split, 1).tolist() == [0, 1, 2] * 2
    assert thirds.columns(contract) == feature_columns(contract)
    assert thirds.extend(contract, examples, lambda measures: pa.table({})) is examples
    assert thirds.options(contract, Options()) == Options() and not thirds.is_compared


@pytest.mark.parametrize("name", module_names(SPLIT_STRATEGIES))
def test_only_the_temporal_strategy_is_promotable(name: str) -> None:
    strategy = split_strategy(name)
    assert strategy.name == name and strategy.promotable is (name == "temporal")
    assert strategy.is_compared is (name == "legacy")


def test_the_strategy_of_the_original_project_replaces_selection_and_weights(contract: Contract) -> None:
    options = split_strategy("legacy").options(contract, Options(suspicious_gain=0.5))
    assert (options.selection, options.class_weights, options.suspicious_gain) == ("legacy", "balanced", None)
    assert options.rules is not None
    verdicts = options.rules((), np.zeros((3, 0)))
    assert {v.name for v in verdicts if not v.kept} >= {contract.entity}
