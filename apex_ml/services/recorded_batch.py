"""What a result keeps of a checked batch: the profile of its rows and the report about each file."""

from __future__ import annotations

from apex_ml.adapters.duckdb.file_report import FileReport
from apex_ml.core.batch import Profile
from apex_ml.services.results import BatchProfile, CheckedFile


def record_profile(profile: Profile) -> BatchProfile:
    """The profile for the result of a step."""
    return BatchProfile(
        rows=profile.rows,
        nulls=profile.nulls,
        levels=profile.levels,
        newest=profile.newest,
        nearly_newest=profile.nearly_newest,
    )


def read_profile(recorded: BatchProfile | None) -> Profile | None:
    """The profile in a result; None when there is none, or when another version wrote less than a whole one."""
    if recorded is None:
        return None
    rows, nulls, levels = recorded.rows, recorded.nulls, recorded.levels
    newest, nearly_newest = recorded.newest, recorded.nearly_newest
    if rows is None or nulls is None or levels is None:
        return None
    return Profile(rows, dict(nulls), {name: dict(shares) for name, shares in levels.items()}, newest, nearly_newest)


def record_report(report: FileReport) -> CheckedFile:
    """The report about a file for the result of a step."""
    return CheckedFile(
        name=report.name,
        rows=report.rows,
        accepted=report.accepted,
        quarantined=report.quarantined,
        reasons=report.reasons,
        warnings=report.warnings,
        normalised=report.normalised,
        filled=report.filled,
        added=report.added,
        cast=report.cast,
        examples=report.examples,
    )
