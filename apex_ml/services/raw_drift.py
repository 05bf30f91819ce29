"""Drift of raw rows: target and measures of the newest week compared with the four weeks before it."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files
from apex_ml.adapters.postgres.drift import DriftLedger, DriftSubject
from apex_ml.adapters.storage.atomic_writes import scratch_folder
from apex_ml.core.drift import Compared
from apex_ml.core.features import feature_values, own_feature
from apex_ml.core.profile import Bins
from apex_ml.services.drift_monitoring import MIN_EFFECT, Comparisons, drift_verdicts
from apex_ml.services.results import ValidateResult
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.sql.accepted_rows import select_period

RAW_DAYS, RAW_REFERENCE_DAYS = 7, 28
"""Whole weeks, so that both periods contain every weekday."""


def check_drift_of_raw_rows(context: StepContext, ledger: DriftLedger) -> int:
    """Test target and measures of the newest week of accepted raw rows for drift; returns the number of weeks.

    Without a timestamp there are no weeks.
    """
    validated = latest_manifest(context, ValidateResult)
    if validated is None or validated.result.as_of is None or not context.contract.has_timestamp:
        return 0
    newest = validated.result.as_of
    first = newest - timedelta(days=RAW_DAYS)
    subject = f"{first} to {newest - timedelta(days=1)}"
    files = accepted_files(context.runs.output(validated.run, "validate", ACCEPTED, validated.outputs))
    if not files or ledger.is_measured("raw", subject):
        return 0
    contract, settings = context.contract, context.settings
    columns = [contract.columns[name] for name in (contract.target, *contract.named("measure"))]
    earlier = first - timedelta(days=RAW_REFERENCE_DAYS)
    with (
        scratch_folder(context.processed, "monitor") as scratch,
        engine.connect(settings, scratch) as con,
        engine.errors_name("monitor"),
    ):

        def rows(begin: date, end: date) -> pa.Table:
            names = [column.name for column in columns]
            return con.sql(select_period(contract, files, names, begin, end)).to_arrow_table()

        before, now = rows(earlier, first), rows(first, newest)
    reference = f"raw rows of {earlier} to {first - timedelta(days=1)}"
    comparisons: Comparisons = {}
    for column in columns:
        earlier_values, values = (feature_values(column, part.column(column.name)) for part in (before, now))
        bins = Bins.of(own_feature(column), earlier_values, values)
        kind = "target" if column.name == contract.target else "measure"
        observed, expected = bins.count(values), bins.count(earlier_values)
        comparisons[column.name] = Compared(observed, expected, MIN_EFFECT[kind]), kind, reference
    ledger.write(DriftSubject("raw", subject, first), drift_verdicts(context.pipeline.options.monitoring, comparisons))
    return 1
