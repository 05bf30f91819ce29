"""Follow the champion: the alias is looked at every two seconds, and what is loaded is replaced as a whole.

The alias is read by MLflow's REST API, as scoring reads it; what a person or a killed process left half done is healed
by the steps, not here. While the registry or Postgres is away the loaded judge goes on answering.
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
from apex_ml.serving.predictor import Judge, load_judge

logger = logging.getLogger(__name__)
EVERY_SECONDS = 2.0
POSTGRES_EVERY_SECONDS = 10.0
AGAIN_SECONDS = 10.0
"""So long after a version could not be loaded it is tried again."""
LATE_SECONDS = 15.0
NO_CHAMPION = "there is no champion yet; train one: make train"


class ChampionWatcher:
    """Holds the judge of the champion in `judge`: None until there is one. Looks in a thread of its own."""

    def __init__(
        self, context: StepContext, also: Callable[[], None] = lambda: None, every: float = EVERY_SECONDS
    ) -> None:
        self.judge: Judge | None = None
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
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; does not wait for a registry that hangs."""
        self._stopped.set()
        self._thread.join(timeout=1)

    @property
    def waiting(self) -> str:
        """Why there is no judge yet, for whoever asks for a prediction."""
        problems = self.problems()
        return "; ".join(problems) if problems else "the champion is being loaded"

    def problems(self) -> list[str]:
        """What is not as it should be, without addresses or paths: those are in the log."""
        found = sorted(self._problems.values())
        if (late := time.monotonic() - self._looked) > max(LATE_SECONDS, 3 * self._every):
            found.append(f"registry: no answer for {late:.0f} s")
        return found

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception:  # whatever it is, the service goes on with what it has
                self._tell("follower", "the champion cannot be followed; see the log")
                logger.exception("follow_failed")
            else:
                self._tell("follower", None)
            self._stopped.wait(self._every)

    def look(self) -> None:
        """Look once: at the alias, at the history snapshots, at what else there is, and now and then at Postgres."""
        self._also()
        try:
            champion = self._registry.by_alias(CHAMPION)
        except ApexError as error:
            self._tell("registry", "registry: does not answer as it should", str(error))
        else:
            self._tell("registry", None)
            self._take(champion)
        self._looked = time.monotonic()
        if self._looked - self._asked_postgres >= POSTGRES_EVERY_SECONDS:
            self._asked_postgres = self._looked
            try:
                ping(self._context.settings)
            except ApexError as error:
                self._tell("postgres", "postgres: does not answer", str(error))
            else:
                self._tell("postgres", None)

    def _take(self, champion: ModelVersion | None) -> None:
        if champion is None:
            gone = (
                f"the champion's alias is gone; going on with version {self.judge.version.version}"
                if self.judge
                else ""
            )
            self._tell("champion", gone or NO_CHAMPION)
            return
        self._tell("champion", None)
        snapshots = frozenset(
            (str(path), path.stat().st_mtime_ns) for path in self._context.processed.glob(f"*/elt/{MANIFEST}")
        )
        wanted = (champion.version, champion.model_id, snapshots)
        loaded = self.judge.version if self.judge else None
        if loaded and (loaded.version, loaded.model_id, self._snapshots) == wanted:
            self._tell("loading", None)
            return
        if self._tried[0] == wanted and time.monotonic() - self._tried[1] < AGAIN_SECONDS:
            return
        self._tried = (wanted, time.monotonic())
        begun = time.monotonic()
        try:
            judge = load_judge(self._context, self._registry, champion, self.judge)
        except ApexError as error:
            going_on = f"; going on with version {loaded.version}" if loaded else ""
            self._tell("loading", f"version {champion.version} cannot be loaded; see the log{going_on}", str(error))
            return
        warm_up(judge)
        self.judge, self._snapshots = judge, snapshots
        self._tell("loading", None)
        logger.info(
            "judge_loaded version=%s snapshot=%s as_of=%s clients=%s seconds=%.3f",
            *(judge.version.version, judge.history.sha256[:12], judge.history.as_of, len(judge.history)),
            time.monotonic() - begun,
        )

    def _tell(self, what: str, problem: str | None, detail: str = "") -> None:
        """Note a problem or its end; each is logged once."""
        if problem is None:
            if self._problems.pop(what, None) is not None:
                logger.info("problem_over what=%s", what)
        elif self._problems.get(what) != problem:
            self._problems = {**self._problems, what: problem}
            logger.warning("problem what=%s problem=%s detail=%s", what, problem, detail)


def warm_up(judge: Judge) -> None:
    """Judge an order of which nothing is known: what is made at first use is made before the first request."""
    columns: dict[str, list[str | date | None]] = {name: [None] for name in judge.contract.columns}
    judge.judge(Orders(columns | {judge.contract.timestamp: [judge.history.as_of]}, {}))
