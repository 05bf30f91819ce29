"""Outcomes: the true class of scored rows, from the drop itself or from raw files that came later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import pyarrow as pa
from typing_extensions import override

from apex_ml.adapters.postgres.session import SECOND_KEY, BulkSession
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR
from apex_ml.sql.outcomes import match_columns
from apex_ml.sql.quote import identifier
from apex_ml.sql.tables import scored_day

OUTCOMES_LOCK = 7_261_008
"""First key of the advisory lock of a schema under which one process at a time matches outcomes."""
SCHEMA = pa.schema([("run_id", pa.int64()), (ROW_NR, pa.int64()), ("observed", pa.string()), ("source", pa.string())])
"""Columns of batches of outcomes."""


@dataclass(frozen=True)
class DayCoverage:
    """Current scores of rows of one day, and how many of them have an outcome."""

    day: date
    scored: int
    with_outcome: int


class OutcomeStore(Protocol):
    """The outcomes by scoring run and row. A row has at most one, and it stays."""

    def lock(self) -> None:
        """Wait until no other transaction adds late outcomes; the lock ends with this one."""

    def add(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Add outcomes, as batches of SCHEMA; return their number."""
        ...

    def current_scores(self, contract: Contract, days: tuple[date, date] | None) -> pa.RecordBatchReader:
        """Stream the current scores, all or those of rows from the first of two days to the second.

        The columns are run_id, row_nr, those by which raw rows are matched, and `known`, the outcome or null, with its
        `source`.
        """
        ...

    def send_again(self, run_ids: Sequence[int]) -> None:
        """Put scoring runs back into the outbox, so that MLflow receives the outcomes that came later."""

    def coverage(self) -> list[DayCoverage]:
        """How many current scores have an outcome, by day."""
        ...


class PostgresOutcomes(OutcomeStore):
    """The outcomes in the table outcomes."""

    def __init__(self, session: BulkSession) -> None:
        self._session = session

    @override
    def lock(self) -> None:
        self._session.execute(f"SELECT pg_advisory_xact_lock(%s::integer, {SECOND_KEY})", (OUTCOMES_LOCK,))

    @override
    def add(self, batches: Iterable[pa.RecordBatch]) -> int:
        return self._session.ingest("outcomes", SCHEMA, batches)

    @override
    def current_scores(self, contract: Contract, days: tuple[date, date] | None) -> pa.RecordBatchReader:
        columns = ", ".join(f"s.{identifier(name)}" for name in match_columns(contract))
        scores = (
            f"SELECT s.run_id, s.row_nr, {columns}, o.observed AS known, o.source"
            " FROM scored_current AS s LEFT JOIN outcomes AS o USING (run_id, row_nr)"
        )
        if days is None:
            return self._session.stream(scores)
        return self._session.stream(
            f"{scores} WHERE {scored_day(contract, 's')} BETWEEN %s::text::date AND %s::text::date",
            [day.isoformat() for day in days],
        )

    @override
    def send_again(self, run_ids: Sequence[int]) -> None:
        self._session.execute(
            "UPDATE mlflow_outbox SET sent_at = NULL WHERE run_id = ANY(%s::bigint[])", (list(run_ids),)
        )

    @override
    def coverage(self) -> list[DayCoverage]:
        rows = self._session.fetch("SELECT day, scored, with_outcome FROM outcome_coverage ORDER BY day")
        return [DayCoverage(day, int(scored), int(known)) for day, scored, known in rows]
