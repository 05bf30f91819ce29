"""Step score: every drop exactly once, by one champion, into Postgres in one transaction a drop."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.row_checks import FileReport, check_file, log_report, statistics_are_not_trusted
from apex_ml.adapters.mlflow.inference_log import send_outbox
from apex_ml.adapters.mlflow.registry import ModelVersion, Registry
from apex_ml.adapters.postgres import partitions, scores, warehouse
from apex_ml.adapters.storage.drops import Inbox, Waiting, printable, refuse_unprintable, seen
from apex_ml.adapters.storage.local import UnreadableError, scratch_folder, sha256_of
from apex_ml.contract.model import Contract
from apex_ml.contract.names import ROW_NR, probability_column
from apex_ml.core.estimator import Model, Prediction
from apex_ml.core.features import finish, state_needed, state_sql
from apex_ml.core.profile import PROFILE, Bins, Profile, bins_from
from apex_ml.errors import ApexError, ConfigError, DataError, TransientError
from apex_ml.faults import reach
from apex_ml.json_text import json_text
from apex_ml.services import champion_ledger as protocol
from apex_ml.services.run_folder import StepContext, latest_manifest
from apex_ml.services.unknown_values import alert_unknown_values
from apex_ml.sql.row_checks import literal, quoted
from apex_ml.steps.alerts import send_alerts
from apex_ml.steps.elt import SNAPSHOT, load_orders, with_state_sql
from apex_ml.steps.validate import ACCEPTED
from apex_ml.wording import counted

logger = logging.getLogger(__name__)
BATCH_ROWS = 65_536
SHARED_FAULTS = (ApexError, psycopg2.Error, adbc.Error, OSError)
"""What says nothing of the drop at which it comes: a service or a disk that is lost is lost to all of them."""
MOST_NAMES = 100_000
"""Characters of a chunk's names: Linux takes no argument of 128 KiB or more."""
LABEL = 200
"""Characters of a chunk's label: Airflow takes no more than 250."""
MAX_BAD = 200
"""Bad drops of a run that get a mapped task each; Airflow maps over 1,024 items at most, and each takes a second."""


def list_drops(context: StepContext) -> dict[str, Any]:
    """Group the waiting drops into chunks for the mapped tasks, oldest first; nothing is scored.

    With no champion there are no chunks and the reason stands in `note`: the drops wait for one. An upload that has
    stopped half way is left alone for a while and named in `unfinished`. A file whose name cannot be told to a task is
    moved to quarantine and named in `bad`. With nothing left to report, the note is a `skip`.
    """
    inbox = Inbox(context.settings)
    inbox.prepare()
    bad: list[dict[str, str]] = []
    unfinished: list[str] = []
    waiting = []
    for drop in inbox.settled():
        if not _can_be_told(context, inbox, drop.name, bad):
            continue
        if reason := inbox.unfinished(drop):
            logger.warning("drop_unfinished name=%s reason=%s", drop.name, reason)
            unfinished.append(reason)
        else:
            waiting.append(drop)
    result: dict[str, Any] = {
        "step": "score",
        "waiting": len(waiting),
        "chunks": [],
        "bad": bad,
        "unfinished": unfinished[:MAX_BAD],
    }
    send_outbox(context.settings)  # what could not be sent when it was scored
    if not waiting:
        return result | {"note" if bad else "skip": "; ".join(unfinished[:3]) or "no drops are waiting"}
    if protocol.resolve(context.settings, Registry(context.settings)) is None:
        gone = protocol.why_none(context.settings)
        note = f"{gone or 'no champion yet'}: {counted(len(waiting), 'drop waits', 'drops wait')} for one"
        return result | {"note" if bad else "skip": note}
    result["chunks"] = chunks(waiting, context.settings.score_chunk_drops, context.settings.score_chunk_mb * 2**20)
    return result


def score_inbox(context: StepContext) -> dict[str, Any]:
    """Score all that waits, as :func:`score`; raises for what :func:`list_drops` moved to quarantine, too."""
    listed = list_drops(context)
    names = [name for chunk in listed["chunks"] for name in chunk["drops"]]
    if names or listed["bad"]:
        return score(context, names, before=listed["bad"])
    return listed


