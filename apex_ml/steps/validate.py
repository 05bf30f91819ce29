"""Step validate: raw files to accepted rows, quarantined rows with reasons, and a checked batch."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.profile import profile_batch
from apex_ml.adapters.duckdb.row_checks import FileReport, check_file, log_report
from apex_ml.adapters.expectations import project
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.champions import DecidedInput, champions
from apex_ml.adapters.postgres.quarantine import PostgresQuarantine
from apex_ml.adapters.storage.atomic_writes import new_folder, write_atomically
from apex_ml.adapters.storage.files import digest, name_errors, sha256_of
from apex_ml.adapters.storage.locations import local_folder
from apex_ml.adapters.storage.raw_folder import RawFiles, raw_files
from apex_ml.core.batch import Profile, check_batch
from apex_ml.errors import DataError
from apex_ml.json_text import json_file
from apex_ml.services.held_back import describe, find_held_back, held_identity, hold_back
from apex_ml.services.results import CheckedExpectations, ValidateResult
from apex_ml.services.run_folder import StepContext, recent_manifests, run_step
from apex_ml.services.run_layout import ACCEPTED, QUARANTINE
from apex_ml.wording import counted

logger = logging.getLogger(__name__)


REPORT = "report.json"
MAX_NAMED = 100
"""Files that are left out, and links, that the log and the result name."""


def validate(
    context: StepContext, *, raw: str | None, as_of: date | None, force: bool, without_newest_day: bool = False
) -> ValidateResult:
    """Check every raw file on its own, the accepted rows by Great Expectations, and the batch beside recent ones.

    Returns counts, `as_of` (by default the day after the newest accepted order) and `data_sha256`, the identity of the
    raw files whatever their names. With `skip` in the result there is no raw data that the last run has not seen.
    `without_newest_day` holds the orders of the newest day back from the accepted rows: `held_back` in the result
    describes them; raw files whose newest day was held back before are not new either.
    Raises :class:`~apex_ml.errors.DataError` for unreadable files (all named), too many quarantined rows, an
    expectation of severity error that the batch fails, or a batch too unlike the recent ones; the quarantined rows and
    the report are kept even then.
    """
    url = raw or context.pipeline.locations.raw
    raw_folder = raw_files(local_folder(url, "APEX_RAW_URL"), "APEX_RAW_URL", context.contract.columns)
    log_skipped_files(raw_folder)
    shas: dict[str, Path] = {}
    copies: dict[Path, list[str]] = {}
    for path in raw_folder.files:
        with name_errors(path, raw_folder.name(path)):
            first = shas.setdefault(sha256_of(path), path)
        if first != path:
            copies.setdefault(first, []).append(raw_folder.name(path))
            logger.warning("file_redelivered file=%s same_bytes_as=%s", raw_folder.name(path), raw_folder.name(first))
    whole = digest(sorted(shas))
    data_sha256 = held_identity(sorted(shas)) if without_newest_day else whole
    contract_sha256 = context.contract.digest()
    decided = latest_input(context)
    seen = decided is not None and decided.is_about(data_sha256, contract_sha256)
    if decided is not None and without_newest_day and not seen and find_held_back(context, data_sha256):
        seen = decided.is_about(whole, contract_sha256)
    if decided is not None and seen and decided.step_run != context.run and not force:
        since = f"{decided.decided_at:%Y-%m-%d %H:%M} UTC (run {decided.step_run})"
        reason = f"no new raw data since {since}; --force retrains all the same"
        logger.info("step_skipped step=validate reason=%s", reason)
        left_out = shortened(raw_folder.left_out)
        return ValidateResult(run=context.run, step="validate", skip=reason, data_sha256=data_sha256, left_out=left_out)
    inputs: dict[str, Any] = {"files": sorted(shas), "as_of": as_of.isoformat() if as_of else None}
    if without_newest_day:
        inputs["without_newest_day"] = True
    return run_step(
        context,
        ValidateResult,
        inputs,
        lambda folder: replace(
            _work(context, folder, url, raw_folder, shas, copies, data_sha256, as_of, without_newest_day),
            redelivered=tuple(sorted(name for names in copies.values() for name in names)),
            left_out=shortened(raw_folder.left_out),
            links=shortened(raw_folder.links),
        ),
    )


def _work(
    context: StepContext,
    folder: Path,
    url: str,
    raw_folder: RawFiles,
    shas: dict[str, Path],
    copies: dict[Path, list[str]],
    data_sha256: str,
    as_of: date | None,
    without_newest_day: bool,
) -> ValidateResult:
    accepted, quarantine = folder / ACCEPTED, folder / QUARANTINE
    accepted.mkdir()
    quarantine.mkdir()
    contract = context.contract
    with engine.connect(context.settings, folder.parent) as con:
        reports = _check_files(context, con, raw_folder, shas, copies, as_of, accepted, quarantine)
        rows = sum(r.rows for r in reports)
        bad = sum(r.quarantined for r in reports)
        try:
            _refuse_too_many(context, reports, rows, bad)
            profile = profile_batch(con, contract, accepted)
            looks_from = as_of or profile.newest + timedelta(days=1)
            batch_warnings = _check_batch(context, profile, data_sha256)
            held = hold_back(con, contract, accepted, profile.newest, folder) if without_newest_day else 0
            if held:
                looks_from = as_of or profile.newest
                logger.info("orders_held_back day=%s rows=%s", profile.newest, held)
            checked = project.check_batch(context.settings, contract, "train", accepted, context.run, looks_from)
            project.name_source(context.settings, checked, context.run, url, data_sha256)
            for failure in checked.warnings:
                logger.warning("expectation_warned %s", failure)
            if checked.errors:
                raise DataError(
                    f"the accepted batch fails its expectations (see {checked.page}):\n" + "\n".join(checked.errors)
                )
        except DataError:
            _keep_evidence(context, quarantine, reports)
            raise
    site = project.docs_index(context.settings).parent
    page = checked.page.relative_to(site).as_posix()
    return ValidateResult(
        run=context.run,
        step="validate",
        raw=url,
        files=len(reports),
        rows=rows,
        accepted=rows - bad - held,
        quarantined=bad,
        reasons=_total(r.reasons for r in reports),
        warnings=_total(r.warnings for r in reports),
        normalised=_total(r.normalised for r in reports),
        batch_warnings=tuple(batch_warnings),
        expectations=CheckedExpectations(
            evaluated=checked.evaluated, failed=len(checked.warnings), rows=checked.rows, of_rows=checked.of_rows
        ),
        data_docs=str(checked.page),
        data_docs_url=f"{context.settings.airflow_address}/apex/data-docs/{page}",
        data_sha256=data_sha256,
        newest=profile.newest,
        as_of=looks_from,
        profile=profile.as_dict(),
        reports=tuple(r.as_dict() for r in reports),
        held_back=describe(folder, profile.newest) if held else None,
    )


def _check_files(
    context: StepContext,
    con: Any,
    raw_folder: RawFiles,
    shas: dict[str, Path],
    copies: dict[Path, list[str]],
    as_of: date | None,
    accepted: Path,
    quarantine: Path,
) -> list[FileReport]:
    """Check file by file; a file that cannot be used does not hide the faults of the others."""
    reports: list[FileReport] = []
    unreadable: list[str] = []
    for number, (sha256, path) in enumerate(shas.items()):
        part = f"part-{number:05d}.parquet"
        kept, name = quarantine / part, raw_folder.name(path)
        try:
            report = check_file(
                con,
                path,
                context.contract,
                "train",
                as_of=as_of,
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


def log_skipped_files(found: RawFiles) -> None:
    """Log the files of a raw folder that are not read, and its links to other places."""
    for name, reason in shortened(found.left_out).items():
        logger.warning("file_left_out file=%s reason=%s", name, reason)
    for name, target in shortened(found.links).items():
        logger.info("link_followed name=%s to=%s", name, target)


def shortened(entries: dict[str, str]) -> dict[str, str]:
    """The first entries, and how many more there are."""
    if len(entries) <= MAX_NAMED:
        return entries
    return dict(list(entries.items())[:MAX_NAMED]) | {"…": f"and {len(entries) - MAX_NAMED} more"}


def _total(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for key, n in part.items():
            total[key] = total.get(key, 0) + n
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _evidence_folder(context: StepContext) -> Path:
    return context.processed / context.run / "validate.failed"


def _keep_evidence(context: StepContext, quarantine: Path, reports: list[FileReport]) -> None:
    """Keep what a failed validation found, beside the folder that a good one would have made."""
    with new_folder(_evidence_folder(context)) as kept:
        shutil.copytree(quarantine, kept / QUARANTINE)
        write_atomically(kept / REPORT, json_file([r.as_dict() for r in reports]))


def _refuse_too_many(context: StepContext, reports: list[FileReport], rows: int, bad: int) -> None:
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
        f" {_evidence_folder(context)}, or SELECT * FROM apex.quarantine WHERE source_kind = 'raw'"
    )


def _check_batch(context: StepContext, profile: Profile, data_sha256: str) -> list[str]:
    """Compare with the batches of earlier runs on other data; returns the warnings."""
    earlier = recent_manifests(
        context, ValidateResult, lambda m: m.run != context.run and m.result.data_sha256 != data_sha256
    )
    recent = [Profile.from_dict(dict(m.result.profile)) for m in earlier if m.result.profile is not None]
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
    with champions(context.settings, context.model_name) as ledger:
        return ledger.latest_input()


def keep_quarantined(context: StepContext, sha256: str, name: str, file: Path) -> None:
    """Keep the first quarantined rows of a raw file in Postgres."""
    limit = context.settings.quarantine_rows_in_sql
    with bulk_transaction(context.settings) as session, pq.ParquetFile(file) as rows:
        PostgresQuarantine(session).keep("raw", sha256, name, rows.iter_batches(10_000), limit)
