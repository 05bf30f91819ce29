"""A table whose rows have a time of day, in a time zone: `apex init --yes`, a night, drops, requests and outcomes."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apex_ml.cli.main import main
from apex_ml.contract.requests.faults import RefusedError
from apex_ml.contract.requests.reader import RequestReader
from apex_ml.core.features import state_needed
from apex_ml.services.results import EltResult
from apex_ml.services.run_folder import latest_manifest
from apex_ml.services.scorer import load_scorer
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

ZONE = ZoneInfo("America/New_York")
FIRST = datetime(2024, 2, 1, tzinfo=ZONE)
DAYS, ROWS, VISITORS, LATER = 60, 4_000, 120, 5
MICROSECOND = timedelta(microseconds=1)


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
