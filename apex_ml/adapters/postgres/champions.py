"""The ledger of the champion: every decision about it, and every move from one version to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.connection import PLATFORM_SCHEMA, autocommitted, transaction
from apex_ml.adapters.postgres.session import Row, Session
from apex_ml.core.recorded_evidence import RecordedEvidence
from apex_ml.json_text import json_text
from apex_ml.settings import Settings

if TYPE_CHECKING:  # the gate imports more than a reader of the ledger needs
    from apex_ml.core.promotion.evidence import Evidence

CHAMPION_LOCK = 7_261_002
"""First key of the advisory lock that serialises everything about the champion; the second is the model's name."""
_EVERY_CHAMPION = f"{PLATFORM_SCHEMA}.all_champions"
_COLUMNS = "promotion_id, action, step_run, from_version, to_version, who, reasons, evidence::text, decided_at"


@dataclass(frozen=True)
class NewDecision:
    """A decision that is about to be recorded; its state is `pending` for a move that still has to be made."""

    action: str
    state: Literal["pending", "done"]
    step_run: str
    who: str
    reasons: tuple[str, ...]
    from_version: int | None = None
    to_version: int | None = None
    evidence: Evidence | RecordedEvidence = field(default_factory=RecordedEvidence)
    data_sha256: str | None = None
    contract_sha256: str | None = None


@dataclass(frozen=True)
class Decision:
    """A finished decision of the ledger."""

    promotion_id: int
    action: str
    step_run: str
    from_version: int | None
    to_version: int | None
    who: str
    reasons: list[str]
    evidence: RecordedEvidence
    decided_at: datetime


@dataclass(frozen=True)
class PendingMove:
    """A move that was begun and not finished."""

    promotion_id: int
    from_version: int | None
    to_version: int


@dataclass(frozen=True)
class DecidedInput:
    """What a decision of the gate was about: the run, when, and the digests of its data and contract."""

    step_run: str
    decided_at: datetime
    data_sha256: str | None
    contract_sha256: str | None

    def is_about(self, data_sha256: str, contract_sha256: str) -> bool:
        """Whether the decision was about exactly this data and contract."""
        return (self.data_sha256, self.contract_sha256) == (data_sha256, contract_sha256)


class ChampionLedger(Protocol):
    """The decisions about the champion of one model, in the order in which they were taken."""

    def champion(self) -> int | None:
        """The champion's version: the target of the latest finished move."""
        ...

    def champions_of_other_models(self) -> dict[str, int]:
        """The champions of the registered models that the pipeline had before, by the name of the model."""
        ...

    def champion_elsewhere(self) -> tuple[str, int] | None:
        """Pipeline and version of the champion that another pipeline of the platform has of the model.

        Also one whose folder is gone. None when this pipeline itself had a champion of the model, or none has.
        """
        ...

    def challenger(self) -> int | None:
        """The challenger's version, by the view challenger."""
        ...

    def pending_move(self) -> PendingMove | None:
        """The move that was begun and not finished; there is at most one."""
        ...

    def record(self, decision: NewDecision) -> int:
        """Append a decision; return its id."""
        ...

    def finish_move(self, promotion_id: int) -> None:
        """Mark a pending move as done."""

    def abort_move(self, promotion_id: int, reason: str) -> None:
        """Mark a pending move as one that will not be finished, and why."""

    def moves(self) -> list[Decision]:
        """Every finished change of the champion, oldest first."""
        ...

    def latest_move_to(self, version: int | None) -> Decision | None:
        """The latest finished change that made a version champion; with None the one that left no champion."""
        ...

    def decision_of(self, step_run: str, to_version: int) -> Decision | None:
        """The gate's finished decision of a run about a version; None when it has not been taken."""
        ...

    def latest_decision_about(self, to_version: int) -> Decision | None:
        """The gate's latest decision about a version; None when there was none."""
        ...

    def latest_input(self) -> DecidedInput | None:
        """What the gate's latest decision was about; None before the first one."""
        ...

    def rejections_since_last_move(self) -> int:
        """How many challengers were rejected since the champion last changed."""
        ...