def chunks(waiting: list[Waiting], most_drops: int, most_bytes: int) -> list[dict[str, Any]]:
    """Cut a list of drops into chunks of bounded number and size; a single larger drop is a chunk of its own."""
    found: list[list[Waiting]] = []
    size = names = 0
    for drop in waiting:
        name = _length(drop.name)
        if not found or len(found[-1]) >= most_drops or size + drop.size > most_bytes or names + name > MOST_NAMES:
            found.append([])
            size = names = 0
        found[-1].append(drop)
        size += drop.size
        names += name
    return [{"label": _label([d.name for d in c]), "drops": [d.name for d in c]} for c in found]


def _label(names: list[str]) -> str:
    first = _short(names[0])
    return first if len(names) == 1 else f"{first} +{len(names) - 1}"


def _short(name: str) -> str:
    return name if len(name) <= LABEL else f"{name[:LABEL]}…"


def report(context: StepContext) -> dict[str, Any]:
    """What a run has scored and its bad drops, as the ledger knows them; new alerts about those are sent.

    `scored` is the number of drops; `bad` names each drop that the run could not score, with the reason and a label
    for its mapped task. It counts what any try of any task did, also one that was killed. Without either there is a
    `skip`.
    """
    found = warehouse.bad_drops(context.settings, context.run)
    bad = [{"label": _short(row["drop"]), **row} for row in found[:MAX_BAD]]
    if more := len(found) - len(bad):
        text = f"{counted(more, 'more drop is', 'more drops are')} bad; all of them: apex alerts"
        bad.append({"label": f"{more} more", "drop": f"{more} more", "reason": text})
    scored_now = warehouse.scored_drops(context.settings, context.run)
    result: dict[str, Any] = {"run": context.run, "step": "score", "scored": scored_now, "bad": bad}
    if not bad:
        return result if scored_now else result | {"skip": "nothing was scored, and no drop is bad"}
    return result | {"sent": send_alerts(context.settings)}


def _can_be_told(context: StepContext, inbox: Inbox, name: str, bad: list[dict[str, str]]) -> bool:
    try:
        refuse_unprintable(name)
    except DataError as error:
        try:
            _set_aside(context, inbox, name, str(error))
        except UnreadableError as stays:  # it cannot be moved either; the alert is raised
            logger.error("drop_not_moved name=%s reason=%s", printable(name), stays)
        bad.append({"drop": printable(name), "reason": str(error)})
        return False
    return True


def _set_aside(context: StepContext, inbox: Inbox, name: str, reason: str) -> None:
    """Take what has no content to be known by out of the way of the other drops."""
    logger.warning("drop_unreadable name=%s reason=%s", printable(name), reason)
    warehouse.alert_bad_drop(context.settings, printable(name), reason, context.run)
    inbox.set_aside(name, {"reason": reason})


def _length(name: str) -> int:
    """Characters of a name in a JSON list that is escaped for HTML, too, as templates of Airflow escape it."""
    return len(json_text(name)) + 2 + 5 * sum(name.count(c) for c in "<>&'")


class _ChangedError(TransientError):
    """The file is no longer what it was: what it became is seen at the next look."""


@dataclass(frozen=True)
class Scorer:
    """What all drops of one call share: one champion and one history snapshot, resolved once."""

    context: StepContext
    version: ModelVersion
    model: Model
    snapshot: Path
    snapshot_sha256: str
    as_of: date
    accepted: Path
    bins: Mapping[str, Bins] = field(default_factory=dict)
    """The model's own bins of its features and of every attribute, over which the orders of a drop are counted."""
    batch: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Names this call in the outbox: its drops share one MLflow run."""

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the features that are made: those of the model, and those that are only counted."""
        return tuple(dict.fromkeys((*self.model.encoder.names, *self.bins)))


def load_scorer(context: StepContext) -> Scorer:
    """Resolve champion and snapshot.

    Raises :class:`~apex_ml.errors.TransientError` when there is no champion yet, and as :func:`scorer_of` does.
    """
    registry = Registry(context.settings)
    version = protocol.resolve(context.settings, registry)
    if version is None:
        gone = protocol.why_none(context.settings)
        raise TransientError(f"score: {gone or 'there is no champion yet; train one: make train'}")
    return scorer_of(context, registry, version)


