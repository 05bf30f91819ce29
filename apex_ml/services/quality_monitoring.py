"""Quality of a week of scored rows by their outcomes, and whether the champion has degraded."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.postgres.quality import QualityLedger, SustainedVerdict, rows_with_outcome
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.core.degradation import Expectation, Rule, degraded, sustained, week_quality
from apex_ml.core.version_reference import VersionReference
from apex_ml.services.run_folder import StepContext

logger = logging.getLogger(__name__)


def evaluate_weeks(context: StepContext, ledger: QualityLedger, references: Mapping[int, VersionReference]) -> int:
    """Evaluate every version and week of rows whose outcomes changed; returns how many."""
    settings, contract = context.settings, context.contract
    limits = context.pipeline.options.monitoring
    rule = Rule(limits.quality_margin, limits.quality_alpha, limits.quality_min_rows, limits.quality_year_alpha)
    weeks = ledger.changed_weeks(contract)
    classes = pa.array(contract.classes)
    for changed in weeks:
        version, week = changed.version, changed.week
        table = rows_with_outcome(settings, context.schema, contract, version, week)
        # a version gives no probability to a class that came into the contract after its training
        columns = [pc.fill_null(table.column(name), 0) for name in probability_columns(contract.classes).values()]
        p = np.column_stack([column.to_numpy() for column in columns])
        y, predicted = (pc.index_in(table.column(c), value_set=classes) for c in ("observed", "predicted"))
        known = pc.is_valid(y).to_numpy(
            zero_copy_only=False
        )  # an outcome may be a class that the contract no longer has
        if not known.any():
            continue
        quality = week_quality(
            p[known],
            pc.fill_null(y, 0).to_numpy()[known],
            pc.fill_null(predicted, 0).to_numpy()[known],
            table.column(contract.entity).to_numpy()[known],
            contract.classes,
            references.get(version, VersionReference()).expected,
            rule,
        )
        ledger.write(changed, quality)
        logger.info("quality version=%s week=%s log_loss=%.5f worse=%s", version, week, quality.log_loss, quality.worse)
    for version in sorted({changed.version for changed in weeks}):
        _evaluate_weeks_together(ledger, version, references.get(version, VersionReference()).expected, rule)
    return len(weeks)


def _evaluate_weeks_together(ledger: QualityLedger, version: int, expected: Expectation | None, rule: Rule) -> None:
    """Evaluate a version's weeks by the rule over several weeks."""
    evaluated = ledger.weeks(version, rule.min_rows)
    points = [(w.week, w.log_loss, w.log_loss_error) for w in evaluated if w.log_loss_error is not None]
    if not expected or not points:
        return
    losses = [(loss, error) for _, loss, error in points]
    verdicts = sustained(losses, expected.log_loss, expected.standard_error, rule)
    rows = [
        SustainedVerdict(week, s.alarm, s.evidence, points[s.first][0], s.excess)
        for (week, _, _), s in zip(points, verdicts, strict=True)
    ]
    ledger.write_sustained(version, rows)


def degradation_alerts(context: StepContext, ledger: QualityLedger, version: int) -> dict[str, str]:
    """The alert about the champion when enough of its newest weeks were worse, or several were a little worse."""
    limits = context.pipeline.options.monitoring
    weeks = ledger.weeks(version, limits.quality_min_rows)
    needed, of = limits.quality_worse_weeks, limits.quality_window_weeks
    reasons = []
    if degraded([week.worse for week in weeks], weeks=needed, of=of):
        worse = "; ".join(f"week of {week.week}: {week.note}" for week in weeks[-of:] if week.worse)
        reasons.append(f"version {version} was worse in {needed} or more of its last {of} weeks: {worse}")
    if weeks and (newest := weeks[-1]).sustained and newest.since is not None:
        count = sum(week.week >= newest.since for week in weeks)
        reasons.append(
            f"version {version} has been worse than at promotion for {count} weeks, since the week of {newest.since}:"
            f" its log loss is {newest.excess:+.4f} nats above the expected one on average"
        )
    return {f"version {version}": "; ".join(reasons)} if reasons else {}
