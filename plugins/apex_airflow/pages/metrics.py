"""The metrics for Prometheus: the state of Apex, read again at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apex_airflow.inbox import count_waiting
from apex_ml.adapters.postgres.views import DatabaseDownError, PostgresViews, read_snapshot
from apex_ml.pipeline_settings import load_pipeline_settings
from apex_ml.settings import Settings

STATES = ("done", "failed")


class ApexCollector(Collector):
    """The metrics of one home. Without Postgres they are `apex_postgres_up 0` and the drops that wait."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def describe(self) -> Iterable[Metric]:
        """Describe nothing, because the metrics depend on the state."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the inbox, then Postgres."""
        files = count_waiting(self._settings)
        if files is not None:
            yield _gauge("apex_drops_waiting", "Files in the inbox.", files)
        try:
            result = list(self._of_postgres())
        except DatabaseDownError:
            yield _gauge("apex_postgres_up", "Whether Postgres answers the reader.", 0)
            return
        yield _gauge("apex_postgres_up", "Whether Postgres answers the reader.", 1)
        yield from result

    def _of_postgres(self) -> Iterator[Metric]:
        pipeline = load_pipeline_settings(self._settings)
        with read_snapshot(self._settings, pipeline.schema) as session:
            views = PostgresViews(session, pipeline.model_name)
            champion, totals, decided_at = views.champion(), views.totals(), views.last_decision_at()
            states, alerts = views.drops_by_state(), views.alert_totals()
        if champion and champion.version:
            seconds = (datetime.now(UTC) - champion.decided_at).total_seconds()
            yield _gauge("apex_champion_version", "Version of the champion.", champion.version)
            yield _gauge("apex_champion_age_seconds", "Seconds since the champion became it.", seconds)
        yield CounterMetricFamily("apex_scoring_runs", "Scoring runs.", totals.runs)
        yield CounterMetricFamily("apex_rows_scored", "Orders scored.", totals.rows_scored)
        yield CounterMetricFamily("apex_rows_quarantined", "Quarantined rows of drops.", totals.rows_quarantined)
        yield _labelled(
            "apex_drops", "Drops in the ledger.", "state", {state: states.get(state, 0) for state in STATES}
        )
        yield _labelled("apex_open_alerts", "Open alerts.", "kind", {total.kind: total.open for total in alerts})
        moments = {
            "apex_last_scoring_timestamp_seconds": ("When the newest scoring run ended.", totals.newest),
            "apex_last_decision_timestamp_seconds": ("When the gate last decided.", decided_at),
            "apex_last_alert_timestamp_seconds": (
                "When the newest alert was raised, open or closed.",
                max((total.newest for total in alerts), default=None),
            ),
        }
        for name, (description, moment) in moments.items():
            if moment is not None:
                yield _gauge(name, description, moment.timestamp())


def _labelled(name: str, description: str, label: str, values: Mapping[str, float]) -> Metric:
    created = GaugeMetricFamily(name, description, labels=[label])
    for value, count in values.items():
        created.add_metric([value], count)
    return created


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(name, description, value)


def exposition(settings: Settings) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ApexCollector(settings))
    return generate_latest(registry)