def scorer_of(context: StepContext, registry: Registry, version: ModelVersion) -> Scorer:
    """The scorer of any version, with the newest history snapshot that fits its features.

    Raises :class:`~apex_ml.errors.TransientError` when there is no such snapshot, and
    :class:`~apex_ml.errors.ConfigError` when the contract has other classes than the version.
    """
    model = Model.from_files(registry.files(version))
    if tuple(model.classes) != tuple(context.contract.classes):
        raise ConfigError(
            f"score: version {version.version} predicts {', '.join(model.classes)}, and the classes of the contract are"
            f" {', '.join(context.contract.classes)}; the drops wait until a model knows them: apex retrain --force"
        )
    wanted = model.about["features_sha256"]
    manifest = latest_manifest(context, "elt", lambda m: bool(m["result"]["features_sha256"] == wanted))
    if manifest is None:
        raise TransientError(
            f"score: no history snapshot under {context.processed} fits the features of version"
            f" {version.version}; make one: make train"
        )
    folder = context.processed / manifest["run"]
    result = manifest["result"]
    counted = {*model.encoder.names, *context.contract.features.attributes}
    return Scorer(
        context=context,
        version=version,
        model=model,
        snapshot=folder / "elt" / SNAPSHOT,
        snapshot_sha256=result["snapshot_sha256"],
        as_of=date.fromisoformat(result["as_of"]),
        accepted=folder / "validate" / ACCEPTED,
        bins=bins_from(model.about.get(PROFILE, {}), counted),
    )


@dataclass(frozen=True)
class _Tools:
    """What the drops of one call share beside the scorer, as to open it takes longer than to score a small drop."""

    con: duckdb.DuckDBPyConnection
    ledger: warehouse.Connection
    begin: Callable[[], AbstractContextManager[Any]]
    """Begins a transaction of its own for each drop."""
    scratch: Path


@contextmanager
def _tools(context: StepContext) -> Iterator[_Tools]:
    settings = context.settings
    with (
        scratch_folder(context.processed, "scoring") as scratch,
        engine.connect(settings, scratch) as con,
        statistics_are_not_trusted(con),
        warehouse.connect(settings) as ledger,
        scores.transactions(settings) as begin,
    ):
        yield _Tools(con, ledger, begin, scratch)


def score(
    context: StepContext,
    names: list[str],
    *,
    before: Sequence[Mapping[str, str]] = (),
    bad_is_error: bool = True,
) -> dict[str, Any]:
    """Score the named drops of the inbox.

    A drop whose content is in the ledger is not scored again, only moved. One drop never stops the others:

    - A bad drop, what is no file and what may not be read is moved to quarantine with its reason.
    - A file whose disk fails or that needs more memory than there is stays in the inbox, and so does one at which Apex
      itself fails.

    Each raises an alert. In the end :class:`~apex_ml.errors.DataError` names the bad ones and those of `before`, which
    were moved to quarantine earlier; :class:`~apex_ml.adapters.storage.local.UnreadableError` names what a failing
    disk left, and a fault of Apex itself is raised as it is. Without `bad_is_error` they are only in the result:
    :func:`report` names them.

    A lost service raises :class:`~apex_ml.errors.TransientError`: what is committed stays, the rest is found by the
    next call.
    """
    started = time.monotonic()
    inbox = Inbox(context.settings)
    inbox.prepare()
    outcomes: list[dict[str, Any]] = []
    bad = [f"{row['drop']}: {row['reason']}" for row in before]
    left: list[str] = []
    faults: list[Exception] = []
    version = None
    if names or not before:  # a call without any drop still clears what a killed one left
        scorer = load_scorer(context)
        version = scorer.version.version
        with _tools(context) as tools:
            for name in names:
                try:
                    outcomes.append(_one_drop(scorer, tools, inbox, name))
                except DataError as error:
                    bad.append(f"{printable(name)}: {error}")
                    outcomes.append({"drop": name, "state": "failed", "reason": str(error)})
                except (UnreadableError, engine.OutOfMemoryError) as error:
                    warehouse.alert_bad_drop(context.settings, name, str(error), context.run)
                    left.append(f"{name}: {error}")
                    outcomes.append({"drop": name, "state": "unreadable", "reason": str(error)})
                except SHARED_FAULTS:
                    raise
                except Exception as error:  # told in the end; until then the other drops have their turn
                    reason = f"Apex itself fails at this drop, {type(error).__name__}: {error}"
                    logger.exception("drop_fault name=%s", name)
                    warehouse.alert_bad_drop(context.settings, name, reason, context.run)
                    faults.append(error)
                    outcomes.append({"drop": name, "state": "fault", "reason": reason})
        _tidy(context)
    rows = sum(o.get("rows_scored", 0) for o in outcomes)
    result = {
        "run": context.run,
        "step": "score",
        "model_version": version,
        "drops": outcomes if len(outcomes) <= 20 else outcomes[:20] + [{"more": len(outcomes) - 20}],
        "scored": sum(o["state"] == "scored" for o in outcomes),
        "already": sum(o["state"] == "already" for o in outcomes),
        "failed": len(bad) + len(left) + len(faults),
        "with_alert": sum("alert" in o for o in outcomes),
        "rows_scored": rows,
        "seconds": round(time.monotonic() - started, 3),
    }
    if not bad_is_error:
        return result
    total = len(names) + len(before)
    lines = "the others are scored:\n" + "\n".join((bad + left)[:20])
    stay = f"{len(left)} of {total} drops cannot be read for now and stay in {inbox.inbox}, "
    if faults:
        for line in bad + left:  # the fault is raised in their place
            logger.error("drop_not_scored %s", line)
        raise faults[0]
    if bad:
        moved = f"{len(bad)} of {total} drops are bad and were moved to {inbox.quarantine}, "
        raise DataError(moved + (stay if left else "") + lines)
    if left:
        raise UnreadableError(stay + lines)
    return result


