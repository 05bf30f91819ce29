"""The appends to a Delta or Iceberg table as drops.

The table is never written. Each commit that only adds rows is a drop, known by the table's id and the version. The
ledger knows which commits were scored, so that a killed or doubled run loses and doubles nothing.
"""

from __future__ import annotations

import logging
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from apex_ml.adapters.storage.files import UnreadableError, map_disk_errors
from apex_ml.adapters.storage.inboxes import DropInbox, FetchedDrop, late_drops
from apex_ml.adapters.storage.notes import Notes
from apex_ml.adapters.storage.table_log import Commits, Position, TableCommit, TableLog, TableState
from apex_ml.adapters.storage.waiting import KnownObject, Waiting
from apex_ml.contract.scoring_options import Scoring
from apex_ml.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
_NAME = re.compile(r".+-[vs](\d+)\.parquet")
NO_TABLE = ""
"""Stands for the id of a table that is not there yet."""


class TableLedger(Notes, Protocol):
    """Which commits of tables were handled."""

    def position(self, place: str, table_id: str) -> Position | None:
        """How far a table was handled; None before the first look at it."""
        ...

    def begin(self, place: str, table_id: str, position: Position) -> None:
        """Begin behind a position, unless the table was begun before.

        At a place where another table was before, or none, every commit is new.
        """

    def advance(self, place: str, table_id: str, position: Position) -> None:
        """Note how far a table was handled."""

    def report(self, subject: str, message: str) -> None:
        """Raise the alert that commits of a table are no drops."""


