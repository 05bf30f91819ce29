"""Follow the champion: check the alias every two seconds, and replace the loaded predictor as a whole.

The alias is read by MLflow's REST API, as scoring reads it; what a person or a killed process left half done is healed
by the steps, not here. While the registry or Postgres is unavailable, the loaded predictor continues to answer.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import date

from apex_ml.adapters.mlflow.registry import CHAMPION, ModelVersion, Registry
from apex_ml.adapters.postgres.connection import ping
from apex_ml.contract.locations import is_object_store
from apex_ml.contract.requests.reader import Rows
from apex_ml.errors import ApexError
from apex_ml.services.results import EltResult
from apex_ml.services.run_folder import StepContext
from apex_ml.services.scorer import NO_CHAMPION, UnusableModelError
from apex_ml.serving.memory import MemoryBudget, OverBudgetError
from apex_ml.serving.predictor import Predictor, load_predictor

logger = logging.getLogger(__name__)
EVERY_SECONDS = 2.0
POSTGRES_EVERY_SECONDS = 10.0
STORE_EVERY_SECONDS = 10.0
RETRY_SECONDS = 10.0
"""Seconds until the next try to load a version that could not be loaded."""
LATE_SECONDS = 15.0


class ChampionWatcher:
    """Holds the predictor of the champion in `predictor`: None until there is one. Checks in a separate thread."""

    def __init__(self, context: StepContext, budget: MemoryBudget, every: float = EVERY_SECONDS) -> None:
        self.predictor: Predictor | None = None
        self._context, self._budget = context, budget
        self._name = context.pipeline.name
        self._registry = Registry(context.settings, context.model_name)
        self._every = every
        self._snapshots: frozenset[tuple[str, str]] = frozenset()
        self._listed = float("-inf")
        self._newest: frozenset[tuple[str, str]] = frozenset()
        self._problems: dict[str, str] = {}
        self._looked = time.monotonic()
        self._asked_postgres = float("-inf")
        self._tried: tuple[object, float] = (None, float("-inf"))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow-{self._name}", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, without waiting for a registry that hangs."""
        self._stopped.set()
        self._thread.join(timeout=1)

    @property
    def waiting(self) -> str:
        """Why there is no predictor yet, for the answers to requests."""
        problems = self.problems()
        return "; ".join(problems) if problems else "the champion is being loaded"

    @property
    def is_over_memory(self) -> bool:
        """Whether the champion is not loaded because it does not fit into the memory budget."""
        return "memory" in self._problems

    def problems(self) -> list[str]:
        """The problems, without addresses or paths, which are in the log."""
        problems = sorted(self._problems.values())
        if (late := time.monotonic() - self._looked) > max(LATE_SECONDS, 3 * self._every):
            problems.append(f"registry: no answer for {late:.0f} s")
        return problems

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception:  # after any error the service continues with the loaded champion
                self._report("follower", "the champion cannot be followed; see the log")
                logger.exception("follow_failed pipeline=%s", self._name)
            else:
                self._report("follower", None)
            self._stopped.wait(self._every)

    def look(self) -> None:
        """Check once: the alias, the history snapshots, and sometimes Postgres."""
        try:
            champion = self._registry.by_alias(CHAMPION)
        except ApexError as error:
            self._report("registry", "registry: does not answer as it should", str(error))
        else:
            self._report("registry", None)
            self._take(champion)
        self._looked = time.monotonic()
        if self._looked - self._asked_postgres >= POSTGRES_EVERY_SECONDS:
            self._asked_postgres = self._looked
            try:
                ping(self._context.settings)
            except ApexError as error:
                self._report("postgres", "postgres: does not answer", str(error))
            else:
                self._report("postgres", None)

    def _take(self, champion: ModelVersion | None) -> None:
        if champion is None:
            gone = (
                f"the champion's alias is missing; continuing with version {self.predictor.version.version}"
                if self.predictor
                else ""
            )
            self._report("champion", gone or NO_CHAMPION.format(self._context.pipeline.command("retrain")))
            return
        self._report("champion", None)
        snapshots = self._list_snapshots()
        target = (champion.version, champion.model_id, snapshots)
        loaded = self.predictor.version if self.predictor else None
        if loaded and (loaded.version, loaded.model_id, self._snapshots) == target:
            self._report("loading", None)
            self._report("memory", None)
            return
        if self._tried[0] == target and time.monotonic() - self._tried[1] < RETRY_SECONDS:
            return
        self._tried = (target, time.monotonic())
        begun = time.monotonic()
        going_on = f"; continuing with version {loaded.version}" if loaded else ""
        try:
            with self._budget.loading(self._name) as admit:
                predictor = load_predictor(self._context, self._registry, champion, admit, self.predictor)
                warm_up(predictor)
        except OverBudgetError as error:
            self._report("loading", None)
            self._report("memory", f"{error}{going_on}")
            return
        except Exception as error:  # whatever is wrong with a version must not stop the service
            if not isinstance(error, ApexError):
                logger.exception("load_failed pipeline=%s version=%s", self._name, champion.version)
            self._report("memory", None)
            self._report("loading", f"version {champion.version} {self._fault(error)}{going_on}", str(error))
            return
            self._context.runs.release()  # the history is in memory
        self.predictor, self._snapshots = predictor, snapshots
        self._report("loading", None)
        self._report("memory", None)
        logger.info(
            "predictor_loaded pipeline=%s version=%s snapshot=%s as_of=%s entities=%s seconds=%.3f",
            self._name,
            predictor.version.version,
            predictor.history.sha256[:12],
            predictor.history.as_of,
            len(predictor.history),
            time.monotonic() - begun,
        )

    def _list_snapshots(self) -> frozenset[tuple[str, str]]:
        """The history snapshots that there are, as last listed: a listing of an object store is paid for."""
        is_stored = is_object_store(self._context.pipeline.locations.processed)
        if time.monotonic() - self._listed >= (STORE_EVERY_SECONDS if is_stored else 0):
            try:
                self._newest, self._listed = self._context.runs.versions(EltResult.STEP), time.monotonic()
            except ApexError as error:
                self._report("runs", "the store of the runs does not answer", str(error))
            else:
                self._report("runs", None)
        return self._newest

    def _fault(self, error: Exception) -> str:
        """Why a version is not used, without the path that the message of the error holds."""
        if isinstance(error, UnusableModelError):
            return (
                f"cannot score by the contract that this service has read: after a change of the file run apex up;"
                f" else apex plan {self._name} says why"
            )
        return "cannot be loaded; see the log"

    def _report(self, what: str, problem: str | None, detail: str = "") -> None:
        """Record a problem or its end; each is logged once."""
        if problem is None:
            if self._problems.pop(what, None) is not None:
                logger.info("problem_over pipeline=%s what=%s", self._name, what)
        elif self._problems.get(what) != problem:
            self._problems = {**self._problems, what: problem}
            logger.warning("problem pipeline=%s what=%s problem=%s detail=%s", self._name, what, problem, detail)


def warm_up(predictor: Predictor) -> None:
    """Predict an empty row, so that all lazy initialisation is done before the first request."""
    columns: dict[str, list[str | date | None]] = {name: [None] for name in predictor.contract.columns}
    if predictor.contract.has_timestamp:
        columns[predictor.contract.timestamp] = [predictor.history.since]
    predictor.predict(Rows(columns, {}))