def _tidy(context: StepContext) -> None:
    """What follows the commit: MLflow is told, partitions are merged and analysed. None of it undoes what is scored."""
    try:
        send_outbox(context.settings)
        partitions.merge_closed(context.settings, context.contract)
        partitions.analyse_new(context.settings)
    except ApexError as error:
        logger.warning("left_for_later reason=%s", error)


def _one_drop(scorer: Scorer, tools: _Tools, inbox: Inbox, name: str) -> dict[str, Any]:
    path = inbox.path(name)
    try:
        refuse_unprintable(name)
        drop = seen(path, name)
        sha256 = sha256_of(path)
    except FileNotFoundError:
        logger.info("drop_gone name=%s", name)
        return {"drop": name, "state": "gone"}
    except DataError as error:
        _set_aside(scorer.context, inbox, name, str(error))
        raise
    if reason := inbox.unfinished(drop):
        logger.warning("drop_unfinished name=%s reason=%s", name, reason)
        return {"drop": name, "state": "unfinished", "reason": reason}
    known = warehouse.known_drop(tools.ledger, sha256)
    if known and known["state"] == "done":
        warehouse.count_delivery(tools.ledger, sha256)
        inbox.finish(drop, sha256)
        logger.info("drop_already_scored name=%s as=%s", name, known["name"])
        return {"drop": name, "state": "already", "sha256": sha256, "scored_as": known["name"]}
    reach("score_begun")
    try:
        run = _score_file(scorer, tools, path, drop, sha256)
    except (DataError, _ChangedError, UnreadableError, FileNotFoundError) as error:
        now = _became(path, drop)
        if now == "gone":
            logger.info("drop_gone name=%s", name)
            return {"drop": name, "state": "gone"}
        if isinstance(error, _ChangedError) or now == "changed":
            logger.warning("drop_changed name=%s", name)
            return {"drop": name, "state": "changed"}
        if isinstance(error, DataError):
            warehouse.fail_drop(scorer.context.settings, sha256, name, drop.size, str(error), scorer.context.run)
            inbox.reject(drop, sha256, {"reason": str(error)})
        raise
    reach("score_committed")
    if run is None:
        warehouse.count_delivery(tools.ledger, sha256)
        inbox.finish(drop, sha256)
        return {"drop": name, "state": "already", "sha256": sha256}
    inbox.finish(drop, sha256)
    logger.info("drop_scored name=%s rows=%s version=%s", name, run["rows_scored"], scorer.version.version)
    return {"drop": name, "state": "scored", "sha256": sha256, **run}


def _became(path: Path, drop: Waiting) -> str:
    try:
        return "same" if seen(path, drop.name) == drop else "changed"
    except FileNotFoundError:
        return "gone"
    except UnreadableError:
        return "same"
    except DataError:
        return "changed"