class PostgresChampions(ChampionLedger):
    """The ledger in the table promotions."""

    def __init__(self, session: Session, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    @override
    def champion(self) -> int | None:
        return self._version(
            "SELECT to_version FROM promotions WHERE model_name = %s AND state = 'done' AND action <> 'reject'"
            " ORDER BY promotion_id DESC LIMIT 1"
        )

    @override
    def champions_of_other_models(self) -> dict[str, int]:
        rows = self._session.fetch(
            "SELECT DISTINCT ON (model_name) model_name, to_version FROM promotions WHERE model_name <> %s"
            " AND state = 'done' AND action <> 'reject' ORDER BY model_name, promotion_id DESC",
            (self._model_name,),
        )
        return {model: version for model, version in rows if version is not None}

    @override
    def champion_elsewhere(self) -> tuple[str, int] | None:
        row = self._session.fetch_one(
            "SELECT to_regclass('promotions') IS NOT NULL, to_regclass(%s) IS NOT NULL", (_EVERY_CHAMPION,)
        )
        has_tables, has_others = row or (False, False)
        own = "SELECT FROM promotions WHERE model_name = %s AND state = 'done' AND action <> 'reject' LIMIT 1"
        if not has_others or (has_tables and self._session.fetch(own, (self._model_name,))):
            return None
        row = self._session.fetch_one(
            f"SELECT pipeline, version FROM {_EVERY_CHAMPION} WHERE model_name = %s AND version IS NOT NULL"
            " AND pipeline IS DISTINCT FROM current_schema() ORDER BY since DESC LIMIT 1",
            (self._model_name,),
        )
        return None if row is None else (row[0], row[1])

    @override
    def challenger(self) -> int | None:
        return self._version("SELECT version FROM challenger WHERE model_name = %s")

    def _version(self, query: str) -> int | None:
        row = self._session.fetch_one(query, (self._model_name,))
        return row[0] if row else None

    @override
    def pending_move(self) -> PendingMove | None:
        row = self._session.fetch_one(
            "SELECT promotion_id, from_version, to_version FROM promotions WHERE model_name = %s AND state = 'pending'",
            (self._model_name,),
        )
        return None if row is None else PendingMove(*row)

    @override
    def record(self, decision: NewDecision) -> int:
        values = {
            "model_name": self._model_name,
            "action": decision.action,
            "state": decision.state,
            "step_run": decision.step_run,
            "who": decision.who,
            "reasons": list(decision.reasons),
            "from_version": decision.from_version,
            "to_version": decision.to_version,
            "evidence": json_text(decision.evidence.as_dict()),
            "data_sha256": decision.data_sha256,
            "contract_sha256": decision.contract_sha256,
        }
        marks = ", ".join(f"%({name})s" + ("::text::jsonb" if name == "evidence" else "") for name in values)
        row = self._session.fetch_one(
            f"INSERT INTO promotions ({', '.join(values)}, done_at)"
            f" VALUES ({marks}, CASE %(state)s::text WHEN 'done' THEN clock() END)"
            " RETURNING promotion_id",
            values,
        )
        assert row is not None  # RETURNING yields the inserted row
        return int(row[0])

    @override
    def finish_move(self, promotion_id: int) -> None:
        self._session.execute(
            "UPDATE promotions SET state = 'done', done_at = clock() WHERE promotion_id = %s AND state = 'pending'",
            (promotion_id,),
        )

    @override
    def abort_move(self, promotion_id: int, reason: str) -> None:
        self._session.execute(
            "UPDATE promotions SET state = 'aborted', done_at = clock(), reasons = array_append(reasons, %s)"
            " WHERE promotion_id = %s AND state = 'pending'",
            (reason, promotion_id),
        )

    def _decisions(self, condition: str, *values: object) -> list[Decision]:
        rows = self._session.fetch(
            f"SELECT {_COLUMNS} FROM promotions WHERE model_name = %s AND state = 'done' AND {condition}",
            (self._model_name, *values),
        )
        return [_decision(row) for row in rows]

    def _first(self, condition: str, *values: object) -> Decision | None:
        decisions = self._decisions(condition, *values)
        return decisions[0] if decisions else None

    @override
    def moves(self) -> list[Decision]:
        return self._decisions("action <> 'reject' ORDER BY promotion_id")

    @override
    def latest_move_to(self, version: int | None) -> Decision | None:
        return self._first(
            "action <> 'reject' AND to_version IS NOT DISTINCT FROM %s ORDER BY promotion_id DESC LIMIT 1", version
        )

    @override
    def decision_of(self, step_run: str, to_version: int) -> Decision | None:
        return self._first(
            "action IN ('promote', 'reject') AND step_run = %s AND to_version = %s", step_run, to_version
        )

    @override
    def latest_decision_about(self, to_version: int) -> Decision | None:
        return self._first(
            "action IN ('promote', 'reject') AND to_version = %s ORDER BY promotion_id DESC LIMIT 1", to_version
        )

    @override
    def latest_input(self) -> DecidedInput | None:
        row = self._session.fetch_one(
            "SELECT step_run, decided_at, data_sha256, contract_sha256 FROM promotions WHERE model_name = %s"
            " AND action IN ('promote', 'reject') AND state = 'done' ORDER BY promotion_id DESC LIMIT 1",
            (self._model_name,),
        )
        return None if row is None else DecidedInput(*row)

    @override
    def rejections_since_last_move(self) -> int:
        row = self._session.fetch_one(
            "SELECT count(*) FROM promotions WHERE model_name = %(name)s AND state = 'done' AND action = 'reject'"
            " AND promotion_id > coalesce((SELECT max(promotion_id) FROM promotions WHERE model_name = %(name)s"
            " AND state = 'done' AND action <> 'reject'), 0)",
            {"name": self._model_name},
        )
        return int(row[0]) if row else 0


def _decision(row: Row) -> Decision:
    promotion_id, action, step_run, from_version, to_version, who, reasons, evidence, decided_at = row
    about = RecordedEvidence.read(json.loads(evidence))  # one driver reads jsonb as text
    return Decision(promotion_id, action, step_run, from_version, to_version, who, reasons, about, decided_at)


@contextmanager
def champion_lock(
    settings: Settings, schema: str, model_name: str, *, shared: bool = False
) -> Iterator[ChampionLedger]:
    """Hold the lock on the champion during the block; each change of the ledger is committed by itself.

    Exclusive for processes that can move the alias, shared for readers. A process that dies releases it.
    """
    function = "pg_advisory_lock_shared" if shared else "pg_advisory_lock"
    with autocommitted(settings, schema) as session:
        session.execute(f"SELECT {function}(%s, hashtext(%s))", (CHAMPION_LOCK, model_name))
        yield PostgresChampions(session, model_name)


@contextmanager
def champions(settings: Settings, schema: str, model_name: str) -> Iterator[ChampionLedger]:
    """The ledger of a model in a transaction of its own, without the lock."""
    with transaction(settings, schema) as session:
        yield PostgresChampions(session, model_name)
