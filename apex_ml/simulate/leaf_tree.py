"""The tree of regions, agencies and routes that clients belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apex_ml.simulate.draws import Codes, stream
from apex_ml.simulate.process import Process
from apex_ml.simulate.process_columns import Branch


@dataclass(frozen=True)
class LeafTree:
    """The leaves of the tree, in order, with the values of every branch column."""

    starts: npt.NDArray[np.int64]  # first leaf of each top branch, and the number of leaves
    columns: dict[str, tuple[Codes, list[str]]]  # code of each leaf, levels

    @classmethod
    def of(cls, process: Process) -> LeafTree:
        """The tree of a process; without columns of kind branch it has none."""
        leaves = [
            (top, middle, agency, leaf)
            for top, middles in process.tree.items()
            for middle, counts in middles.items()
            for agency, count in enumerate(counts, 1)
            for leaf in range(1, count + 1)
        ]
        tops = [leaf[0] for leaf in leaves]
        starts = [tops.index(top) for top in process.tree] + [len(leaves)]
        columns = {}
        for name, column in process.named(Branch).items():
            texts = [column.template.format(*leaf) for leaf in leaves]
            levels = list(dict.fromkeys(texts))
            place = {level: code for code, level in enumerate(levels)}
            columns[name] = (np.array([place[text] for text in texts], np.int32), levels)
        return cls(np.array(starts), columns)

    def draw(self, seed: int, entities: int) -> npt.NDArray[np.int64]:
        """A leaf per entity: top branch uniform, leaf uniform within it."""
        tops = stream(seed, "branch:top").integers(0, len(self.starts) - 1, entities)
        counts = np.diff(self.starts)[tops]
        return np.asarray(self.starts[tops] + (stream(seed, "branch:leaf").random(entities) * counts).astype(np.int64))
