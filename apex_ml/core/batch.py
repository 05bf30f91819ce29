"""Is this batch like the recent ones? Pure: profiles in, findings out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from apex_ml.contract.batch import Batch, CategoryShareRule, FreshnessRule, LoneFutureRule, NullRateRule, RowCountRule
from apex_ml.contract.per_use import Severity
from apex_ml.wording import counted


@dataclass(frozen=True)
class Profile:
    """What is kept of a batch: rows, nulls a column, rows a level of columns with a domain, and its dates.

    `nearly_newest` is the date that the share of rows stated in the rule precede.
    """

    rows: int
    nulls: dict[str, int]
    levels: dict[str, dict[str, int]]
    newest: date
    nearly_newest: date

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values, for a manifest."""
        dates = {"newest": self.newest.isoformat(), "nearly_newest": self.nearly_newest.isoformat()}
        return {"rows": self.rows, "nulls": self.nulls, "levels": self.levels, **dates}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Profile:
        """Read what :meth:`as_dict` gave."""
        newest, nearly = (date.fromisoformat(values[k]) for k in ("newest", "nearly_newest"))
        return cls(values["rows"], values["nulls"], values["levels"], newest, nearly)


@dataclass(frozen=True)
class Finding:
    """One broken rule of the batch, in words."""

    severity: Severity
    rule: str
    text: str


def judge(batch: Batch, profile: Profile, recent: Sequence[Profile], today: date) -> list[Finding]:
    """Compare a batch with the recent ones, newest first; rules that need some are silent without.

    `today` serves the freshness warning alone.
    """
    found: list[Finding] = []
    recent = recent[: batch.recent]
    for rule in batch.rules:
        if isinstance(rule, RowCountRule):
            texts = _row_count(rule, profile, recent)
        elif isinstance(rule, NullRateRule):
            texts = _null_rate(rule, profile, recent)
        elif isinstance(rule, CategoryShareRule):
            texts = _category_share(rule, profile, recent)
        elif isinstance(rule, LoneFutureRule):
            texts = _lone_future(rule, profile)
        else:
            texts = _freshness(rule, profile, today)
        found += [Finding(rule.severity, rule.rule, text) for text in texts]
    return found


def _row_count(rule: RowCountRule, profile: Profile, recent: Sequence[Profile]) -> list[str]:
    if not recent:
        return []
    usual = statistics.median(p.rows for p in recent)
    if rule.low * usual <= profile.rows <= rule.high * usual:
        return []
    band = f"{rule.low * usual:,.0f} to {rule.high * usual:,.0f}"
    before = counted(len(recent), "recent batch", "recent batches")
    return [f"{counted(profile.rows, 'row')}; the median of {before} is {usual:,.0f}, allowed are {band}"]


def _null_rate(rule: NullRateRule, profile: Profile, recent: Sequence[Profile]) -> list[str]:
    texts = []
    for column, nulls in profile.nulls.items():
        known = [p.nulls[column] / p.rows for p in recent if column in p.nulls and p.rows]
        if not known:
            continue
        rate, before = nulls / max(profile.rows, 1), max(known)
        if rate > before + rule.max_rise:
            texts.append(
                f"{column}: {rate:.1%} nulls, at most {before:.1%} before; a rise of {rule.max_rise:.1%} is allowed"
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


def _lone_future(rule: LoneFutureRule, profile: Profile) -> list[str]:
    days = (profile.newest - profile.nearly_newest).days
    if days <= rule.max_days:
        return []
    return [
        f"the newest date {profile.newest} lies {counted(days, 'day')} beyond {profile.nearly_newest},"
        f" which {rule.share:.1%} of the rows do not pass; at most {rule.max_days} are allowed: correct the dates, or"
        " give --as-of"
    ]


def _freshness(rule: FreshnessRule, profile: Profile, today: date) -> list[str]:
    age = (today - profile.newest).days
    if age > rule.max_days:
        return [f"the newest date {profile.newest} is {counted(age, 'day')} old; {rule.max_days} are usual"]
    if age < -1:
        return [f"the newest date {profile.newest} lies {counted(-age, 'day')} ahead of today"]
    return []
