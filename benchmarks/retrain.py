"""A retraining with a search, and the data steps on ten times the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.features import TIMES, multiply_raw
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene

TRIALS = 20
DATA_STEPS = ("validate", "elt", "split")
STEPS = (*DATA_STEPS, "train", "promote")


@measurement
def retrain(scene: Scene) -> Iterator[Row]:
    """validate → promote with 20 trials, each step in its own process; then the data steps on ten times the rows."""
    more = {"validate": ("--force",), "train": ("--trials", str(TRIALS))}
    first = {step: scene.home.apex(step, "--run", "searched", *more.get(step, ())) for step in STEPS}
    shares = ", ".join(f"{step} {ended.seconds:.1f}" for step, ended in first.items())
    # the minimum on two free cores: shows how much of the time others took
    alone = Beside("half of its CPU seconds", sum(e.cpu_seconds for e in first.values()) / 2)
    yield Row(f"retrain with {TRIALS} trials", sum(e.seconds for e in first.values()), "s", 90.0, alone, shares)
    peaks = ", ".join(f"{step} {ended.peak_mib:.0f}" for step, ended in first.items())
    yield Row("retrain, peak memory", max(e.peak_mib for e in first.values()), "MiB", 1536.0, None, peaks)

    raw = scene.folder / "raw-tenfold"
    multiply_raw(scene.raw, raw)
    # a separate folder: the batch rules refuse ten times the rows of the earlier runs
    home = replace(
        scene.home, env=scene.home.env | {"APEX_ORDERS__LOCATIONS__PROCESSED": str(scene.folder / "processed-tenfold")}
    )
    inputs = {"validate": ("--force", "--raw", str(raw))}
    many = {step: home.apex(step, "--run", "tenfold", *inputs.get(step, ())) for step in DATA_STEPS}
    small, large = (sum(ended[step].seconds for step in DATA_STEPS) for ended in (first, many))
    shares = ", ".join(f"{step} {many[step].seconds / first[step].seconds:.1f} ×" for step in DATA_STEPS)
    yield Row(f"data steps, {TIMES} × the rows", large / small, "×", 10.5, Beside("once, s", small), shares)
    peaks = ", ".join(f"{step} {ended.peak_mib:.0f}" for step, ended in many.items())
    beside = Beside("once", max(first[step].peak_mib for step in DATA_STEPS))
    peak = max(ended.peak_mib for ended in many.values())
    yield Row(f"data steps, {TIMES} × the rows, peak memory", peak, "MiB", 1536.0, beside, peaks)
