"""One pipeline of the service: its champion, its requests' reader, its recorder; and the prediction for one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from apex_ml.adapters.duckdb.derived_columns import request_reader
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.services.run_folder import StepContext
from apex_ml.serving.answers import answer_bytes
from apex_ml.serving.champion_watcher import ChampionWatcher
from apex_ml.serving.memory import MemoryBudget
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.serving.problems import refused
from apex_ml.serving.recorder import Recorder
from apex_ml.wording import counted


@dataclass(frozen=True)
class PipelineState:
    """What /ready reports of a pipeline."""

    ready: bool
    model_version: int | None
    problems: list[str]


class PipelineService:
    """What the routes of one pipeline share, from the start-up of the application to its shutdown."""

    def __init__(
        self,
        context: StepContext,
        metrics: ServingMetrics,
        budget: MemoryBudget,
        common_problems: Callable[[], list[str]] = list,
    ) -> None:
        contract = context.contract
        self.name = context.pipeline.name
        self.context = context
        # one for the event loop and one for the thread beside it: a reader's state must not be shared
        self.reader, self.reader_beside = request_reader(contract), request_reader(contract)
        self.metrics = metrics.of(self.name, contract.classes)
        self.watcher = ChampionWatcher(context, budget)
        self.recorder = Recorder(context, self.metrics)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix=f"predict-{self.name}")
        self._common_problems = common_problems
        self.metrics.watch(
            version=lambda: self.watcher.predictor.version.version if self.watcher.predictor else 0,
            problems=lambda: len(self.problems()),
            waiting=lambda: len(self.recorder),
            memory=lambda: budget.held(self.name),
            over_memory=lambda: self.watcher.is_over_memory,
        )

    def start(self) -> None:
        """Watch the champion and record the answers."""
        self.watcher.start()
        self.recorder.start()

    def stop(self) -> None:
        """End the threads."""
        self.watcher.stop()
        self.recorder.stop()
        self.worker.shutdown()

    def problems(self) -> list[str]:
        """The problems that /ready reports."""
        return [*self.watcher.problems(), *self._common_problems(), *self.recorder.problems()]

    def state(self) -> PipelineState:
        """Whether the pipeline answers, and its problems."""
        predictor, problems = self.watcher.predictor, self.problems()
        if predictor is None and not problems:
            problems = [self.watcher.waiting]
        return PipelineState(predictor is not None, predictor.version.version if predictor else None, problems)

    def predict(self, reader: RequestReader, body: bytes, state: dict[str, Any]) -> tuple[int, bytes]:
        """Answer the body of a request: status and body."""
        begun = time.perf_counter()
        predictor, request_id = self.watcher.predictor, state["request_id"]
        if predictor is None:
            return 503, refused("not_ready", self.watcher.waiting, request_id)
        state["version"] = predictor.version.version
        try:
            rows = reader.read(body, predictor.history.since)
            predicted = predictor.predict(rows)
        except RefusedError as error:
            self.metrics.refused(error.total)
            faults = [fault._asdict() for fault in error.faults]
            message = f"the request has {counted(error.total, 'fault')}; none of its rows was scored"
            return 422, refused("refused", message, request_id, faults=faults, total=error.total)
        state["rows"] = len(rows)
        answer = answer_bytes(predictor, predicted, request_id, begun)
        self.metrics.count_rows(predicted.prediction.predicted, predicted.known, len(rows.warnings))
        self.recorder.offer(request_id, predictor, predicted)
        return 200, answer


class BrokenPipeline:
    """A pipeline whose file cannot be used: it answers 503 with the fault, until the service is started again."""

    def __init__(self, name: str, fault: str, metrics: ServingMetrics) -> None:
        self.name = name
        self.problem = f"{fault}; correct it, then restart the service: make up"
        metrics.of(name, ()).watch(
            version=lambda: 0,
            problems=lambda: 1,
            waiting=lambda: 0,
            memory=lambda: 0,
            over_memory=lambda: False,
        )

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def state(self) -> PipelineState:
        """Never ready."""
        return PipelineState(False, None, [self.problem])
