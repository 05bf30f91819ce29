"""How good the models are: on the raw files beside a table, on simulated rows beside the best that is possible."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apex_ml.pipelines import load_pipeline
from apex_ml.settings import CODE_ROOT, Settings
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import Scene, clean_environment, run_measured
from benchmarks.steps import TABLE_OF, table_log_loss

SIMULATED = {"orders": 1_250_000, "clients": 150_000, "seed": 5}
"""About 90,000 training examples."""


@measurement
def models(scene: Scene) -> Iterator[Row]:
    """Log loss, calibration and kept features of the default model, without a search."""
    contract = load_pipeline(scene.home.settings).contract
    trained = scene.chain["train"].result
    loss, prior = float(trained["test_log_loss"]), float(trained["test_prior_log_loss"])
    table = table_log_loss(
        f"{load_pipeline(scene.home.settings).locations.processed}/bench/split", TABLE_OF, contract.target, "test"
    )
    beside = Beside(f"log loss of a frequency table of {TABLE_OF}", table)
    yield Row("test log loss / the table's", loss / table, "", 1.002, beside, f"log loss {loss:.5f}")
    yield Row("test log loss - the class prior's", loss - prior, "nats", -0.01, Beside("class prior", prior))
    yield Row("test ECE, classwise, equal-mass bins", float(trained["test_ece"]), "", 0.01)
    others = sorted(set(trained["features"]) - {TABLE_OF})
    yield Row(f"features kept beside {TABLE_OF}", len(others), "", 0, None, ", ".join(others))

    result = {mode: _simulated(scene, mode) for mode in ("base", "signal")}
    base, signal = result["base"], result["signal"]
    note = f"{base['examples']:,} training examples, expectation, not a draw"
    yield Row("base process: log loss above the best possible", 100 * base["excess"], "%", 0.15, None, note)
    without = Beside("the same without history, %", 100 * signal["without_history"])
    note = f"{signal['examples']:,} training examples; the client effect is integrated out"
    yield Row("process with signal: log loss above the best possible", 100 * signal["excess"], "%", 1.0, without, note)
    ratio = signal["excess"] / signal["without_history"]
    yield Row("process with signal: excess / excess without history", ratio, "", 0.5, without)


def _simulated(scene: Scene, mode: str) -> dict[str, Any]:
    code = "import sys; from benchmarks.models import main; main(*sys.argv[1:])"
    env = clean_environment(PYTHONPATH=f"{CODE_ROOT}:{CODE_ROOT / 'plugins'}", OMP_WAIT_POLICY="PASSIVE")
    ended = run_measured([sys.executable, "-W", "ignore", "-c", code, mode, str(scene.folder)], env)
    measured: dict[str, Any] = json.loads(ended.output.splitlines()[-1])
    return measured


def main(mode: str, folder: str) -> None:
    """Print how far the default models are from the best possible, with and without the history's features."""
    from tests.support.simulated_run import simulated_run

    contract = load_pipeline(Settings.load(home=folder)).contract
    simulated = simulated_run(contract, Path(folder), mode, **SIMULATED)
    result = {"examples": len(simulated.parts["train"].y), "excess": simulated.excess(simulated.develop())}
    if mode != "base":
        result["without_history"] = simulated.excess(simulated.develop(history=False))
    print("\n" + json.dumps(result))
