"""Step outcomes: find the outcome of scored rows in the accepted raw rows of later files.

A raw row belongs to a score when both have the same key. In a contract without key both must be of one entity and one
date, and no other current score and no other raw row may be. Scores and rows that are not unique stay without an
outcome and are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.outcomes import SCHEMA, DayCoverage, OutcomeStore, PostgresOutcomes
from apex_ml.adapters.storage.atomic_writes import scratch_folder
from apex_ml.contract.model import Contract
from apex_ml.faults import reach
from apex_ml.services.results import ValidateResult
from apex_ml.services.run_folder import StepContext, latest_manifest, step_manifest
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.services.scoring_results import Coverage, OutcomesResult
from apex_ml.sql import outcomes as sql
from apex_ml.sql.accepted_rows import select_days
from apex_ml.wording import counted

logger = logging.getLogger(__name__)
BATCH_ROWS = 131_072
LOGGED_EXAMPLES = 5
KINDS = ("matched", "already_known", "ambiguous", "contradicted")
AGES = (("coming", 0), ("1-7", 7), ("8-14", 14), ("15-30", 30), ("31-90", 90))
"""Names of the ages of a row in days, each with its last day."""
OLDER = "91-"
GIVE_KEY = "give the column that identifies a row the role key"
COMING = ("coming", "1-7")
"""Ages whose outcomes may still come."""
MAX_AMBIGUOUS, MIN_COVERAGE, MIN_DUE = 0.1, 0.5, 20
"""Share of ambiguous scores above which the step warns; share of scores with outcome below which it warns, when there
are enough of them."""


def outcomes(context: StepContext, *, newest: bool = False) -> OutcomesResult:
    """Add the outcomes of current scores from a run's accepted raw rows. A second call adds nothing.

    The current scores are those of the latest run of every drop that is not superseded. Each of them whose entity and
    date are in raw is counted once:

    - `matched`: unique on both sides and new: added, with the source ``raw``;
    - `already_known`: it has an outcome, and raw agrees;
    - `contradicted`: it has an outcome, and no raw row of that entity and date agrees, or its outcome came from raw
      and raw now has another target too. The outcome stays;
    - `ambiguous`: not unique in the scores or in raw. Repeated raw rows, equal in every column, are one row.

    With a key the scores of one key are of one row, and its outcome is that of all of them. `warning` says why many
    scores have no outcome. `coverage` counts the current scores by age, in days before the run's `as_of`, with and
    without outcome. With `newest` the raw rows are those of the newest validated run; without such a run the result has
    a `skip`. All of it is one transaction.

    Raises :class:`~apex_ml.errors.DataError` when the given run is not validated.
    """
    validated = latest_manifest(context, ValidateResult) if newest else step_manifest(context, ValidateResult)
    if validated is None or validated.result.as_of is None:
        return OutcomesResult(run=context.run, step="outcomes", skip="no raw rows have been validated yet")
    files = accepted_files(context.runs.output(validated.run, "validate", ACCEPTED, validated.outputs))
    as_of = validated.result.as_of
    with (
        scratch_folder(context.processed, "outcomes") as scratch,
        engine.connect(context.settings, scratch) as con,
        engine.errors_name("outcomes"),
        bulk_transaction(context.settings, context.schema) as session,
    ):
        store = PostgresOutcomes(session)
        store.lock()
        counts = dict.fromkeys(KINDS, 0)
        if _load_scores(con, store, context.contract, files):
            _match(con, context.contract, files)
            counts |= dict(con.execute(sql.COUNT_MATCHES).fetchall())
            _add(con, store)
            _log_contradictions(con, counts["contradicted"])
        reach("outcomes_written")
        covered = coverage_by_age(store.coverage(), as_of)
    warning = coverage_warning(context.contract, counts, covered)
    if warning:
        logger.warning("outcomes_few %s", warning)
    logger.info("outcomes %s", " ".join(f"{kind}={n}" for kind, n in counts.items()))
    return OutcomesResult(
        run=context.run,
        step="outcomes",
        raw_run=validated.run,
        matched=counts["matched"],
        already_known=counts["already_known"],
        ambiguous=counts["ambiguous"],
        contradicted=counts["contradicted"],
        as_of=as_of,
        coverage=covered,
        warning=warning,
    )


def coverage_by_age(days: Sequence[DayCoverage], as_of: date) -> dict[str, Coverage]:
    """Sum the coverage of days by age; ages without rows are left out.

    >>> days = [DayCoverage(date(2024, 8, d), n, known) for d, n, known in ((1, 8, 6), (20, 4, 1), (24, 5, 0))]
    >>> {age: row.share for age, row in coverage_by_age(days, as_of=date(2024, 8, 24)).items()}
    {'coming': 0.0, '1-7': 0.25, '15-30': 0.75}
    """
    sums = {name: [0, 0] for name in (*(name for name, _ in AGES), OLDER)}
    for day in days:
        age = (as_of - day.day).days
        total = sums[next((name for name, last in AGES if age <= last), OLDER)]
        total[0] += day.scored
        total[1] += day.with_outcome
    return {n: Coverage(scored=s, with_outcome=k, share=round(k / s, 4)) for n, (s, k) in sums.items() if s}


def coverage_warning(contract: Contract, counts: Mapping[str, int], covered: Mapping[str, Coverage]) -> str | None:
    """Why few scores have an outcome, and what to do; None when nothing is wrong."""
    if not sql.match_columns(contract):
        return (
            "raw rows cannot be matched with scores: the contract has no key, and not both an entity and a timestamp;"
            f" {GIVE_KEY}"
        )
    compared = sum(counts.values())
    if counts["ambiguous"] > MAX_AMBIGUOUS * compared:
        remedy = "correct the raw rows" if contract.named("key") else GIVE_KEY
        return (
            f"{counts['ambiguous']:,} of {counted(compared, 'score')} cannot be matched, as several scores or raw rows"
            f" have the same {' and '.join(sql.match_columns(contract))}: {remedy}"
        )
    due = [row for age, row in covered.items() if age not in COMING]
    scored, known = sum(row.scored for row in due), sum(row.with_outcome for row in due)
    if scored < MIN_DUE or known >= MIN_COVERAGE * scored:
        return None
    return (
        f"only {known:,} of {counted(scored, 'score')} of rows older than a week have an outcome: deliver the raw rows"
        f" of these days, and compare {' and '.join(sql.match_columns(contract))} in drops and raw files"
    )


def _load_scores(con: duckdb.DuckDBPyConnection, store: OutcomeStore, contract: Contract, files: Sequence[Path]) -> int:
    """Create the table `scores` of the current scores that raw rows may belong to; returns its number of rows.

    Without a key these are the scores of the days that raw spans.
    """
    if not files or not sql.match_columns(contract):
        return 0
    days = None
    if not contract.named("key"):
        first, last = engine.one_row(con, select_days(contract, files))
        if first is None:
            return 0
        days = first, last
    reader = store.current_scores(contract, days)
    rows = 0
    con.register(sql.PART, reader.schema.empty_table())
    con.execute(sql.CREATE_SCORES)
    for batch in reader:  # not read by DuckDB itself, which would report a lost Postgres as an error of its own
        con.register(sql.PART, pa.Table.from_batches([batch]))
        con.execute(sql.INSERT_SCORES)
        rows += batch.num_rows
    return rows


def _match(con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[Path]) -> None:
    """Create the table `matches`: the scores whose entity and date are in raw, with their outcomes there and a kind."""
    con.execute(sql.create_score_keys(contract))
    con.execute(sql.create_raw_keys(contract, files))
    con.execute(sql.create_matches(contract))


def _add(con: duckdb.DuckDBPyConnection, store: OutcomeStore) -> None:
    """Add the new outcomes, and send their scoring runs to MLflow again."""
    matched = con.sql(sql.SELECT_MATCHED)
    store.add(batch.cast(SCHEMA) for batch in matched.to_arrow_reader(BATCH_ROWS))
    runs = con.execute(sql.SELECT_MATCHED_RUNS).fetchall()
    store.send_again([run_id for (run_id,) in runs])


def _log_contradictions(con: duckdb.DuckDBPyConnection, number: int) -> None:
    if not number:
        return
    logger.warning("outcomes_contradicted rows=%s; the first outcome stays, as in:", number)
    examples = con.execute(sql.select_contradictions(LOGGED_EXAMPLES))
    for run_id, row_nr, known, observed in examples.fetchall():
        logger.warning("outcome_contradicted run_id=%s row_nr=%s known=%s raw=%s", run_id, row_nr, known, observed)
