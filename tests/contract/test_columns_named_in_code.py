"""The columns of the orders are named in the contract and in no Python file outside of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apex_ml.contract.model import Contract
from apex_ml.settings import CODE_ROOT

FILES = [
    path
    for folder in ("apex_ml", "dags", "plugins")
    for path in sorted((CODE_ROOT / folder).rglob("*.py"))
    if path.parent != CODE_ROOT / "apex_ml" / "contract"
]


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(CODE_ROOT)) for p in FILES])
def test_no_column_of_the_orders_is_named(contract: Contract, path: Path) -> None:
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, contract.columns))})")
    result = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not result


def test_the_search_has_something_to_look_at() -> None:
    assert len(FILES) > 40
