"""What the routes share: the champion, the keys, the metrics, the recorder; and the prediction for one request."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.services.run_folder import StepContext
from apex_ml.serving.answers import answer_bytes
from apex_ml.serving.champion_watcher import ChampionWatcher
from apex_ml.serving.keys import KeyFile
from apex_ml.serving.metrics import ServingMetrics
from apex_ml.serving.problems import refused
from apex_ml.serving.recorder import Recorder
from apex_ml.wording import counted


class Service:
    """What the routes share, from the start-up of the application to its shutdown."""

    def __init__(self, context: StepContext) -> None:
        contract = context.contract
        self.context = context
        self.keys = KeyFile(context.settings)
        # one for the event loop and one for the thread beside it: a reader's state must not be shared
        self.reader, self.reader_beside = RequestReader(contract), RequestReader(contract)
        self.metrics = ServingMetrics(contract.classes)
        self.watcher = ChampionWatcher(context, self.keys.look)
        self.recorder = Recorder(context, self.metrics)
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.metrics.watch(
            lambda: self.watcher.predictor.version.version if self.watcher.predictor else 0,
            lambda: len(self.problems()),
            lambda: len(self.recorder),
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
        return [*self.watcher.problems(), *self.keys.problems(), *self.recorder.problems()]

    def predict(self, reader: RequestReader, body: bytes, state: dict[str, Any]) -> tuple[int, bytes]:
        """Answer the body of a request: status and body."""
        begun = time.perf_counter()
        predictor, request_id = self.watcher.predictor, state["request_id"]
        if predictor is None:
            return 503, refused("not_ready", self.watcher.waiting, request_id)
        state["version"] = predictor.version.version
        try:
            orders = reader.read(body, predictor.history.as_of)
            predicted = predictor.predict(orders)
        except RefusedError as error:
            self.metrics.refused(error.total)
            faults = [fault._asdict() for fault in error.faults]
            message = f"the request has {counted(error.total, 'fault')}; none of its orders was scored"
            return 422, refused("refused", message, request_id, faults=faults, total=error.total)
        state["orders"] = len(orders)
        answer = answer_bytes(predictor, predicted, request_id, begun)
        self.metrics.count_orders(predicted.prediction.predicted, predicted.known, len(orders.warnings))
        self.recorder.offer(request_id, predictor, predicted)
        return 200, answer