def rescore(context: StepContext, given: str) -> dict[str, Any]:
    """Score a finished drop once more with today's champion, as a new run; the older runs stay.

    `given` is its name, id or the beginning of its sha256. Raises :class:`~apex_ml.errors.DataError` when there is no
    such drop or its file is not in done/.
    """
    inbox = Inbox(context.settings)
    known = warehouse.find_drop(context.settings, given)
    if (path := inbox.scored(known["name"], known["sha256"])) is None:
        raise DataError(f"{known['name']}: still lies in {inbox.inbox}; finish it first: apex score")
    scorer = load_scorer(context)
    drop = seen(path, known["name"])
    with _tools(context) as tools:
        run = _score_file(scorer, tools, path, drop, known["sha256"], again=known["drop_id"])
    assert run is not None  # only a claim can find that another process was faster
    logger.info("drop_rescored name=%s rows=%s version=%s", drop.name, run["rows_scored"], scorer.version.version)
    _tidy(context)
    drops = [{"drop": drop.name, "state": "scored", "sha256": known["sha256"], **run}]
    return {"run": context.run, "step": "score", "model_version": scorer.version.version, "drops": drops, "scored": 1}


class _Tally:
    """What is counted while the batches stream by: 5 bytes an order are kept, for exact medians."""

    def __init__(self, orders: int, profile: Profile) -> None:
        self.profile = profile
        self.rows = 0
        self.days = 0
        """Sum of the orders' dates, in days since 1970-01-01."""
        self.predict_seconds = 0.0
        self.features_seconds = 0.0
        self.row_us: list[tuple[float, int]] = []
        self._confidences = np.empty(orders, np.float32)
        self._predicted = np.empty(orders, np.int8)

    def add(self, seconds: float, features: pa.Table, days: int, made: Prediction) -> None:
        """Count one batch: its features, the sum of its dates and what the model said of it in how many seconds."""
        n = len(made.named)
        if self.rows + n <= len(self._predicted):  # else the caller, who compares the numbers, refuses the file
            self._confidences[self.rows : self.rows + n] = made.confidence
            self._predicted[self.rows : self.rows + n] = made.named
        self.profile.add_features(features)
        self.profile.add_predictions(made.named, made.confidence)
        self.days += days
        self.rows += n
        self.predict_seconds += seconds
        self.row_us.append((seconds * 1e6 / max(n, 1), n))

    def confidence(self, of_class: int | None = None) -> tuple[int, float, float]:
        """Orders, mean and median confidence of all, or of a predicted class; NaN where there is no order."""
        chosen = self._confidences if of_class is None else self._confidences[self._predicted == of_class]
        if not len(chosen):
            return 0, float("nan"), float("nan")
        return len(chosen), float(chosen.mean(dtype=np.float64)), float(np.median(chosen))


