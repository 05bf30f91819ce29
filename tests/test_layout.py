"""The folders of the tests match those of the code, and all tests can be collected together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from apex_ml.settings import CODE_ROOT

TESTS = Path(__file__).parent
LAYERS = ("contract", "core", "adapters", "steps", "simulate", "platform", "serving")


def test_names_of_modules_are_unique_and_there_are_no_packages_of_tests() -> None:
    names = Counter(path.name for path in TESTS.rglob("*.py") if path.name.startswith("test_"))
    # two files of one name, in folders without __init__.py, cannot be imported side by side
    assert [name for name, n in names.items() if n > 1] == []


def test_every_layer_has_its_tests() -> None:
    for layer in LAYERS:
        assert (CODE_ROOT / "apex_ml" / layer).is_dir()
        assert list((TESTS / layer).glob("test_*.py")), layer
