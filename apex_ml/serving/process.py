"""What all pipelines of the service share: the keys, the metrics, the memory; and the state of all of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from apex_ml.contract.pipeline import Pipeline
from apex_ml.errors import ConfigError
from apex_ml.services.run_folder import StepContext
from apex_ml.serving.keys import KeyFile
from apex_ml.serving.memory import MemoryBudget
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.serving.service import BrokenPipeline, PipelineService
from apex_ml.settings import Settings

logger = logging.getLogger(__name__)
KEYS_EVERY_SECONDS = 2.0


class OnlineService:
    """Every pipeline of one process. A pipeline does not know of the others.

    Raises :class:`~apex_ml.errors.ConfigError` for settings that contradict each other.
    """

    def __init__(self, settings: Settings, pipelines: Sequence[Pipeline], faults: Mapping[str, ConfigError]) -> None:
        self.settings = settings
        self.keys = KeyFile(settings)
        self.metrics = ServingMetrics()
        budget = MemoryBudget(settings.serving_memory_mb)
        services: list[PipelineService | BrokenPipeline] = [
            PipelineService(_context_of(settings, pipeline), self.metrics, budget, self.keys.problems)
            for pipeline in pipelines
        ]
        for name, error in faults.items():
            logger.error("pipeline_broken name=%s reason=%s", name, error)
            # the folder of the pipelines is a path of this machine
            fault = str(error).replace(str(settings.pipelines), settings.pipelines.name)
            services.append(BrokenPipeline(name, fault, self.metrics))
        self.pipelines = {pipeline.name: pipeline for pipeline in sorted(services, key=lambda p: p.name)}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow_keys, name="follow-keys", daemon=True)

    @property
    def only(self) -> PipelineService | None:
        """The pipeline, if there is only one and its file can be used."""
        (first, *more) = self.pipelines.values()
        return first if not more and isinstance(first, PipelineService) else None

    def start(self) -> None:
        """Start every pipeline, and follow the keys."""
        for pipeline in self.pipelines.values():
            pipeline.start()
        self._thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopped.set()
        for pipeline in self.pipelines.values():
            pipeline.stop()
        self._thread.join(timeout=1)

    def _follow_keys(self) -> None:
        while not self._stopped.wait(KEYS_EVERY_SECONDS):
            self.keys.look()


def _context_of(settings: Settings, pipeline: Pipeline) -> StepContext:
    return StepContext(settings.model_copy(update={"pipeline": pipeline.name}), pipeline, "serving")
