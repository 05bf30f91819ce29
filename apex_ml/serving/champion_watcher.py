"""Follow the champion: check the alias every two seconds, and replace the loaded predictor as a whole.

The alias is read by MLflow's REST API, as scoring reads it; what a person or a killed process left half done is healed
by the steps, not here. While the registry or Postgres is unavailable, the loaded predictor continues to answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import date

from apex_ml.adapters.mlflow.registry import CHAMPION, ModelVersion, Registry
from apex_ml.adapters.postgres.connection import ping
from apex_ml.contract.requests.reader import Orders
from apex_ml.errors import ApexError
from apex_ml.services.run_folder import MANIFEST, StepContext
from apex_ml.serving.predictor import Predictor, load_predictor

logger = logging.getLogger(__name__)
EVERY_SECONDS = 2.0
POSTGRES_EVERY_SECONDS = 10.0
RETRY_SECONDS = 10.0
"""Seconds until the next try to load a version that could not be loaded."""
LATE_SECONDS = 15.0
NO_CHAMPION = "there is no champion yet; train one: make train"


class ChampionWatcher:
    """Holds the predictor of the champion in `predictor`: None until there is one. Checks in a separate thread."""

    def __init__(
        self, context: StepContext, also: Callable[[], None] = lambda: None, every: float = EVERY_SECONDS
    ) -> None:
        self.predictor: Predictor | None = None
        self._also = also
        self._context = context
        self._registry = Registry(context.settings, context.model_name)
        self._every = every
        self._snapshots: frozenset[tuple[str, int]] = frozenset()
        self._problems: dict[str, str] = {}
        self._looked = time.monotonic()
        self._asked_postgres = float("-inf")
        self._tried: tuple[object, float] = (None, float("-inf"))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow-champion", daemon=True)

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
                logger.exception("follow_failed")
            else:
                self._report("follower", None)
            self._stopped.wait(self._every)

    def look(self) -> None:
        """Check once: the alias, the history snapshots, the keys, and sometimes Postgres."""
        self._also()
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
            self._report("champion", gone or NO_CHAMPION)
            return
        self._report("champion", None)
        snapshots = frozenset(
            (str(path), path.stat().st_mtime_ns) for path in self._context.processed.glob(f"*/elt/{MANIFEST}")
        )
        target = (champion.version, champion.model_id, snapshots)
        loaded = self.predictor.version if self.predictor else None
        if loaded and (loaded.version, loaded.model_id, self._snapshots) == target:
            self._report("loading", None)
            return
        if self._tried[0] == target and time.monotonic() - self._tried[1] < RETRY_SECONDS:
            return
        self._tried = (target, time.monotonic())
        begun = time.monotonic()
        try:
            predictor = load_predictor(self._context, self._registry, champion, self.predictor)
        except ApexError as error:
            going_on = f"; continuing with version {loaded.version}" if loaded else ""
            self._report("loading", f"version {champion.version} cannot be loaded; see the log{going_on}", str(error))
            return
        warm_up(predictor)
        self.predictor, self._snapshots = predictor, snapshots
        self._report("loading", None)
        logger.info(
            "predictor_loaded version=%s snapshot=%s as_of=%s clients=%s seconds=%.3f",
            *(
                predictor.version.version,
                predictor.history.sha256[:12],
                predictor.history.as_of,
                len(predictor.history),
            ),
            time.monotonic() - begun,
        )

    def _report(self, what: str, problem: str | None, detail: str = "") -> None:
        """Record a problem or its end; each is logged once."""
        if problem is None:
            if self._problems.pop(what, None) is not None:
                logger.info("problem_over what=%s", what)
        elif self._problems.get(what) != problem:
            self._problems = {**self._problems, what: problem}
            logger.warning("problem what=%s problem=%s detail=%s", what, problem, detail)


def warm_up(predictor: Predictor) -> None:
    """Predict an empty order, so that all lazy initialisation is done before the first request."""
    columns: dict[str, list[str | date | None]] = {name: [None] for name in predictor.contract.columns}
    predictor.predict(Orders(columns | {predictor.contract.timestamp: [predictor.history.as_of]}, {}))
