"""Step validate: raw files to accepted rows, quarantined rows with reasons, and a checked batch."""

from __future__ import annotations

import logging
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from apex_ml.adapters import duck, expectations, warehouse
from apex_ml.adapters.rowchecks import FileReport, check_file
from apex_ml.adapters.store import data_files, digest, local_folder, sha256_of
from apex_ml.contract.masks import literal, quoted
from apex_ml.errors import DataError
from apex_ml.steps.folder import StepContext, run_step

logger = logging.getLogger(__name__)
ACCEPTED = "accepted"
QUARANTINE = "quarantine"


def validate(context: StepContext, *, raw: str | None, as_of: date | None, force: bool) -> dict[str, Any]:
    """Check every raw file on its own and the accepted rows as a batch.

    Returns counts, `as_of` (by default the day after the newest accepted order) and `data_sha256`, the identity of the
    raw files whatever their names. With `skip` in the result there is no raw data that the last run has not seen.
    Raises :class:`~apex_ml.errors.DataError` for unreadable files (all named), too many quarantined rows, or an
    expectation of severity error that the batch fails.
    """
    url = raw or context.settings.raw
    files = data_files(local_folder(url, "APEX_RAW_URL"), "APEX_RAW_URL")
    shas = {path: sha256_of(path) for path in files}
    data_sha256 = digest(sorted(shas.values()))
    seen = warehouse.last_decision(context.settings, data_sha256, context.contract.digest())
    if seen and seen["step_run"] != context.run and not force:
        since = f"{seen['decided_at']:%Y-%m-%d %H:%M} UTC (run {seen['step_run']})"
        reason = f"no new raw data since {since}; --force retrains all the same"
        logger.info("step_skipped step=validate reason=%s", reason)
        return {"run": context.run, "step": "validate", "skip": reason, "data_sha256": data_sha256}
    inputs = {"files": sorted(shas.values()), "as_of": as_of}
    return run_step(context, "validate", inputs, lambda folder: _work(context, folder, shas, data_sha256, as_of))


def _work(
    context: StepContext, folder: Path, shas: dict[Path, str], data_sha256: str, as_of: date | None
) -> dict[str, Any]:
    accepted, quarantine = folder / ACCEPTED, folder / QUARANTINE
    accepted.mkdir()
    quarantine.mkdir()
    reports: list[FileReport] = []
    unreadable: list[str] = []
    contract = context.contract
    with duck.connect(context.settings, folder.parent) as con:
        for number, path in enumerate(shas):
            name = f"part-{number:05d}.parquet"
            try:
                report = check_file(
                    con, path, contract, "train", as_of=as_of, accepted=accepted / name, quarantined=quarantine / name
                )
            except DataError as error:
                unreadable.append(str(error))
                continue
            logger.info(
                "file_checked file=%s rows=%s accepted=%s quarantined=%s",
                report.name,
                report.rows,
                report.accepted,
                report.quarantined,
            )
            reports.append(report)
        if unreadable:
            raise DataError(f"{len(unreadable)} of {len(shas)} raw files cannot be used:\n" + "\n".join(unreadable))
        rows = sum(r.rows for r in reports)
        bad = sum(r.quarantined for r in reports)
        by_sha = {sha: quarantine / f"part-{n:05d}.parquet" for n, sha in enumerate(shas.values())}
        names = {sha: path.name for path, sha in shas.items()}
        for sha, file in by_sha.items():
            if file.exists():
                warehouse.keep_quarantined(context.settings, "raw", sha, names[sha], pq.read_table(file))
        _refuse_too_many(reports, rows, bad, contract.quarantine.limit.train)
        (newest,) = duck.one_row(
            con, f"SELECT max({quoted(contract.timestamp)}) FROM read_parquet({literal(str(accepted / '*.parquet'))})"
        )
    if newest is None:
        raise DataError(f"{len(reports)} raw files hold no acceptable row ({rows} rows, {bad} quarantined)")
    looks_from = as_of or newest + timedelta(days=1)
    checked = expectations.check_batch(context.settings, contract, "train", accepted, context.run, looks_from)
    for failure in checked.warnings:
        logger.warning("expectation_warned %s", failure)
    if checked.errors:
        raise DataError(
            "the accepted batch fails its expectations (see "
            + checked.data_docs_url
            + "):\n"
            + "\n".join(checked.errors)
        )
    return {
        "files": len(reports),
        "rows": rows,
        "accepted": rows - bad,
        "quarantined": bad,
        "warnings": _total(r.warnings for r in reports),
        "reasons": _total(r.reasons for r in reports),
        "normalised": _total(r.normalised for r in reports),
        "expectations": {"evaluated": checked.evaluated, "failed": len(checked.warnings)},
        "data_docs_url": checked.data_docs_url,
        "data_sha256": data_sha256,
        "newest": newest.isoformat(),
        "as_of": looks_from.isoformat(),
        "reports": [r.as_dict() for r in reports],
    }


def _total(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in counts:
        for key, n in part.items():
            total[key] = total.get(key, 0) + n
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _refuse_too_many(reports: list[FileReport], rows: int, bad: int, limit: float) -> None:
    if not rows or bad <= limit * rows:
        return
    top = list(_total(r.reasons for r in reports).items())[:5]
    worst = max(reports, key=lambda r: r.quarantined / max(r.rows, 1))
    lines = [f"  {n} rows: {reason}" for reason, n in top]
    raise DataError(
        f"{bad} of {rows} rows ({bad / rows:.2%}) would be quarantined, more than the limit of {limit:.2%};"
        " most often:\n"
        + "\n".join(lines)
        + f"\nworst file: {worst.name} ({worst.quarantined} of {worst.rows}); every row with its reasons:"
        " SELECT * FROM apex.quarantine WHERE source_kind = 'raw'"
    )
