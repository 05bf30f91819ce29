"""Profiles of scoring runs and of days of online answers: the counts that drift is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.session import Row, Session


@dataclass(frozen=True)
class Run:
    """A scoring run with its profile; `day` is the UTC day on which it finished."""

    run_id: int
    drop: str
    day: date
    version: int
    rows_in: int
    rows_quarantined: int
    rows_scored: int
    profile: dict[str, Any]
    drifted: bool
    """Whether a feature of it has drifted. Not when outcomes then showed that the scores of that week were as good as
    expected: history, and with it the predictions, may move to a new level for good."""


class ProfileStore(Protocol):
    """The profiles of one model, and which of them drift was not measured on yet."""

    def unchecked_runs(self, min_rows: int) -> list[Run]:
        """Current runs of enough rows whose drift was not measured yet, in the order in which they finished."""
        ...

    def runs_before(self, run_id: int, version: int, limit: int) -> list[Run]:
        """The newest current runs of a version before a run, whatever their size."""
        ...

    def unchecked_days(self) -> list[tuple[date, int]]:
        """Day and version whose current runs are not those that drift was measured on, in row.

        That is a day on which more was scored since, and one of whose drops a corrected one has replaced since: of such
        a day there may be no current run left.
        """
        ...

    def runs_of_day(self, day: date, version: int) -> list[Run]:
        """The current runs of a version that finished on a day."""
        ...

    def unchecked_online_days(self) -> list[Run]:
        """Days and versions of which more online answers were recorded than drift was measured on, in row."""
        ...

    def online_days_before(self, run: Run, limit: int) -> list[Run]:
        """The newest days of online answers of the same version before a day."""
        ...


_CURRENT = (
    "d.superseded_by IS NULL"
    " AND NOT EXISTS (SELECT FROM scoring_runs AS n WHERE n.drop_id = r.drop_id AND n.run_id > r.run_id)"
)
"""The newest run of a drop that no corrected one has replaced: each delivered row counts once."""
_RUNS = (
    "SELECT r.run_id, d.name, (r.finished_at AT TIME ZONE 'UTC')::date, r.model_version, r.rows_in, r.rows_quarantined,"
    " r.rows_scored, r.profile, EXISTS (SELECT FROM drift AS f WHERE f.scope = 'drop' AND"
    " f.subject = r.run_id::text AND f.drifted AND NOT (f.kind IN ('history', 'prediction', 'confidence') AND EXISTS"
    " (SELECT FROM model_quality AS q WHERE q.model_name = r.model_name AND q.model_version = r.model_version"
    " AND q.verdict IN ('as expected', 'better') AND NOT coalesce(q.sustained, false) AND q.week ="
    " date_trunc('week', r.snapshot_as_of + (r.profile->>'lag_days')::float8 * interval '1 day')::date)))"
    " FROM scoring_runs AS r JOIN drops AS d USING (drop_id)"
    f" WHERE {_CURRENT} AND r.model_name = %(name)s AND r.profile IS NOT NULL"
)
_ONLINE = (
    "SELECT o.day, o.model_version, o.answers, o.profile, EXISTS (SELECT FROM drift AS f WHERE f.scope = 'online'"
    " AND f.subject = o.day || ' v' || o.model_version AND f.drifted) FROM online_profiles AS o"
    " WHERE o.model_name = %(name)s"
)


class PostgresProfiles(ProfileStore):
    """The profiles in the tables scoring_runs and online_profiles."""

    def __init__(self, session: Session, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    def _fetch(self, query: str, **values: object) -> list[Row]:
        return self._session.fetch(query, {"name": self._model_name, **values})

    @override
    def unchecked_runs(self, min_rows: int) -> list[Run]:
        rows = self._fetch(
            f"{_RUNS} AND r.rows_in >= %(rows)s AND NOT EXISTS"
            " (SELECT FROM drift AS f WHERE f.scope = 'drop' AND f.subject = r.run_id::text) ORDER BY 1",
            rows=min_rows,
        )
        return [Run(*row) for row in rows]

    @override
    def runs_before(self, run_id: int, version: int, limit: int) -> list[Run]:
        rows = self._fetch(
            f"{_RUNS} AND r.model_version = %(version)s AND r.run_id < %(run)s ORDER BY 1 DESC LIMIT %(limit)s",
            version=version,
            run=run_id,
            limit=limit,
        )
        return [Run(*row) for row in rows]

    @override
    def unchecked_days(self) -> list[tuple[date, int]]:
        rows = self._fetch(
            "SELECT coalesce(s.day, f.day), coalesce(s.version, f.version) FROM"
            " (SELECT (r.finished_at AT TIME ZONE 'UTC')::date AS day, r.model_version AS version,"
            " sum(r.rows_scored) AS rows, max(r.finished_at) AS finished_at"
            " FROM scoring_runs AS r JOIN drops AS d USING (drop_id)"
            f" WHERE {_CURRENT} AND r.model_name = %(name)s AND r.profile IS NOT NULL GROUP BY 1, 2) AS s"
            " FULL JOIN (SELECT day, model_version AS version, max(rows) AS rows, max(measured_at) AS measured_at"
            " FROM drift WHERE scope = 'day' AND kind = 'prediction' AND model_name = %(name)s GROUP BY 1, 2) AS f"
            " ON (f.day, f.version) = (s.day, s.version)"
            " WHERE coalesce(s.rows, 0) <> coalesce(f.rows, 0) OR s.finished_at > f.measured_at ORDER BY 1, 2"
        )
        return [(day, int(version)) for day, version in rows]

    @override
    def runs_of_day(self, day: date, version: int) -> list[Run]:
        rows = self._fetch(
            f"{_RUNS} AND r.model_version = %(version)s AND (r.finished_at AT TIME ZONE 'UTC')::date = %(day)s"
            " ORDER BY 1",
            version=version,
            day=day,
        )
        return [Run(*row) for row in rows]

    @override
    def unchecked_online_days(self) -> list[Run]:
        rows = self._fetch(
            f"{_ONLINE} AND o.answers > coalesce((SELECT max(f.rows) FROM drift AS f"
            " WHERE f.scope = 'online' AND f.subject = o.day || ' v' || o.model_version AND f.kind = 'prediction'), 0)"
            " ORDER BY o.day, o.model_version"
        )
        return [_online_run(row) for row in rows]

    @override
    def online_days_before(self, run: Run, limit: int) -> list[Run]:
        rows = self._fetch(
            f"{_ONLINE} AND o.model_version = %(version)s AND o.day < %(day)s ORDER BY o.day DESC LIMIT %(limit)s",
            version=run.version,
            day=run.day,
            limit=limit,
        )
        return [_online_run(row) for row in rows]


def _online_run(row: Row) -> Run:
    """A day of online answers as a run: requests that break the contract are refused, so nothing is quarantined."""
    day, version, answers, profile, drifted = row
    return Run(day.toordinal(), "", day, version, answers, 0, answers, profile, drifted)
