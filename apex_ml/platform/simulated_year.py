"""A simulated year: the same steps as in the DAGs, week after week, on a platform of its own and without a scheduler.

A week's orders are scored before they happen and come back as raw data when the week is over. From one week on orders
behave differently. What monitoring makes of it is counted: false alarms before, weeks until it is found, the retraining
that it asks for, and the quality that comes back.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.mlflow.registry import CHAMPION, Registry
from apex_ml.adapters.postgres import simulated_results
from apex_ml.adapters.storage.atomic_writes import new_file
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded import start, stop
from apex_ml.platform.embedded.env_file import ensure_env, remember
from apex_ml.settings import Settings
from apex_ml.simulate.files import write_part
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.process import load_process
from apex_ml.text import VisibleFormatter

if TYPE_CHECKING:  # a year imports the steps when it starts
    from apex_ml.services.run_folder import StepContext

MODE = "year"
NOWHERE = "http://127.0.0.1:9"
"""An Airflow elsewhere: this platform does not run one."""
KEPT_RUNS = 3
"""Runs whose files stay; a year of them would fill the disk."""


@dataclass(frozen=True)
class Plan:
    """How large the year is. Clients order often, so that their newest orders are recent ones."""

    seed: int = 1
    weeks: int = 52
    drift_week: int = 20
    history_weeks: int = 8
    clients: int = 4_000
    orders_a_week: int = 6_000
    retrain_every: int = 4
    start: date = date(2024, 1, 1)

    def __post_init__(self) -> None:
        if not 1 < self.drift_week <= self.weeks:
            raise ConfigError(f"--drift-week {self.drift_week}: give a week from 2 to the last one, {self.weeks}")
        if self.monday(self.weeks + 1) > date.today():
            raise ConfigError(
                f"--start {self.start}: the year would end on {self.monday(self.weeks + 1)}; give an earlier day, so"
                " that it is over today"
            )

    def monday(self, week: int) -> date:
        """First day of a week, counted from 1; the history lies in weeks up to 0."""
        return self.start + timedelta(weeks=self.history_weeks + week - 1)


@dataclass
class Week:
    """What happened in one week."""

    week: int
    monday: str
    version: int
    log_loss: float | None = None
    worse: bool = False
    drifted: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    retrained: str = ""
    """Why there was a training: scheduled, degraded, or empty."""
    promoted: int | None = None


@dataclass(frozen=True, kw_only=True)
class YearSummary:
    """False alarms, delays in weeks, and weeks whose training promoted nothing; None for what did not happen."""

    plan: Plan
    false_alarms: int
    weeks_until_drift_found: int | None
    weeks_until_degradation_found: int | None
    weeks_until_promotion: int | None
    weeks_until_recovered: int | None
    drifted_weeks_after_promotion: int | None
    trainings: int
    trainings_without_promotion: int
    weeks: tuple[Week, ...]
    seconds: float | None = None
    """Duration of the simulation, once it is measured."""

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON-able values."""
        content = asdict(self) | {"plan": asdict(self.plan) | {"start": self.plan.start.isoformat()}}
        return {name: value for name, value in content.items() if name != "seconds" or value is not None}


