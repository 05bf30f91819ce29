"""Compare a batch with the recent ones. Pure: profiles in, findings out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from apex_ml.contract.batch import (
    Batch,
    CategoryShareRule,
    FreshnessRule,
    FutureDateOutlierRule,
    NullRateRule,
    RowCountRule,
)
from apex_ml.contract.per_use import Severity
from apex_ml.wording import counted


@dataclass(frozen=True)
class Profile:
    """Summary of a batch: its rows, nulls by column, rows by level of columns with a domain, and its dates.

    `nearly_newest` is the date that the rule's share of rows does not exceed. Without a timestamp both dates are None.
    """

    rows: int
    nulls: dict[str, int]
    levels: dict[str, dict[str, int]]
    newest: date | None
    nearly_newest: date | None


@dataclass(frozen=True)
class Finding:
    """One rule that the batch violates, as text."""

    severity: Severity
    rule: str
    text: str


def check_batch(batch: Batch, profile: Profile, recent: Sequence[Profile], today: date) -> list[Finding]:
    """Compare a batch with the recent ones, newest first. Without recent ones the rules that need them find nothing.

    Only the freshness warning uses `today`.
    """
    findings: list[Finding] = []
    recent = recent[: batch.recent]
    for rule in batch.rules:
        if isinstance(rule, RowCountRule):
            texts = _row_count(rule, profile, recent)
        elif isinstance(rule, NullRateRule):
            texts = _null_rate(rule, profile, recent)
        elif isinstance(rule, CategoryShareRule):
            texts = _category_share(rule, profile, recent)
        elif isinstance(rule, FutureDateOutlierRule):
            texts = _future_date_outlier(rule, profile)
        else:
            texts = _freshness(rule, profile, today)
        findings += [Finding(rule.severity, rule.rule, text) for text in texts]
    return findings


def _row_count(rule: RowCountRule, profile: Profile, recent: Sequence[Profile]) -> list[str]:
    if not recent:
        return []
    usual = statistics.median(p.rows for p in recent)
    if rule.low * usual <= profile.rows <= rule.high * usual:
        return []
    band = f"{rule.low * usual:,.0f} to {rule.high * usual:,.0f}"
    before = counted(len(recent), "recent batch", "recent batches")
    return [f"{counted(profile.rows, 'row')}; the median of {before} is {usual:,.0f}; {band} are allowed"]


def _null_rate(rule: NullRateRule, profile: Profile, recent: Sequence[Profile]) -> list[str]:
    texts = []
    for column, nulls in profile.nulls.items():
        known = [p.nulls[column] / p.rows for p in recent if column in p.nulls and p.rows]
        if not known:
            continue
        rate, before = nulls / max(profile.rows, 1), max(known)
        if rate > before + rule.max_rise:
            texts.append(
                f"{column}: {rate:.1%} nulls, at most {before:.1%} before; {rule.max_rise:.1%} more is allowed"
            )
    return texts


def _category_share(rule: CategoryShareRule, profile: Profile, recent: Sequence[Profile]) -> list[str]:
    texts = []
    for column, counts in profile.levels.items():
        total = sum(counts.values())
        before = [p.levels[column] for p in recent if sum(p.levels.get(column, {}).values())]
        if not total or not before:
            continue
        for level in sorted({*counts, *(name for b in before for name in b)}):
            share = counts.get(level, 0) / total
            usual = statistics.fmean(b.get(level, 0) / sum(b.values()) for b in before)
            if abs(share - usual) > rule.max_change:
                texts.append(
                    f"{column} = {level}: {share:.1%} of the rows, {usual:.1%} before;"
                    f" a change of {rule.max_change:.1%} is allowed"
                )
    return texts


def _future_date_outlier(rule: FutureDateOutlierRule, profile: Profile) -> list[str]:
    if profile.newest is None or profile.nearly_newest is None:
        return []
    days = (profile.newest - profile.nearly_newest).days
    if days <= rule.max_days:
        return []
    return [
        f"the newest date {profile.newest} is {counted(days, 'day')} after {profile.nearly_newest},"
        f" the latest date of {rule.share:.1%} of the rows; at most {rule.max_days} are allowed: correct the dates, or"
        " give --as-of"
    ]


def _freshness(rule: FreshnessRule, profile: Profile, today: date) -> list[str]:
    if profile.newest is None:
        return []
    age = (today - profile.newest).days
    if age > rule.max_days:
        return [f"the newest date {profile.newest} is {counted(age, 'day')} old; at most {rule.max_days} are usual"]
    if age < -1:
        return [f"the newest date {profile.newest} is {counted(-age, 'day')} after today"]
    return []
