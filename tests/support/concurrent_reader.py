"""A reader that polls while scoring is disturbed, and reports inconsistent rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from tests.support.apex_home import Apex

ROWS_IN_VIEWS = """
    SELECT s.name, coalesce(s.run_id, o.run_id, -1) AS run_id, s.state = 'done' AS done, s.rows_in, s.rows_scored,
           s.rows_quarantined, o.n AS orders, c.n AS of_classes, coalesce(q.n, 0) AS quarantined
    FROM orders.drop_summary AS s
    FULL JOIN (SELECT run_id, drop_sha256, count(*) AS n FROM orders.lineage GROUP BY 1, 2) AS o USING (run_id)
    FULL JOIN (SELECT run_id, sum(rows) AS n FROM orders.drop_classes GROUP BY 1) AS c
        ON c.run_id = coalesce(s.run_id, o.run_id)
    FULL JOIN (SELECT source_sha256, count(DISTINCT row_nr) AS n FROM orders.quarantine GROUP BY 1) AS q
        ON q.source_sha256 = coalesce(s.sha256, o.drop_sha256)"""
ROWS_IN_TABLES = """
    SELECT d.name, coalesce(r.run_id, o.run_id, -1) AS run_id, d.state = 'done' AS done, r.rows_in, r.rows_scored,
           r.rows_quarantined, o.n AS orders, c.n AS of_classes, coalesce(q.n, 0) AS quarantined
    FROM orders.drops AS d
    FULL JOIN orders.scoring_runs AS r USING (drop_id)
    FULL JOIN (SELECT run_id, count(*) AS n FROM orders.scored GROUP BY 1) AS o USING (run_id)
    FULL JOIN (SELECT run_id, sum(rows) AS n FROM orders.scoring_run_classes GROUP BY 1) AS c USING (run_id)
    FULL JOIN (SELECT source_sha256, count(*) AS n FROM orders.quarantined_rows GROUP BY 1) AS q
        ON q.source_sha256 = d.sha256"""


class Reader(threading.Thread):
    """Polls the views and the tables all the time, and collects every inconsistency.

    A temporary outage of the server is no inconsistency. A row that disappears is one.
    """

    def __init__(self, apex: Apex) -> None:
        super().__init__(daemon=True)
        self._looks = ((apex.settings.reader_url, ROWS_IN_VIEWS), (apex.settings.writer_url, ROWS_IN_TABLES))
        self._end = threading.Event()
        self.polls = 0
        self.wrong: list[Any] = []
        self._known: set[Any] = set()
        self.failed: list[Exception] = []

    def run(self) -> None:
        while not self._end.is_set():
            try:
                with (
                    closing(psycopg2.connect(self._looks[0][0])) as people,
                    closing(psycopg2.connect(self._looks[1][0])) as owner,
                ):
                    for connection in (people, owner):
                        connection.set_session("REPEATABLE READ", readonly=True)
                    while not self._end.is_set():
                        self._poll(people, ROWS_IN_VIEWS)
                        self._poll(owner, ROWS_IN_TABLES)
                        self.polls += 1
                        self._end.wait(0.03)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                self._end.wait(0.02)
            except Exception as error:
                self.failed.append(error)
                return

    def _poll(self, connection: Any, query: str) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            names = [column.name for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        for one in rows:
            is_complete = (
                one["done"]
                and one["orders"] == one["rows_scored"] == one["of_classes"]
                and one["quarantined"] == one["rows_quarantined"]
                and one["rows_in"] == one["rows_scored"] + one["rows_quarantined"]
            )
            if not is_complete:
                self.wrong.append(one)
        now = {(one["name"], one["run_id"]) for one in rows}
        if lost := self._known - now:
            self.wrong.append(("was there before", lost))
        self._known |= now

    def until_more(self, polls: int = 3) -> None:
        """Wait until it has polled some more times."""
        deadline = time.monotonic() + 30
        expected = self.polls + polls
        while self.polls < expected and time.monotonic() < deadline and self.is_alive():
            time.sleep(0.01)
        assert self.polls >= expected, self.failed

    def end(self) -> None:
        self._end.set()
        self.join(30)


@contextmanager
def reading(apex: Apex) -> Iterator[Reader]:
    """A reader that polls while the block runs. Afterwards it must have found no inconsistency."""
    reader = Reader(apex)
    reader.start()
    try:
        yield reader
        reader.until_more()
    finally:
        reader.end()
    assert reader.wrong[:3] == [] and reader.failed == []
