"""A table whose rows have a time of day, in a time zone: `apex init --yes`, a night, drops, requests and outcomes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.cli.main import main
from apex_ml.contract.names import ROW_NR, WINDOW_DAYS, snapshot_by
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.core.estimator import Encoder, Model
from apex_ml.core.features import feature_columns, finish, state_needed
from apex_ml.core.row_time import times_of
from apex_ml.services.drop_features import features_query
from apex_ml.services.results import EltResult
from apex_ml.services.run_folder import latest_manifest
from apex_ml.services.run_layout import EXAMPLES, SNAPSHOT
from apex_ml.services.scorer import Scorer, load_scorer
from apex_ml.serving.champion_watcher import warm_up
from apex_ml.serving.history import History
from apex_ml.serving.loadtest_rows import rows_of
from apex_ml.serving.predictor import Predictor
from apex_ml.simulate.drop import make_drop
from apex_ml.steps.elt import elt
from apex_ml.steps.outcomes import outcomes
from apex_ml.steps.promote import promote
from apex_ml.steps.score import score
from apex_ml.steps.split import split
from apex_ml.steps.validate import validate
from tests.support.apex_home import Apex, single_pipeline_home
from tests.support.model_infos import INFO
from tests.support.reference_features import as_table, with_features

ZONE = ZoneInfo("America/New_York")
FIRST = datetime(2024, 2, 1, tzinfo=ZONE)
DAYS, ROWS, VISITORS, LATER = 60, 4_000, 120, 5
MICROSECOND, HOUR, DAY = timedelta(microseconds=1), timedelta(hours=1), timedelta(days=1)
LAG = 6 * HOUR


def visits() -> pa.Table:
    """Visits over days among which the clock skips an hour; whether they buy depends on visitor and hour."""
    random = np.random.default_rng(3)
    start = int(FIRST.timestamp() * 1e6)
    # whole minutes, so that a few rows share an instant; the newest row is in the evening of the last day
    minutes = np.sort(random.integers(0, DAYS * 24 * 60 - 20, ROWS))
    visitor, taste = np.arange(ROWS) * 7 % VISITORS, random.normal(size=VISITORS)
    at = pa.array(start + minutes * 60_000_000).cast(pa.timestamp("us", str(ZONE)))
    hour = np.array([moment.hour for moment in at.to_pylist()])
    logit = 2.5 * taste[visitor] + np.where((hour >= 8) & (hour < 18), 1.5, -1.5)
    buys = random.random(ROWS) < 1 / (1 + np.exp(-logit))
    return pa.table(
        {
            "visitor": [f"v{number:03d}" for number in visitor],
            "at": at,
            "page": random.choice(["home", "cart", "item"], ROWS),
            "outcome": np.where(buys, "buy", "leave"),
        }
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all rows but the last few, which are of the last day too."""
    folder = tmp_path_factory.mktemp("visits") / "raw"
    folder.mkdir()
    pq.write_table(visits().slice(0, ROWS - LATER), folder / "visits.parquet")
    return folder


def shorten_lag(file: Path, proposed: str) -> None:
    """Write a lag of six hours, and a history by page, whose windows begin and end within a day."""
    text, line = file.read_text(encoding="utf-8"), "  history:\n"
    assert text.count(f"  {proposed}\n") == text.count(line) == 1
    by_page = "    - {recipe: target_share, smoothing: 3, by: page, window: 1d}\n    - {recipe: count, by: page}\n"
    text = text.replace(proposed, f"history_lag_hours: {LAG // HOUR}").replace(line, line + by_page)
    file.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def night(raw: Path, mlflow_server: str, lasting_databases: Any) -> Apex:
    """The first night of these rows."""
    folder = raw.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APEX_HOME", str(folder / "home"))
        patch.setenv("APEX_PIPELINES", str(folder / "pipelines"))
        given = ["--target", "outcome", "--entity", "visitor", "--timestamp", "at"]
        with pytest.raises(SystemExit) as left:
            main(["init", "visits", "--from", str(raw), *given, "--yes"])
        assert left.value.code == 0
    shorten_lag(folder / "pipelines" / "visits" / "pipeline.yaml", "history_lag_hours: 24")
    apex = single_pipeline_home(folder, "visits", mlflow_server, lasting_databases.migrated())
    context = apex.context("first")
    checked = validate(context, raw=None, as_of=None, force=False)
    assert (checked.accepted, checked.quarantined) == (ROWS - LATER, 0)
    elt(context)
    split(context, strategy=context.pipeline.options.model.split)
    trained = apex.call("train", "--run", "first")
    assert trained.code == 0, trained.err
    promoted = promote(context, who="test").to_json()
    assert promoted["promoted"], promoted["reasons"]
    return apex