def simulate_year(home: Path, plan: Plan, say: Callable[[str], None]) -> YearSummary:
    """Live through the year in a new home; returns the summary with every week.

    Postgres and MLflow of the home are up meanwhile, on free ports that its ``.env`` remembers. Raises
    :class:`~apex_ml.errors.ConfigError` when the home exists.
    """
    if home.exists() and any(home.iterdir()):
        raise ConfigError(f"{home} is not empty: choose another --home, or remove it (`apex down` in it first)")
    (home / "logs").mkdir(parents=True)
    with _logged(home / "logs" / "year.log"), _platform(home) as settings:
        weeks = list(_Year(settings, plan, say).live())
    return summary(plan, weeks)


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """What the steps log goes to a file, so that a week is one line on the screen."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def summary(plan: Plan, weeks: list[Week]) -> YearSummary:
    """Count what happened in the weeks of a year."""
    before = [w for w in weeks if w.week < plan.drift_week]
    after = [w for w in weeks if w.week >= plan.drift_week]

    def first(happened: Callable[[Week], bool], since: int = 0) -> int | None:
        return next((w.week for w in after if w.week >= since and happened(w)), None)

    def delay(week: int | None) -> int | None:
        return None if week is None else week - plan.drift_week

    drift = first(lambda w: any(not a.startswith("version") for a in w.alerts))
    degraded = first(lambda w: any(a.startswith("version") for a in w.alerts))
    promoted = first(lambda w: w.promoted is not None)
    recovered = None if promoted is None else first(lambda w: w.log_loss is not None and not w.worse, promoted + 1)
    return YearSummary(
        plan=plan,
        false_alarms=sum(len(w.alerts) for w in before),
        weeks_until_drift_found=delay(drift),
        weeks_until_degradation_found=delay(degraded),
        weeks_until_promotion=delay(promoted),
        weeks_until_recovered=delay(recovered),
        drifted_weeks_after_promotion=None
        if promoted is None
        else sum(bool(w.drifted) for w in after if w.week > promoted),
        trainings=sum(bool(w.retrained) for w in weeks),
        trainings_without_promotion=sum(bool(w.retrained) and w.promoted is None for w in weeks),
        weeks=tuple(weeks),
    )


@contextmanager
def _platform(home: Path) -> Iterator[Settings]:
    settings = ensure_env(Settings.load(home=home))
    for name in ("pg_port", "mlflow_port", "airflow_port", "serving_port"):
        with closing(socket.socket()) as probe:
            probe.bind((settings.host, 0))
            settings = remember(settings, name, str(probe.getsockname()[1]))
    settings = start.up(settings.model_copy(update={"airflow_url": NOWHERE, "serving": False}))
    try:
        yield settings
    finally:
        stop.down(settings)


class _Year:
    def __init__(self, settings: Settings, plan: Plan, say: Callable[[str], None]) -> None:
        self.settings, self.plan, self.say = settings, plan, say
        self.pipeline = load_pipeline(settings)
        self.contract: Contract = self.pipeline.contract
        process = load_process()
        mode = process.mode(MODE)
        drift = {n: d.model_copy(update={"day": plan.monday(plan.drift_week)}) for n, d in mode.drift.items()}
        last = plan.monday(plan.weeks + 1) - timedelta(days=1)
        total = plan.orders_a_week * (plan.history_weeks + plan.weeks)
        self.orders = simulate_orders(
            process,
            orders=total,
            clients=plan.clients,
            seed=plan.seed,
            start=plan.start,
            end=last,
            mode=mode,
            drift=drift,
        )
        self.days = self.orders.column(self.contract.timestamp).cast(pa.timestamp("s")).cast(pa.date32())
        self.raw, self.inbox = Path(self.pipeline.locations.raw), Path(self.pipeline.locations.drops) / "inbox"
        for folder in (self.raw, self.inbox):
            folder.mkdir(parents=True, exist_ok=True)

    def live(self) -> Iterator[Week]:
        """The first champion from the history; then week after week."""
        for earlier in range(1 - self.plan.history_weeks, 1):
            self._arrive(earlier)
        self._set_clock(1)
        self._data(0)
        if self._train(0) is None:
            raise ConfigError("the history gave no champion: give it more orders")
        for number in range(1, self.plan.weeks + 1):
            week = self._week(number)
            quality = "   –  " if week.log_loss is None else f"{week.log_loss:.4f}"
            note = f" · drift: {', '.join(week.drifted)}" if week.drifted else ""
            note += f" · alerts: {', '.join(week.alerts)}" if week.alerts else ""
            note += f" · trained ({week.retrained})" if week.retrained else ""
            note += f" → version {week.promoted}" if week.promoted else ""
            worse = " worse" if week.worse else ""
            self.say(f"week {number:>2} {week.monday} version {week.version} log loss {quality}{worse}{note}")
            yield week

    def _week(self, number: int) -> Week:
        from apex_ml.steps.monitor import monitor
        from apex_ml.steps.score import score

        week = Week(number, self.plan.monday(number).isoformat(), self._champion())
        name = f"week-{number:02}.parquet"
        self._write(self.inbox / name, self._of(number), only=("entity", "timestamp", "attribute"))
        self._set_clock(number)
        score(self._context(number), [name])
        self._arrive(number)
        self._set_clock(number + 1)
        self._data(number)
        monitored = monitor(self._context(number))
        week.alerts = list(monitored.alerts_raised)
        week.drifted = self._drifted(number)
        week.log_loss, week.worse = self._quality(number, week.version)
        if any(alert.startswith("version") for alert in week.alerts):
            week.retrained = "degraded"
        elif number % self.plan.retrain_every == 0:
            week.retrained = "scheduled"
        if week.retrained:
            week.promoted = self._train(number)
        self._forget(number)
        return week

    def _context(self, week: int) -> StepContext:
        from apex_ml.services.run_folder import StepContext

        return StepContext(self.settings, self.pipeline, self._run(week))

    def _run(self, week: int) -> str:
        return f"week-{week:02}"

    def _data(self, week: int) -> None:
        from apex_ml.steps.elt import elt
        from apex_ml.steps.outcomes import outcomes
        from apex_ml.steps.validate import validate

        context = self._context(week)
        validate(context, raw=None, as_of=None, force=True)
        elt(context)
        outcomes(context)

    def _train(self, week: int) -> int | None:
        """Train and bring the challenger before the gate; its version if it was promoted."""
        from apex_ml.steps.promote import promote
        from apex_ml.steps.split import split
        from apex_ml.steps.train import train

        context = self._context(week)
        split(context, strategy="temporal")
        train(context, trials=0)
        decided = promote(context, who="simulated year")
        return self._champion() if decided.promoted else None

    def _champion(self) -> int:
        version = Registry(self.settings, self.pipeline.model_name).by_alias(CHAMPION)
        assert version is not None
        return version.version

    def _of(self, week: int) -> pa.Table:
        first, end = (pa.scalar(self.plan.monday(n), pa.date32()) for n in (week, week + 1))
        rows = self.orders.filter(pc.and_(pc.greater_equal(self.days, first), pc.less(self.days, end)))
        # one order per client and day: two could not be distinguished when the outcomes arrive
        keys = rows.select([self.contract.entity, self.contract.timestamp]).to_pandas()
        return rows.filter(pa.array(~keys.duplicated().to_numpy()))

    def _arrive(self, week: int) -> None:
        self._write(self.raw / f"{self._run(week + self.plan.history_weeks)}.parquet", self._of(week))

    def _write(self, path: Path, rows: pa.Table, only: tuple[str, ...] = ()) -> None:
        names = [n for n in rows.column_names if not only or self.contract.columns[n].role in only]
        with new_file(path) as partial:
            write_part(rows.select(names), partial, plain=frozenset({self.contract.entity}))

    def _set_clock(self, week: int) -> None:
        """Start a week of the simulated calendar: on its Monday at three, when the nightly run would start."""
        monday = datetime.combine(self.plan.monday(week), time(3), UTC)
        self.settings = self.settings.with_clock(monday)

    def _drifted(self, week: int) -> list[str]:
        return simulated_results.drifted_features(self.settings, self.pipeline.schema, f"week-{week:02}.parquet")

    def _quality(self, week: int, version: int) -> tuple[float | None, bool]:
        return simulated_results.week_quality(self.settings, self.pipeline.schema, self.plan.monday(week), version)

    def _forget(self, week: int) -> None:
        old = self._run(week - KEPT_RUNS)
        runs = self._context(week).runs
        for run in runs.sizes():
            if run.name == old:
                runs.remove(run)
