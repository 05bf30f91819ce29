"""Examples of simulated orders, made by the real steps, with the best possible prediction for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb.accepted_rows import SortedRows
from apex_ml.contract.model import Contract
from apex_ml.contract.names import LAST_TARGET
from apex_ml.core.development import Development, Options, develop
from apex_ml.core.examples import Examples
from apex_ml.core.features import feature_columns
from apex_ml.core.split import PARTS, temporal
from apex_ml.services.holdout import class_indexes
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.posterior import posterior_predictive
from apex_ml.simulate.process import load_process
from apex_ml.steps.elt import make_examples
from tests.support.model_infos import INFO

BEST = "p_best_"


@dataclass(frozen=True)
class SimulatedRun:
    """Parts of examples; `best` holds each part's best possible probabilities (n, classes)."""

    contract: Contract
    parts: dict[str, Examples]
    best: dict[str, np.ndarray]

    def develop(self, *, history: bool = True, threads: int = 2) -> Development:
        """A model by the default options, with or without the features of the history."""
        columns = feature_columns(self.contract)
        kept = columns if history else tuple(c for c in columns if not c.name.startswith(LAST_TARGET.split("_")[0]))
        return develop(self.parts, kept, self.contract.classes, (), Options(threads=threads), INFO)

    def excess(self, done: Development, part: str = "test") -> float:
        """Excess of a model's expected log loss over the minimum, on a part, as a share of the minimum.

        It does not use the drawn classes: the expectation under the best probabilities is exact.
        """
        best, p = self.best[part], done.model.probabilities(self.parts[part].table)
        minimum = -(best * np.log(best)).sum(axis=1).mean()
        return float(-(best * np.log(p)).sum(axis=1).mean() / minimum - 1)


def simulated_run(contract: Contract, folder: Path, mode: str, *, orders: int, clients: int, seed: int) -> SimulatedRun:
    """Simulate, write files, make examples from them and split them in time."""
    process = load_process()
    table = simulate_orders(process, orders=orders, clients=clients, seed=seed, mode=mode)
    best = posterior_predictive(process, table, mode=mode)
    plain = pa.table(
        [table.column(name).cast(contract.columns[name].arrow_type) for name in contract.columns],
        names=list(contract.columns),
    )
    path = folder / f"{mode}.parquet"
    pq.write_table(plain, path)
    with duckdb.connect() as con:
        examples = pa.concat_tables(list(make_examples(SortedRows(con, contract, [path]), 2)))
    path.unlink()
    # orders of one client and day have the same best prediction, so that client and day are a sufficient key
    key = [contract.entity, contract.timestamp]
    names = [f"{BEST}{level}" for level in contract.classes]
    places = [process.classes.index(level) for level in contract.classes]
    known = plain.select(key)
    for name, place in zip(names, places, strict=True):
        known = known.append_column(name, pa.array(best[:, place]))
    known = known.group_by(key).aggregate([(name, "min") for name in names])
    examples = examples.join(known, key).combine_chunks()
    examples = examples.take(
        pc.sort_indices(examples, [(contract.timestamp, "ascending"), (contract.entity, "ascending")])
    )
    days = examples.column(contract.timestamp).cast(pa.int32()).to_numpy()
    where, _ = temporal(days, contract.split)
    parts, bests = {}, {}
    for index, part in enumerate(PARTS):
        rows = examples.filter(pa.array(where == index))
        bests[part] = np.column_stack([rows.column(f"{name}_min").to_numpy() for name in names])
        parts[part] = Examples(
            rows,
            class_indexes(rows, contract.target, contract.classes),
            rows.column(contract.entity).to_numpy(zero_copy_only=False),
            days[where == index],
        )
    return SimulatedRun(contract, parts, bests)