def test_init_proposes_times_of_day(night: Apex) -> None:
    contract = night.context("any").contract
    column = contract.columns["at"]
    assert (column.type, column.timezone, contract.has_instants) == ("timestamp", "America/New_York", True)
    assert "hour" in contract.features.calendar


def history_of(known: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """Features of the history, from the definitions, in plain Python. Instants are compared, not clocks."""
    at = row["at"].astimezone(UTC)
    before = [other for other in known if other["at"].astimezone(UTC) < at - LAG]
    own, page = ([r for r in before if r[key] == row[key]] for key in ("visitor", "page"))
    recent = [other for other in page if other["at"].astimezone(UTC) >= at - LAG - DAY]
    bought = sum(other["outcome"] == "buy" for other in recent)
    last = max((other["at"].astimezone(UTC) for other in own), default=None)
    return {
        "history_rows": len(own),
        "history_days_since_last": None if last is None else (at - last) / DAY,
        "page_count": len(page),
        "page_share_buy_1d": (bought + 1.5) / (len(recent) + 3),
    }


def test_features_of_training_drops_and_requests_are_those_of_the_lag(night: Apex) -> None:
    table, predictor = visits(), with_every_feature(scorer_and_predictor(night))
    known, later = table.slice(0, ROWS - LATER).to_pylist(), table.slice(ROWS - LATER).to_pylist()
    # some hours and days after the newest known row too, where fewer of the rows are within the lag or the window
    later += [{**row, "at": row["at"] + n * 5 * HOUR} for row in later for n in range(1, 8)]
    early, names = known[:: ROWS // 150], list(history_of([], known[0]))

    examples = pq.read_table(night.context("first").output("elt") / EXAMPLES).to_pylist()
    trained = {(r["visitor"], r["at"], r["page"]): [r[name] for name in names] for r in examples}
    rows = [*early, *later]
    expected = [list(history_of(known, row).values()) for row in rows]
    for row, values in zip(early, expected, strict=False):
        assert trained[row["visitor"], row["at"], row["page"]] == pytest.approx(values)
    in_drop = [[r[name] for name in names] for r in features_in_drop(predictor.scorer, rows)]
    for values, of_row in zip(in_drop, expected, strict=True):
        assert values == pytest.approx(of_row)
    in_request = [[r[name] for name in names] for r in features_in_request(predictor, later)]
    assert in_request == in_drop[len(early) :]
    # of the rows after the newest known one some lack a part of what counts for others
    assert len({values[2] for values in expected[len(early) :]}) > 5
    assert len({values[3] for values in expected}) > 50
    assert predictor.contract.history_lag == LAG // MICROSECOND


def test_the_windows_of_a_snapshot_grow_with_its_rows(night: Apex) -> None:
    """And not with the rows of a window times those within the lag: a state that another one follows holds briefly."""
    snapshot = pq.read_table(snapshot_by(night.context("first").output("elt") / SNAPSHOT, ("page",)))
    lists: dict[str, list[int]] = {}
    for page, times in zip(snapshot["page"].to_pylist(), snapshot[WINDOW_DAYS].to_pylist(), strict=True):
        lists.setdefault(page, []).append(len(times))
    assert len(lists) == 3
    for lengths in lists.values():
        assert len(lengths) > 3 and lengths[-1] > 10  # the newest state has every time of the window
        assert sum(lengths[:-1]) <= 4 * len(lengths)


def with_every_feature(predictor: Predictor) -> Predictor:
    """Also with the features that the model does not use."""
    contract, scorer = predictor.contract, predictor.scorer
    scorer = replace(scorer, model=Model(Encoder(feature_columns(contract)), b"", contract.classes, INFO))
    needed = state_needed(contract, ())
    history = History(contract, scorer.snapshot, scorer.snapshot_sha256, scorer.as_of, scorer.since, needed)
    return Predictor(scorer, history)


def features_in_drop(scorer: Scorer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    contract = scorer.contract
    drop = as_table(contract, [{**row, "at": row["at"].astimezone(UTC)} for row in rows])
    with duckdb.connect() as con:
        con.register("rows_of_drop", drop.append_column(ROW_NR, pa.array(range(drop.num_rows))))
        states = con.sql(f"{features_query(con, scorer, 'SELECT * FROM rows_of_drop', 'drop')} ORDER BY {ROW_NR}")
        return finish(contract, states.to_arrow_table()).to_pylist()


def features_in_request(predictor: Predictor, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    contract, history = predictor.contract, predictor.history
    table = as_table(contract, [{**row, "at": row["at"].astimezone(UTC)} for row in rows])
    own = {name: table.column(name) for name in contract.named("entity", "attribute")}
    places = history.places(table.column("visitor").to_pylist())
    for name, values in history.states(places, times_of(contract, table), own).items():
        table = table.append_column(name, values)
    return finish(contract, table).to_pylist()


def test_the_day_of_a_run_is_that_on_the_clock_of_the_zone(night: Apex) -> None:
    newest = visits().column("at")[ROWS - LATER - 1].as_py()
    manifest = latest_manifest(night.context("any"), EltResult)
    assert manifest is not None and manifest.result.as_of == newest.date() + timedelta(days=1)
    assert newest.astimezone(UTC).date() > newest.date()  # in UTC it is a day later


def scorer_and_predictor(apex: Apex) -> Predictor:
    scorer = load_scorer(apex.context("online"))
    needed = state_needed(scorer.contract, scorer.features)
    history = History(scorer.contract, scorer.snapshot, scorer.snapshot_sha256, scorer.as_of, scorer.since, needed)
    return Predictor(scorer, history)


def test_a_row_is_scored_alike_in_a_drop_and_in_a_request(night: Apex) -> None:
    table, predictor = visits(), scorer_and_predictor(night)
    newest = table.column("at")[ROWS - LATER - 1].as_py()
    assert predictor.history.since == newest + MICROSECOND
    later = table.slice(ROWS - LATER).drop_columns(["outcome"])  # of the same day as the newest known row
    drop = pa.concat_tables([table.slice(ROWS // 2, 50).drop_columns(["outcome"]), later])
    pq.write_table(drop, night.inbox / "later.parquet")
    result = score(night.context("scoring"), ["later.parquet"]).to_json()
    assert result["rows_scored"] == len(drop), result
    p = night.sql("SELECT p_buy FROM visits.scored_current WHERE row_nr >= 50 ORDER BY row_nr")
    reader = RequestReader(predictor.contract)
    rows = [{**row, "at": row["at"].isoformat()} for row in later.to_pylist()]
    predicted = predictor.predict(reader.read(json.dumps({"rows": rows}).encode(), predictor.history.since))
    assert predicted.prediction.probabilities[:, 0].astype(np.float32).tolist() == [np.float32(v) for (v,) in p]
    # the stored times are the same instants, and the day of a row that on the clock
    stored = night.sql("SELECT at FROM visits.scored_current ORDER BY row_nr")
    assert [moment for (moment,) in stored] == drop.column("at").to_pylist()
    days = night.sql("SELECT DISTINCT day FROM visits.class_mix_daily ORDER BY day")
    assert {day for (day,) in days} == {moment.date() for moment in drop.column("at").to_pylist()}


def test_a_request_before_the_snapshot_is_refused_with_its_time(night: Apex) -> None:
    predictor = scorer_and_predictor(night)
    early = (predictor.history.since - MICROSECOND).isoformat()
    body = json.dumps({"rows": [{"visitor": "v001", "at": early, "page": "home"}]}).encode()
    with pytest.raises(RefusedError, match="the time of the history snapshot") as refused:
        RequestReader(predictor.contract).read(body, predictor.history.since)
    assert refused.value.faults[0].path == "rows[0].at"


def test_outcomes_are_matched_by_entity_and_instant(night: Apex, raw: Path) -> None:
    table = visits().slice(ROWS - LATER)
    pq.write_table(table.drop_columns(["outcome"]), night.inbox / "open.parquet")
    score(night.context("open"), ["open.parquet"])
    pq.write_table(visits(), raw / "visits.parquet")
    validate(night.context("second"), raw=None, as_of=None, force=False)
    result = outcomes(night.context("second"))
    assert result.matched + result.ambiguous >= LATER
    known = night.sql(
        "SELECT s.at, o.observed FROM visits.scored_current s JOIN visits.outcomes o USING (run_id, row_nr)"
    )
    truth = {row["at"]: row["outcome"] for row in visits().to_pylist()}
    assert known and all(truth[at] == observed for at, observed in known)


@pytest.mark.parametrize(("clock", "accepted"), [("23:59:59.999999", True), ("00:00:00", False)])
def test_the_run_looks_from_midnight_on_the_clock_of_the_zone(
    night: Apex, tmp_path: Path, clock: str, accepted: bool
) -> None:
    day = date(2024, 3, 20 if accepted else 21)
    moment = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=ZONE)
    table = visits()
    early = table.filter(pa.array([at < moment for at in table.column("at").to_pylist()]))
    row = {**early.to_pylist()[-1], "at": moment}
    pq.write_table(pa.concat_tables([early, pa.Table.from_pylist([row], early.schema)]), tmp_path / "rows.parquet")
    result = validate(night.context(f"as-of-{accepted}"), raw=str(tmp_path), as_of=date(2024, 3, 21), force=True)
    assert result.quarantined == (0 if accepted else 1)
    assert result.expectations is not None and result.expectations.failed == 0


def test_drawn_rows_have_times_of_the_day(night: Apex, raw: Path, tmp_path: Path) -> None:
    contract = night.context("any").contract
    as_of = date(2024, 4, 2)
    make_drop(str(raw), as_of, 200, 1, tmp_path / "drawn.parquet", contract)
    table = pq.read_table(tmp_path / "drawn.parquet")
    times = table.column("at").to_pylist()
    # a load test sends the same instants
    sent = [datetime.fromisoformat(row["at"]) for row in rows_of(contract, table, "drawn").rows]
    assert sent == times and sent[0].tzinfo is not None
    assert {moment.date() for moment in times} == {as_of}
    assert len({moment.hour for moment in times}) > 12


def test_rows_of_no_entity_are_scored_from_the_newest_row_on(
    raw: Path, tmp_path: Path, mlflow_server: str, databases: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APEX_HOME", str(tmp_path / "home"))
        patch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
        given = ["--target", "outcome", "--entity", "-", "--timestamp", "at"]
        with pytest.raises(SystemExit):
            main(["init", "pages", "--from", str(raw), *given, "--yes"])
    apex = single_pipeline_home(tmp_path, "pages", mlflow_server, databases.migrated())
    context = apex.context("first")
    validate(context, raw=None, as_of=None, force=False)
    result = elt(context)
    split(context, strategy=context.pipeline.options.model.split)
    assert apex.call("train", "--run", "first").code == 0
    assert promote(context, who="test").to_json()["promoted"]
    predictor = scorer_and_predictor(apex)
    assert result.since == predictor.history.since == max(pq.read_table(raw)["at"].to_pylist()) + MICROSECOND
    warm_up(predictor)  # as the service does with a champion


@pytest.mark.parametrize(("hours", "warned"), [(DAYS * 24, True), (24, False)])
def test_a_lag_longer_than_the_rows_span_is_a_warning(
    night: Apex, caplog: pytest.LogCaptureFixture, hours: int, warned: bool
) -> None:
    context = night.context(f"lag-{hours}")
    contract = with_features(context.contract, history_lag_hours=hours)
    context = replace(context, pipeline=replace(context.pipeline, contract=contract))
    validate(context, raw=None, as_of=None, force=False)
    elt(context)
    assert (f"no row has a history: features.history_lag_hours: {hours} is longer" in caplog.text) == warned