def _score_file(
    scorer: Scorer, tools: _Tools, path: Path, drop: Waiting, sha256: str, again: int | None = None
) -> dict[str, Any] | None:
    """Check, score and write one file in one transaction; None when another process scored the content meanwhile.

    `again` is the ledger's id of a drop that is scored anew on purpose.
    """
    name = drop.name
    con, contract = tools.con, scorer.context.contract
    started_at, started = datetime.now(UTC), time.monotonic()
    # names of its own: DuckDB may keep what it read of a file by its name
    accepted, quarantined = (tools.scratch / f"{sha256}-{kind}.parquet" for kind in ("accepted", "quarantined"))
    try:
        report = check_file(
            con,
            path,
            contract,
            "score",
            as_of=None,
            accepted=accepted,
            quarantined=quarantined,
            with_row_nr=True,
            copy=False,
        )
        log_report(report, "score")
        _refuse(report, contract)
        checked = time.monotonic()
        query = features_query(con, scorer, report.query, name)
        tally = _Tally(report.accepted, Profile(scorer.bins, len(contract.classes)))
        with tools.begin() as cursor:
            if again is None:
                drop_id = scores.claim_drop(cursor, sha256, name, drop.size, report.rows)
                if drop_id is None:
                    return None
            else:
                scores.hold_drop(cursor, drop_id := again, name, sha256)
            reach("score_claimed")
            run_id = partitions.take_run_id(tools.ledger, report.rows)
            own = report.rows >= partitions.OWN_ROWS
            table = partitions.make_own(cursor, run_id) if own else "scored_orders"
            batches = _batches(con, query, scorer, run_id, started_at, tally, name)
            written = scores.write_orders(cursor, _schema(contract), batches, table=table)
            if written != report.accepted or tally.rows != report.accepted:
                raise TransientError(
                    f"{name}: {report.accepted} rows accepted but {tally.rows} scored and {written} written"
                )
            if own:
                partitions.index_own(cursor, contract, run_id)
            if contract.target not in report.filled:
                scores.write_outcomes(cursor, run_id, _observed(con, contract, report.query))
            if report.quarantined:
                scores.write_quarantined(cursor, sha256, name, pq.read_table(quarantined))
            reach("score_written")
            finished = time.monotonic()
            run = _run_row(scorer, report, tally, run_id, drop_id, started_at)
            if alert := alert_unknown_values(scorer, con, cursor, tally.profile.features, report.query, name):
                run["input_alert"] = alert
            run |= {
                "ms_total": (finished - started) * 1e3,
                "ms_check": (checked - started) * 1e3,
                "ms_features": tally.features_seconds * 1e3,
                "ms_predict": tally.predict_seconds * 1e3,
                "ms_write": (finished - checked - tally.features_seconds - tally.predict_seconds) * 1e3,
                "finished_at": datetime.now(UTC),
            }
            scores.write_run(cursor, run, _classes(contract, tally), scorer.batch, scorer.context.settings.origin)
            if _became(path, drop) != "same":
                raise _ChangedError(
                    f"{name}: the file changed or went away while it was being scored; nothing was written"
                )
            if own:
                partitions.attach_own(cursor, run_id)
        shown = ("run_id", "rows_in", "rows_scored", "rows_quarantined", "confidence_mean", "ms_total")
        told = {"reasons": report.reasons, "warnings": report.warnings}
        return {key: run[key] for key in shown} | told | ({"alert": alert} if alert else {})
    finally:
        accepted.unlink(missing_ok=True)
        quarantined.unlink(missing_ok=True)


def _refuse(report: FileReport, contract: Contract) -> None:
    limit = contract.quarantine.limit.score
    if report.rows and report.quarantined > limit * report.rows:
        most = sorted(report.reasons.items(), key=lambda i: -i[1])[:3]
        top = "; ".join(f"{counted(n, 'row')}: {report.with_examples(reason)}" for reason, n in most)
        raise DataError(
            f"{report.quarantined} of {report.rows} rows break the contract, more than the limit of {limit:.0%}: {top}"
        )


def features_query(con: duckdb.DuckDBPyConnection, scorer: Scorer, accepted: str, name: str) -> str:
    """SQL of the drop's rows, given as SQL, with what the champion's features need.

    That is the state of each one's history, from the snapshot, or as of an earlier date.
    """
    contract, features = scorer.context.contract, scorer.features
    entity, when = quoted(contract.entity), quoted(contract.timestamp)
    attributes = [n for n in contract.named("attribute") if not features or n in features]
    names = [ROW_NR, *contract.named("entity", "timestamp"), *attributes]
    query = f"SELECT {', '.join(map(quoted, names))} FROM ({accepted})"
    if not (needed := state_needed(contract, features)):
        return query
    late, snapshot = literal(scorer.as_of), f"read_parquet({literal(str(scorer.snapshot))})"
    states = ", ".join(f"s.{quoted(n)}" for n in needed)
    with engine.errors_name(name), statistics_are_not_trusted(con):
        con.execute(f"CREATE OR REPLACE TEMP TABLE early AS SELECT * FROM ({query}) WHERE {when} < {late}")
        (early,) = engine.one_row(con, "SELECT count(*) FROM early")
        asked = f"({query})" if not early else f"(SELECT * FROM ({query}) WHERE {when} >= {late})"
        query = f"SELECT a.*, {states} FROM {asked} AS a LEFT JOIN {snapshot} AS s ON s.{entity} = a.{entity}"
        if early:
            if not engine.has(con, "orders"):
                load_orders(con, contract, scorer.accepted)
            state = with_state_sql(contract, "early", state_sql(contract, "early", "orders"))
            query = f"{query} UNION ALL SELECT {', '.join(map(quoted, [*names, *needed]))} FROM ({state})"
    return query


def _schema(contract: Contract) -> pa.Schema:
    fields = [pa.field("run_id", pa.int64()), pa.field(ROW_NR, pa.int64())]
    fields += [pa.field(n, contract.columns[n].arrow_type) for n in contract.named("entity", "timestamp")]
    fields.append(pa.field("predicted", pa.string()))
    fields += [pa.field(probability_column(level), pa.float32()) for level in contract.classes]
    fields += [pa.field("confidence", pa.float32()), pa.field("model_version", pa.int32())]
    return pa.schema([*fields, pa.field("scored_at", pa.timestamp("us", "UTC"))])