class TableInbox(DropInbox):
    """The appends to the table at a location."""

    def __init__(self, log: TableLog, ledger: TableLedger, url: str, options: Scoring, spool_bytes: int) -> None:
        self._log, self._ledger, self.url = log, ledger, url.rstrip("/")
        self._first, self._source, self._spool_bytes = options.first_version, options.source, spool_bytes
        self._state: TableState | None = None

    @property
    def inbox(self) -> str:
        """The location of the table."""
        return self.url

    @property
    def fate_of_bad_drops(self) -> str:
        """That they stay."""
        return f"stay in the table {self.url}"

    def prepare(self) -> None:
        """Begin: without scoring.first_version the appends after the newest version of the first look are drops."""
        self._begun(self._read())

    def look(self) -> list[Waiting]:
        """The appends that are not known, oldest first. Nothing is written."""
        state = self._read()
        position = None if state is None else self._position(state)
        if state is None or position is None:
            return []
        commits = state.after(position).commits
        known = self._known(commits)
        return [self._waiting(c) for c in commits if c.kind == "append" and self._place(c) not in known]

    def folders(self) -> dict[str, str]:
        """None: a table has no folders of drops."""
        return {}

    def settled(self) -> list[Waiting]:
        """As :meth:`look`. Commits that changed rows are reported once, and the position is noted."""
        state = self._read()
        if state is None or (position := self._begun(state)) is None:
            return []
        after = state.after(position)
        if after.lost:
            self._report_lost(state, after)
        known = self._known(after.commits)
        waiting: list[Waiting] = []
        for commit in after.commits:
            if commit.kind == "append" and self._place(commit) not in known:
                waiting.append(self._waiting(commit))
            elif commit.kind == "change" and self._place(commit) not in known:
                self._report_change(commit)
        names = {drop.name for drop in waiting}
        done = list(takewhile(lambda commit: self._name(commit) not in names, after.commits))
        if done:
            last = done[-1].table
            self._ledger.advance(self._mark, last.table_id, state.at(last.version))
        return waiting

    def late(self, minutes: float, now: float | None = None) -> dict[str, str]:
        """The appends that were committed more than a number of minutes ago and wait, each with a message."""
        return late_drops(self.look(), self.inbox, minutes, now)

    def unfinished(self, drop: Waiting, now: float | None = None) -> str | None:
        """None: a commit is whole."""
        return None

    def known_content(self, name: str) -> tuple[Waiting, str] | None:
        """The append: its identity is that of its version."""
        commit = self._commit(name)
        return self._waiting(commit), commit.table.identity()

    @contextmanager
    def fetch(self, name: str, scratch: Path) -> Iterator[FetchedDrop]:
        """The rows of an append as one parquet file in the scratch folder, which is removed at the end."""
        commit, state = self._commit(name), self._read_again()
        if commit.bytes > self._spool_bytes:
            raise DataError(
                f"{name}: {commit.bytes:,} bytes are more than a drop of a table may have ({self._spool_bytes:,}:"
                " APEX_SPOOL_MB); append in smaller commits, or allow more"
            )
        folder = scratch / uuid.uuid4().hex
        path = folder / name
        try:
            with map_disk_errors(folder):
                folder.mkdir()
            try:
                state.write_rows(commit, path)
            except FileNotFoundError as error:
                raise DataError(
                    f"{name}: a file of {commit.table} is gone: vacuumed, expired or deleted ({error}). Its"
                    " rows were not scored; append them again"
                ) from error
            except ConfigError as error:  # the others may be readable
                raise UnreadableError(f"{name}: {error}") from error
            yield FetchedDrop(self._waiting(commit), path, commit.table.identity(), lambda: "same")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def scored(self, name: str, sha256: str, scratch: Path) -> Iterator[FetchedDrop | None]:
        """The rows of a scored append, as long as the table has its commit and its files."""
        try:
            commit = self._commit(name)
        except FileNotFoundError as error:
            raise DataError(f"{name}: the log of {self.url} does not have this commit any more") from error
        if commit.table.identity() != sha256:
            raise DataError(f"{name}: another table is at {self.url} now, with the id {commit.table.table_id}")
        with self.fetch(name, scratch) as fetched:
            yield fetched

    def finish(self, drop: Waiting, sha256: str) -> str:
        """Note the append; it stays where it is."""
        self._ledger.note([(f"{self.url}/{drop.name}", drop.file_at(drop.name))], sha256)
        return f"{self.url}/{drop.name}"

    def reject(self, drop: Waiting, sha256: str, reason: dict[str, Any]) -> str:
        """Note the append; it stays where it is."""
        return self.finish(drop, sha256)

    def quarantine_unreadable(self, name: str, reason: dict[str, Any]) -> str:
        """Note the append, which is not tried again by itself."""
        commit = self._commit(name)
        return self.finish(self._waiting(commit), commit.table.identity())

    def remove(self, names: set[str], shas: set[str]) -> None:
        """Nothing: the table is never written, and an append that was scored once is not scored again."""

    @property
    def _mark(self) -> str:
        """The place of the position: another scoring.first_version begins again."""
        return self.url if self._first is None else f"{self.url} from {self._first}"

    def _read(self) -> TableState | None:
        self._state = self._log.read()
        return self._state

    def _read_again(self) -> TableState:
        """The table as it was read last."""
        state = self._state or self._read()
        if state is None:
            raise FileNotFoundError(f"{self.url}: there is no {self._source} table")
        return state

    def _position(self, state: TableState) -> Position | None:
        begun = self._ledger.position(self._mark, state.newest.table_id)
        return state.before(self._first) if begun is None and self._first is not None else begun

    def _begun(self, state: TableState | None) -> Position | None:
        """The position in a table; begins at the first look."""
        if state is None:
            logger.warning("table_missing location=%s: no drops until there is a %s table", self.url, self._source)
            self._ledger.begin(self._mark, NO_TABLE, Position())
            return None
        table = state.newest
        if self._ledger.position(self._mark, table.table_id) is None:
            start = state.at(table.version) if self._first is None else state.before(self._first)
            self._ledger.begin(self._mark, table.table_id, start)
        return self._ledger.position(self._mark, table.table_id)

    def _known(self, commits: Sequence[TableCommit]) -> Mapping[str, KnownObject]:
        drops = [(c, self._waiting(c)) for c in commits if c.kind != "none"]
        return self._ledger.known([(self._place(c), drop.file_at(drop.name)) for c, drop in drops])

    def _commit(self, name: str) -> TableCommit:
        match = _NAME.fullmatch(name)
        if match is None:
            raise ConfigError(f"--drops {name!r}: is no append to {self.url}; `apex status` lists those that wait")
        try:
            return self._read_again().commit(int(match[1]))
        except FileNotFoundError:  # it may be newer than the last look
            state = self._read()
            if state is None:
                raise
            return state.commit(int(match[1]))

    def _name(self, commit: TableCommit) -> str:
        table = commit.table
        part = f"v{table.version:06d}" if table.format == "delta" else f"s{table.version}"
        return f"{table.name}-{part}.parquet"

    def _place(self, commit: TableCommit) -> str:
        return f"{self.url}/{self._name(commit)}"

    def _waiting(self, commit: TableCommit) -> Waiting:
        table, at = commit.table, 0 if commit.table.committed_at is None else commit.table.committed_at.timestamp()
        ns = round(at * 1000) * 1_000_000
        version = f"{table.table_id}/{table.version}"
        return Waiting(self._name(commit), commit.bytes, ns, ns, version, corrects=False)

    def _report_change(self, commit: TableCommit) -> None:
        drop = self._waiting(commit)
        logger.warning("table_changed %s operation=%s", commit.table, commit.operation)
        self._ledger.report(
            drop.name,
            f"{commit.table}: {commit.operation} changed or removed rows that were there before, so that it is no drop"
            " and nothing was scored. To have rows scored, append them; then close this alert",
        )
        self._ledger.note([(self._place(commit), drop.file_at(drop.name))], commit.table.identity())

    def _report_lost(self, state: TableState, after: Commits) -> None:
        logger.warning("table_commits_lost location=%s lost=%s", self.url, after.lost)
        self._ledger.report(
            f"{state.newest.name}: {after.lost}",
            f"{self.url}: the log of the table lost {after.lost} before Apex looked at them: their appends were not"
            " scored. Append the rows again, and keep the log longer than scoring may stand still",
        )
        first = after.commits[0].table
        self._ledger.advance(self._mark, first.table_id, state.before(first.version))
