"""The metrics for Prometheus: the state of every pipeline, read again at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apex_airflow.inbox import count_waiting
from apex_airflow.pages.pipelines import load
from apex_ml.adapters.postgres.overview import PipelineTotals, read_totals
from apex_ml.adapters.postgres.views import DatabaseDownError
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

STATES = ("done", "failed")
COUNTERS: dict[str, tuple[str, Callable[[PipelineTotals], float]]] = {
    "apex_scoring_runs": ("Scoring runs.", lambda of: of.totals.runs),
    "apex_rows_scored": ("Rows scored.", lambda of: of.totals.rows_scored),
    "apex_rows_quarantined": ("Quarantined rows of drops.", lambda of: of.totals.rows_quarantined),
}
MOMENTS: dict[str, tuple[str, Callable[[PipelineTotals], datetime | None]]] = {
    "apex_last_scoring_timestamp_seconds": ("When the newest scoring run ended.", lambda of: of.totals.newest),
    "apex_last_decision_timestamp_seconds": ("When the gate last decided.", lambda of: of.decided_at),
    "apex_last_alert_timestamp_seconds": (
        "When the newest alert was raised, open or closed.",
        lambda of: max((total.newest for total in of.alerts), default=None),
    ),
}


class ApexCollector(Collector):
    """The metrics of some pipelines. Without Postgres they are `apex_postgres_up 0` and the drops that wait."""

    def __init__(self, settings: Settings, names: Iterable[str]) -> None:
        self._settings = settings
        self._names = tuple(names)

    def describe(self) -> Iterable[Metric]:
        """Describe nothing, because the metrics depend on the state."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the files and the inboxes of the pipelines, then Postgres."""
        loaded = {name: load(self._settings, name) for name in self._names}
        pipelines = [pipeline for pipeline in loaded.values() if isinstance(pipeline, PipelineSettings)]
        waiting = _of_pipelines("apex_drops_waiting", "Files in the inbox.")
        for pipeline in pipelines:
            files = count_waiting(pipeline)
            if files is not None:
                waiting.add_metric([pipeline.name], files)
        yield waiting
        up = "Whether Postgres answers the reader."
        try:
            reading = read_totals(self._settings, {p.schema: p.model_name for p in pipelines})
        except DatabaseDownError:
            yield GaugeMetricFamily("apex_postgres_up", up, 0)
            return
        yield GaugeMetricFamily("apex_postgres_up", up, 1)
        readable = _of_pipelines("apex_pipeline_readable", "Whether the pipeline's file and its tables can be read.")
        for name, one in loaded.items():
            readable.add_metric([name], isinstance(one, PipelineSettings) and one.schema in reading.values)
        yield readable
        yield from _of_totals({p.name: reading.values[p.schema] for p in pipelines if p.schema in reading.values})


def _of_totals(totals: dict[str, PipelineTotals]) -> Iterator[Metric]:
    """The metrics of each pipeline that Postgres has."""
    version = _of_pipelines("apex_champion_version", "Version of the champion.")
    age = _of_pipelines("apex_champion_age_seconds", "Seconds since the champion became it.")
    drops = _of_pipelines("apex_drops", "Drops in the ledger.", "state")
    alerts = _of_pipelines("apex_open_alerts", "Open alerts.", "kind")
    for name, of in totals.items():
        if of.version and of.since:
            version.add_metric([name], of.version)
            age.add_metric([name], (datetime.now(UTC) - of.since).total_seconds())
        for state in STATES:
            drops.add_metric([name, state], of.drops.get(state, 0))
        for total in of.alerts:
            alerts.add_metric([name, total.kind], total.open)
    yield from (version, age, drops, alerts)
    for metric, (description, count) in COUNTERS.items():
        counter = CounterMetricFamily(metric, description, labels=["pipeline"])
        for name, of in totals.items():
            counter.add_metric([name], count(of))
        yield counter
    for metric, (description, moment) in MOMENTS.items():
        gauge = _of_pipelines(metric, description)
        for name, of in totals.items():
            at = moment(of)
            if at is not None:
                gauge.add_metric([name], at.timestamp())
        yield gauge


def _of_pipelines(name: str, description: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, description, labels=["pipeline", *labels])


def exposition(settings: Settings, names: Iterable[str]) -> bytes:
    """The metrics of these pipelines in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ApexCollector(settings, names))
    return generate_latest(registry)
