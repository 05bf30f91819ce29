"""Which task gets the next slot of a pool that pipelines share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.task.priority_strategy import PriorityWeightStrategy

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

FIRST = 10_000
"""Weight of a task's first chunk, and of tasks without chunks; above the number of chunks that a run can have."""
FINISH_FIRST = "upstream"
"""Airflow's rule for DAGs whose tasks follow each other: a run that began ends before another one begins."""


class EarlyChunksFirst(PriorityWeightStrategy):
    """The first chunk of every run goes before the second chunk of any.

    So a pipeline with a thousand waiting drops does not starve one with a single drop: that one waits at most for the
    chunks that run already. By Airflow's own rules all chunks of the older run would go first.
    """

    def get_weight(self, ti: TaskInstance) -> int:
        """Return the weight of a task: smaller for a later chunk."""
        return FIRST - min(max(ti.map_index, 0), FIRST - 1)


EARLY_CHUNKS_FIRST = f"{EarlyChunksFirst.__module__}.{EarlyChunksFirst.__qualname__}"
"""The rule by its name, under which a plugin registers it."""
