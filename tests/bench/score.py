"""One drop of 100,000 orders through `apex score`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median

from apex_ml.contract.model import load_contract
from apex_ml.simulate.drop import make_drop
from tests.bench.registry import Beside, Row, measurement
from tests.bench.scene import Scene
from tests.bench.score_large import copied

ROUNDS = 3
ORDERS = 100_000


@measurement
def score(scene: Scene) -> Iterator[Row]:
    """Seconds of the whole command and of the drop itself, beside a server-side COPY of the same rows."""
    settings = scene.home.settings
    as_of = date.fromisoformat(scene.chain["elt"].result["as_of"])
    inbox = Path(settings.drops) / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    whole, inside, peaks, copies = [], [], [], []
    for seed in range(1, ROUNDS + 1):
        name = f"bench-{seed}.parquet"
        make_drop(str(scene.raw), as_of, ORDERS, seed, inbox / name, load_contract(settings.contract))
        ended = scene.home.apex("score", "--run", "bench", "--drops", f'["{name}"]')
        (drop,) = ended.result["drops"]
        assert (drop["state"], drop["rows_scored"]) == ("scored", ORDERS), drop
        whole.append(ended.seconds)
        inside.append(drop["ms_total"] / 1000)
        peaks.append(ended.peak_mib)
        copies.append(copied(settings, drop["run_id"]))
    floor = Beside("server-side binary COPY and the same indexes", median(copies))
    yield Row("score 100,000 orders, whole command", median(whole), "s", None, floor)
    yield Row("score 100,000 orders, without start-up", median(inside), "s", None, floor)
    yield Row("score 100,000 orders, peak memory", max(peaks), "MiB", None, None)
