"""Step validate: raw files to accepted rows, quarantined rows with reasons, and a checked batch."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.file_report import FileReport, log_report
from apex_ml.adapters.duckdb.profile import profile_batch
from apex_ml.adapters.duckdb.row_checks import check_file
from apex_ml.adapters.expectations import project
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.champions import DecidedInput, champions
from apex_ml.adapters.postgres.quarantine import PostgresQuarantine
from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.adapters.storage.raw_folder import raw_files
from apex_ml.core.batch import Profile, check_batch
from apex_ml.errors import DataError
from apex_ml.json_text import json_file
from apex_ml.services.held_back import describe, find_held_back, hold_back, point_in_time
from apex_ml.services.raw_batch import RawBatch, hash_files, log_skipped_files, shortened
from apex_ml.services.raw_location import PLACE, local_raw
from apex_ml.services.recorded_batch import read_profile, record_profile, record_report
from apex_ml.services.repeated_keys import settle_repeated_keys
from apex_ml.services.results import CheckedExpectations, ValidateResult
from apex_ml.services.run_folder import StepContext, recent_manifests, run_step
from apex_ml.services.run_layout import ACCEPTED, QUARANTINE
from apex_ml.sql.quarantine import select_raw_quarantine
from apex_ml.wording import counted

logger = logging.getLogger(__name__)


REPORT = "report.json"
FAILED = "validate.failed"
"""Beside the output of a successful validation: the results of a failed one."""


def validate(
    context: StepContext, *, raw: str | None, as_of: date | None, force: bool, without_newest_day: bool = False
) -> ValidateResult:
    """Check every raw file on its own, the accepted rows with Great Expectations, and the batch against recent ones.

    Returns counts, `as_of` (by default the day after the newest accepted row, today without a timestamp) and
    `data_sha256`, the identity of the raw files, independent of their names. With `skip` in the result there is no raw
    data that the last run did not have. `without_newest_day` holds the rows of the newest day back from the accepted
    rows, and of rows without dates a random part: `held_back` in the result describes them. Raw files of which rows
    were held back before are not new either.

    Raises :class:`~apex_ml.errors.DataError` for unreadable files (all named), too many quarantined rows, an
    expectation of severity error that the batch fails, or a batch too unlike the recent ones. The quarantined rows and
    the report are kept even then.
    """
    url = raw or context.pipeline.locations.raw
    raw_folder = raw_files(local_raw(context.settings, context.pipeline, url), PLACE, context.contract.file_columns)
    log_skipped_files(raw_folder)
    batch = hash_files(context, url, raw_folder, as_of, without_newest_day)
    for table in batch.tables:
        logger.info("table_read %s", table)
    since = _decided_before(batch)
    left_out = shortened(raw_folder.left_out)
    if since is not None and not force:
        reason = f"no new raw data since {since}; --force retrains all the same"
        logger.info("step_skipped step=validate reason=%s", reason)
        return ValidateResult(
            run=context.run, step="validate", skip=reason, data_sha256=batch.data_sha256, left_out=left_out
        )
    inputs: dict[str, Any] = {"files": sorted(batch.shas), "as_of": as_of.isoformat() if as_of else None}
    if without_newest_day:
        inputs["without_newest_day"] = True
    return run_step(
        context,
        ValidateResult,
        inputs,
        lambda folder: replace(
            _work(batch, folder),
            redelivered=tuple(sorted(name for names in batch.copies.values() for name in names)),
            left_out=left_out,
            links=shortened(raw_folder.links),
            tables=tuple(table.as_dict() for table in batch.tables) or None,
        ),
    )


def _decided_before(batch: RawBatch) -> str | None:
    """When, and in which other run, the gate decided about this data; None when the data is new."""
    context, data_sha256, contract_sha256 = batch.context, batch.data_sha256, batch.context.contract.digest()
    decided = latest_input(context)
    if decided is None:
        return None
    is_known = decided.is_about(data_sha256, contract_sha256)
    if batch.without_newest_day and not is_known and find_held_back(context, data_sha256):
        is_known = decided.is_about(batch.whole_sha256, contract_sha256)
    if not is_known or decided.step_run == context.run:
        return None
    return f"{decided.decided_at:%Y-%m-%d %H:%M} UTC (run {decided.step_run})"


def _work(batch: RawBatch, folder: Path) -> ValidateResult:
    accepted, quarantine = folder / ACCEPTED, folder / QUARANTINE
    accepted.mkdir()
    quarantine.mkdir()
    with engine.connect_strict(batch.context.settings, folder.parent) as con:
        reports = _check_files(batch, con, accepted, quarantine)
    try:
        _refuse_too_many(batch.context, reports)
        rows, bad = _rows(reports)
        checked = _check_accepted(batch, folder, accepted, rows - bad)
    except DataError:
        _keep_evidence(batch.context, quarantine, reports)
        raise
    return _result(batch, folder, reports, checked)


@dataclass(frozen=True)
class _CheckedBatch:
    """The result of the checks of all accepted rows."""

    profile: Profile
    warnings: list[str]
    superseded: int
    """Rows whose key has a later row."""
    held: int
    """Rows of the newest day that were held back."""
    as_of: date
    verdict: project.BatchVerdict


def _check_accepted(batch: RawBatch, folder: Path, accepted: Path, rows: int) -> _CheckedBatch:
    """Compare the accepted rows with recent batches, hold the newest day back, and run the expectations."""
    context, contract = batch.context, batch.context.contract
    with engine.connect(context.settings, folder.parent) as con:
        superseded = settle_repeated_keys(con, contract, accepted, rows)
        profile = profile_batch(con, contract, accepted)
        warnings = _compare_with_recent(context, profile, batch.data_sha256)
        held = hold_back(con, contract, accepted, profile.newest, folder) if batch.without_newest_day else 0
    if held:
        logger.info("rows_held_back day=%s rows=%s", profile.newest, held)
    as_of = batch.as_of or point_in_time(context, profile.newest, is_held_back=held > 0)
    verdict = project.check_batch(context.settings, context.pipeline, "train", accepted, context.run, as_of)
    project.name_source(context.settings, context.pipeline, verdict, context.run, batch.source, batch.data_sha256)
    for failure in verdict.warnings:
        logger.warning("expectation_warned %s", failure)
    if verdict.errors:
        raise DataError(
            f"the accepted batch fails its expectations (see {verdict.page}):\n" + "\n".join(verdict.errors)
        )
    return _CheckedBatch(profile, warnings, superseded, held, as_of, verdict)


def _result(batch: RawBatch, folder: Path, reports: list[FileReport], checked: _CheckedBatch) -> ValidateResult:
    context, verdict, profile = batch.context, checked.verdict, checked.profile
    site = project.docs_index(context.settings, context.pipeline.name).parent
    page = verdict.page.relative_to(site).as_posix()
    rows, bad = _rows(reports)
    return ValidateResult(
        run=context.run,
        step="validate",
        raw=batch.url,
        files=len(reports),
        rows=rows,
        accepted=rows - bad - checked.superseded - checked.held,
        superseded=checked.superseded or None,
        quarantined=bad,
        reasons=_total(r.reasons for r in reports),
        warnings=_total(r.warnings for r in reports),
        normalised=_total(r.normalised for r in reports),
        batch_warnings=tuple(checked.warnings),
        expectations=CheckedExpectations(
            evaluated=verdict.evaluated, failed=len(verdict.warnings), rows=verdict.rows, of_rows=verdict.of_rows
        ),
        data_docs=str(verdict.page),
        data_docs_url=f"{context.settings.airflow_address}/apex/data-docs/{context.pipeline.name}/{page}",
        data_sha256=batch.data_sha256,
        newest=profile.newest,
        as_of=checked.as_of,
        profile=record_profile(profile),
        reports=tuple(map(record_report, reports)),
        held_back=describe(folder, profile.newest) if checked.held else None,
    )


def _check_files(batch: RawBatch, con: engine.StrictConnection, accepted: Path, quarantine: Path) -> list[FileReport]:
    """Check file by file; a file that cannot be used does not hide the faults of the others."""
    context, shas, copies = batch.context, batch.shas, batch.copies
    reports: list[FileReport] = []
    unreadable: list[str] = []
    for number, (sha256, path) in enumerate(shas.items()):
        part = f"part-{number:05d}.parquet"
        kept, name = quarantine / part, batch.raw.name(path)
        try:
            report = check_file(
                con,
                path,
                context.contract,
                "train",
                as_of=batch.as_of,
                accepted=accepted / part,
                quarantined=kept,
                name=name,
            )
        except DataError as error:
            unreadable.append(str(error))
            if path in copies:
                unreadable[-1] += f"\n  with the same bytes: {', '.join(copies[path])}"
            continue
        reports.append(report)
        log_report(report, "train")
        if kept.exists():
            keep_quarantined(context, sha256, name, kept)
    if unreadable:
        if reports:
            _keep_evidence(context, quarantine, reports)
        lines = "\n".join(unreadable)
        raise DataError(
            f"{len(unreadable)} of {len(shas)} raw files cannot be used; deliver them again or remove them (one whose"
            f" name begins with _ is not read):\n{lines}"
        )
    return reports


def _total(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for key, n in part.items():
            total[key] = total.get(key, 0) + n
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _keep_evidence(context: StepContext, quarantine: Path, reports: list[FileReport]) -> None:
    """Keep the results of a failed validation, beside the folder that a successful one would have written."""
    with context.runs.new_output(context.run, FAILED) as kept:
        shutil.copytree(quarantine, kept / QUARANTINE)
        write_atomically(kept / REPORT, json_file([r.as_dict() for r in reports]))


def _rows(reports: list[FileReport]) -> tuple[int, int]:
    """All rows, and those that are quarantined."""
    return sum(r.rows for r in reports), sum(r.quarantined for r in reports)


def _refuse_too_many(context: StepContext, reports: list[FileReport]) -> None:
    rows, bad = _rows(reports)
    limit = context.contract.quarantine.limit.train
    if not rows or bad <= limit * rows:
        return
    top = list(_total(r.reasons for r in reports).items())[:5]
    shown = {reason: r for r in reports for reason in r.examples}
    worst = max(reports, key=lambda r: r.quarantined / max(r.rows, 1))
    lines = [
        f"  {counted(n, 'row')}: {shown[reason].with_examples(reason) if reason in shown else reason}"
        for reason, n in top
    ]
    raise DataError(
        f"{bad} of {rows} rows ({bad / rows:.2%}) would be quarantined, more than the limit of {limit:.2%};"
        " most often:\n"
        + "\n".join(lines)
        + f"\nworst file: {worst.name} ({worst.quarantined} of {worst.rows}); the rows with all their reasons:"
        f" {context.runs.place(context.run, FAILED)}, or {select_raw_quarantine(context.schema)}"
    )


def _compare_with_recent(context: StepContext, profile: Profile, data_sha256: str) -> list[str]:
    """Compare with the batches of earlier runs on other data; returns the warnings."""
    earlier = recent_manifests(
        context, ValidateResult, lambda m: m.run != context.run and m.result.data_sha256 != data_sha256
    )
    recent = [known for m in earlier if (known := read_profile(m.result.profile)) is not None]
    findings = check_batch(context.contract.batch, profile, recent, context.settings.now().date())
    warnings = [f"{f.rule}: {f.text}" for f in findings if f.severity == "warning"]
    errors = [f"  {f.rule}: {f.text}" for f in findings if f.severity == "error"]
    for warning in warnings:
        logger.warning("batch_warned %s", warning)
    if errors:
        raise DataError(
            "the batch is too unlike the recent ones (rules under `batch` of the contract):\n" + "\n".join(errors)
        )
    return warnings


def latest_input(context: StepContext) -> DecidedInput | None:
    """What the gate's latest decision was about; None before the first one."""
    with champions(context.settings, context.schema, context.model_name) as ledger:
        return ledger.latest_input()


def keep_quarantined(context: StepContext, sha256: str, name: str, file: Path) -> None:
    """Keep the first quarantined rows of a raw file in Postgres."""
    limit = context.pipeline.options.validation.quarantine_rows_in_sql
    with bulk_transaction(context.settings, context.schema) as session, pq.ParquetFile(file) as rows:
        PostgresQuarantine(session).keep("raw", sha256, name, rows.iter_batches(10_000), limit)
