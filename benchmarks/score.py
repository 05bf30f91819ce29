"""One drop of 100,000 rows through `apex score`."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene
from benchmarks.score_peers import copied
from benchmarks.scored_drops import put, scored_once

ROUNDS = 3
ROWS = 100_000


@measurement
def score(scene: Scene) -> Iterator[Row]:
    """Seconds of the whole command and of the drop itself, compared with a server-side COPY of the same rows."""
    settings = scene.home.settings
    whole, inside, peaks, copies = [], [], [], []
    for seed in range(1, ROUNDS + 1):
        path = put(scene, f"bench-{seed}.parquet", ROWS, seed)
        ended, drop = scored_once(scene, path.name, ROWS)
        whole.append(ended.seconds)
        inside.append(drop["ms_total"] / 1000)
        peaks.append(ended.peak_mib)
        copies.append(copied(settings, drop["run_id"]))
    floor = Beside("server-side binary COPY and the same indexes", median(copies))
    yield Row("score 100,000 rows, whole command", median(whole), "s", None, floor)
    yield Row("score 100,000 rows, without start-up", median(inside), "s", None, floor)
    yield Row("score 100,000 rows, peak memory", max(peaks), "MiB", None, None)
