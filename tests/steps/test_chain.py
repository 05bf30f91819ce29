from __future__ import annotations
from typing import Any

def test_chain(chain: Any) -> None:
    for k, v in chain.results.items():
        v = {a: b for a, b in v.items() if a not in ("reports", "profile")}
        print(k, v)

def test_nights(nights: Any) -> None:
    print(nights)
