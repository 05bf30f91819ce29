"""The service on the trained champion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from apex_ml.contract.model import Contract
from apex_ml.serving.loadtest_rows import rows_of
from tests.support.apex_home import Apex
from tests.support.home_with_champion import chain, nights, put_drop, scoring  # noqa: F401  (fixtures)
from tests.support.online_service import served


@pytest.fixture
def drop_orders(put_drop: Callable[..., Path], contract: Contract) -> list[dict[str, Any]]:  # noqa: F811
    """The orders of a drop in the inbox, as a request has them."""
    return rows_of(contract, pq.read_table(put_drop()), "a.parquet").rows


@pytest.fixture
def client(scoring: Apex) -> Iterator[TestClient]:  # noqa: F811
    """The service in this process."""
    with served(scoring) as instance:
        yield instance