def _batches(
    con: duckdb.DuckDBPyConnection,
    query: str,
    scorer: Scorer,
    run_id: int,
    scored_at: datetime,
    tally: _Tally,
    name: str,
) -> Iterator[pa.RecordBatch]:
    """Stream the drop through features and model, one record batch at a time."""
    contract = scorer.context.contract
    schema = _schema(contract)
    classes = pa.array(contract.classes)
    with engine.errors_name(name), statistics_are_not_trusted(con):
        reader = con.sql(query).to_arrow_reader(BATCH_ROWS)
        while True:
            begun = time.monotonic()
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                tally.features_seconds += time.monotonic() - begun
                return
            table = pa.Table.from_batches([batch])
            features = finish(contract, table, scorer.features)
            featured = time.monotonic()
            tally.features_seconds += featured - begun
            made = scorer.model.predict(features)
            days = pc.sum(table.column(contract.timestamp).cast(pa.int32())).as_py() or 0
            tally.add(time.monotonic() - featured, features, days, made)
            p, n = made.probabilities, table.num_rows
            columns = [pa.array(np.full(n, run_id)), table.column(ROW_NR).cast(pa.int64()).combine_chunks()]
            columns += [table.column(c).combine_chunks() for c in contract.named("entity", "timestamp")]
            columns += [
                classes.take(pa.array(made.named)),
                *(pa.array(np.ascontiguousarray(p[:, k])) for k in range(p.shape[1])),
            ]
            columns += [pa.array(made.confidence), pa.array(np.full(n, scorer.version.version, np.int32))]
            columns.append(pa.array([scored_at], pa.timestamp("us", "UTC")).take(pa.array(np.zeros(n, np.int8))))
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _observed(con: duckdb.DuckDBPyConnection, contract: Contract, accepted: str) -> pa.Table:
    target = quoted(contract.target)
    levels = ", ".join(map(literal, contract.classes))
    query = f"SELECT {ROW_NR}, {target} AS observed FROM ({accepted}) WHERE {target} IN ({levels})"
    with statistics_are_not_trusted(con):
        return con.sql(query).to_arrow_table()


def _run_row(
    scorer: Scorer, report: FileReport, tally: _Tally, run_id: int, drop_id: int, started_at: datetime
) -> dict[str, Any]:
    row_us = np.array([us for us, _ in tally.row_us])
    weights = np.array([n for _, n in tally.row_us], dtype=float)
    known, mean, median = tally.confidence()
    quantiles = np.quantile(row_us, [0.5, 0.95, 0.99]) if known else [float("nan")] * 3
    return {
        "run_id": run_id,
        "drop_id": drop_id,
        "step_run": scorer.context.run,
        "model_name": scorer.version.name,
        "model_version": scorer.version.version,
        "mlflow_run_id": scorer.version.run_id,
        "feature_snapshot": scorer.snapshot_sha256,
        "snapshot_as_of": scorer.as_of.isoformat(),
        "rows_in": report.rows,
        "rows_scored": tally.rows,
        "rows_quarantined": report.quarantined,
        "success_rate": tally.rows / report.rows if report.rows else 1.0,
        "row_us_mean": float(np.average(row_us, weights=weights)) if known else float("nan"),
        "row_us_p50": float(quantiles[0]),
        "row_us_p95": float(quantiles[1]),
        "row_us_p99": float(quantiles[2]),
        "confidence_mean": mean,
        "confidence_median": median,
        "profile": json_text(tally.profile.counts() | {"lag_days": _lag_days(scorer, tally)}),
        "started_at": started_at,
    }


def _lag_days(scorer: Scorer, tally: _Tally) -> float | None:
    """Days from the snapshot to the orders, on average."""
    if not tally.rows:
        return None
    return round(tally.days / tally.rows - (scorer.as_of - date(1970, 1, 1)).days, 3)


def _classes(contract: Contract, tally: _Tally) -> dict[str, scores.ClassFigures]:
    return {level: scores.ClassFigures(*tally.confidence(index)) for index, level in enumerate(contract.classes)}
