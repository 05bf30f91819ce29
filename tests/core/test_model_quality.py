"""How close the default model is to the best possible prediction, on small simulated data.

The distances are expectations over all possible classes, so that they contain no luck of the draw. On data
of full size the bench measures the same (`models`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apex_ml.contract.model import Contract
from tests.support.simulated_run import simulated_run


def test_without_a_signal_but_maturity_the_model_is_the_best_possible(contract: Contract, tmp_path: Path) -> None:
    simulated = simulated_run(contract, tmp_path, "base", orders=90_000, clients=12_000, seed=5)
    done = simulated.develop(threads=1)
    assert [v.name for v in done.verdicts if v.kept] == ["madurez_digital_cd"]
    assert 0 <= simulated.excess(done) < 0.0015
    assert done.metrics["test_log_loss"] < done.metrics["test_prior_log_loss"] - 0.02


def test_with_a_signal_the_history_makes_the_difference(contract: Contract, tmp_path: Path) -> None:
    simulated = simulated_run(contract, tmp_path, "signal", orders=120_000, clients=15_000, seed=5)
    excess, without = (simulated.excess(simulated.develop(history=history, threads=1)) for history in (True, False))
    assert 0 < excess < 0.02
    assert without > 5 * excess


def test_the_optimum_belongs_to_its_orders(contract: Contract, tmp_path: Path) -> None:
    """In the long run the classes come as the best prediction says, order by order."""
    simulated = simulated_run(contract, tmp_path, "signal", orders=60_000, clients=8_000, seed=6)
    for part, best in simulated.best.items():
        came = np.eye(len(contract.classes))[simulated.parts[part].y]
        np.testing.assert_allclose(best.sum(axis=1), 1)
        deviation = np.sqrt((best * (1 - best)).sum(axis=0))
        assert (np.abs((came - best).sum(axis=0)) < 4 * deviation).all()
        sharp = best.max(axis=1) > 0.8
        hits = came[np.arange(len(best)), best.argmax(axis=1)][sharp]
        assert hits.mean() == pytest.approx(best.max(axis=1)[sharp].mean(), abs=0.03)
