"""An edited contract with a champion of before: what scores, what waits, and what the gate compares."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from apex_airflow.pages.overview import Health, Row, rows_of
from apex_ml.adapters.postgres.migrations import migrate
from apex_ml.core.estimator import Model
from apex_ml.platform.reports import status
from apex_ml.services.champion_holdout import TEST, holdout_of_model
from tests.support.apex_home import Apex
from tests.support.home_with_champion import RUN, Chain, copy_champion_record
from tests.support.ledger import ROWS
from tests.support.pipeline_files import ORDERS

TEXT = ORDERS.read_text(encoding="utf-8")
CLASSES = "[DIGITAL, TELEFONO, VENDEDOR]"
TIMESTAMP = TEXT[TEXT.index("  fecha_pedido_dt:") : TEXT.index("  canal_pedido_cd:")]
UP_TO_LAG = TEXT[TEXT.index("  cliente_id:") : TEXT.index("  attributes:\n")]
Edit = tuple[str, str]

ADDITIVE: dict[str, Edit] = {
    "a new class": (CLASSES, "[DIGITAL, TELEFONO, VENDEDOR, WEB]"),
    "a new class before the others": (CLASSES, "[APP, DIGITAL, TELEFONO, VENDEDOR]"),
    "another order of the classes": (CLASSES, "[VENDEDOR, TELEFONO, DIGITAL]"),
    "other recipes": ("smoothing: 3", "smoothing: 300"),
    "a lag": ("history_lag_days: 0", "history_lag_days: 30"),
    "another grain": ("grain: last_row_per_entity", "grain: every_row"),
    "no history at all": (
        TEXT[TEXT.index("  history:\n    - {recipe: count}") : TEXT.index("  # a feature that alone removes")],
        "",
    ),
    "no attributes": (TEXT[TEXT.index("  attributes:\n") : TEXT.index("  calendar: [")], ""),
    "the timestamp before the entity, and a lag": (
        UP_TO_LAG,
        TIMESTAMP + UP_TO_LAG.replace(TIMESTAMP, "").replace("history_lag_days: 0", "history_lag_days: 30"),
    ),
    "a new level": ("[BAJA, MEDIA, ALTA]", "[BAJA, MEDIA, ALTA, TOTAL]"),
    "a level gone": ("levels: [MAYORISTA, MINIMARKET, TIENDA]", "levels: [MAYORISTA, TIENDA]"),
    "a new column": (
        "  fecha_pedido_dt:\n",
        "  zona:\n    description: Zone.\n    type: string\n    role: attribute\n    required: false\n"
        "    nullable: true\n  fecha_pedido_dt:\n",
    ),
}


def edited(apex: Apex, folder: Path, *edits: Edit) -> Apex:
    """The home with an edited contract."""
    text = TEXT
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    path = folder / "edited" / "pipeline.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return apex.but(contract=path)


def scores(apex: Apex) -> list[tuple[Any, ...]]:
    return apex.sql(
        "SELECT row_nr, predicted, p_digital, p_telefono, p_vendedor, confidence FROM orders.scored"
        " JOIN orders.scoring_runs USING (run_id) JOIN orders.drops USING (drop_id) WHERE name = %s ORDER BY 1",
        ("a.parquet",),
    )


@pytest.fixture
def expected(scoring: Apex, put_drop: Callable[..., Path]) -> list[tuple[Any, ...]]:
    """The scores of a drop by the champion's own contract; afterwards the ledger has no drop."""
    put_drop()
    assert scoring.call("score").code == 0
    rows = scores(scoring)
    assert len(rows) == ROWS
    assert scoring.call("remove-drop", "a.parquet", "--apply").code == 0
    put_drop()
    return rows


@pytest.mark.parametrize(
    ("name", "migrated"),
    [*((name, False) for name in ADDITIVE), ("a new class", True), ("a new class before the others", True)],
)
def test_a_champion_of_before_scores_as_ever(
    scoring: Apex, expected: list[tuple[Any, ...]], tmp_path: Path, name: str, migrated: bool
) -> None:
    """Its features are those of its training: other classes, recipes and levels change none of its probabilities."""
    other = edited(scoring, tmp_path, ADDITIVE[name])
    if migrated:
        migrate(other.settings, other.pipeline)
    done = other.call("score")
    assert done.code == 0, done.err
    assert scores(scoring) == expected
    assert scoring.sql("SELECT contract_identity FROM orders.drop_summary") == [
        (other.pipeline.contract.identity().digest(),)
    ]
    if migrated and name == "a new class":
        assert scoring.sql("SELECT DISTINCT p_web FROM orders.scored") == [(None,)]
        assert scoring.sql("SELECT count(*) FROM orders.scored_current WHERE p_web IS NULL") == [(ROWS,)]


def test_the_same_content_under_another_contract_is_scored_again_only_on_request(
    scoring: Apex, put_drop: Callable[..., Path], tmp_path: Path
) -> None:
    put_drop()
    assert scoring.call("score").code == 0
    other = edited(scoring, tmp_path, ADDITIVE["other recipes"])
    put_drop("again.parquet")
    done = other.call("score")
    assert done.code == 0 and done.result is not None, done.err
    (drop,) = done.result["drops"]
    assert drop["state"] == "already" and drop["scored_as"] == "a.parquet"
    assert drop["reason"].startswith("the content was scored by another contract (")
    assert "apex -p orders score --rescore a.parquet" in drop["reason"] and drop["reason"] in done.err
    assert scoring.sql("SELECT count(*) FROM orders.scored") == [(ROWS,)]
    assert other.call("score", "--rescore", "a.parquet").code == 0
    identities = [one.pipeline.contract.identity().digest() for one in (scoring, other)]
    runs = scoring.sql("SELECT contract_identity FROM orders.scoring_runs ORDER BY run_id")
    assert [identity for (identity,) in runs] == identities
    assert scoring.sql("SELECT contract_identity FROM orders.drop_summary") == [(identities[1],)]
    put_drop("third.parquet")
    again = other.call("score")
    assert again.result is not None and "reason" not in again.result["drops"][0]


MEASURE = "Digital maturity of the client.\n    type: string\n    role: measure"
UNUSABLE: dict[str, tuple[tuple[Edit, ...], str]] = {
    "another target": ((("canal_pedido_cd", "canal"),), "the target is canal and was canal_pedido_cd"),
    "another entity": ((("cliente_id", "kunde_id"),), "the entity is kunde_id and was cliente_id"),
    "a class gone": (((CLASSES, "[DIGITAL, VENDEDOR]"),), "it predicts TELEFONO, and the contract has no such class"),
    "a class renamed": (((CLASSES, "[DIGITAL, PHONE, VENDEDOR]"),), "it predicts TELEFONO, and the contract has no"),
    "a column of a feature is no attribute any more": (
        (
            ("Digital maturity of the client.\n    type: string\n    role: attribute", MEASURE),
            ("    - madurez_digital_cd\n", ""),
        ),
        "it needs the feature madurez_digital_cd (the column madurez_digital_cd is measure and was attribute)",
    ),
}


def overview_row(apex: Apex) -> Row:
    """The row of the pipeline on the Apex page."""
    (row,) = rows_of(apex.settings, ["orders"])[0]
    return row


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_drop_waits_when_the_champion_cannot_score_it(
    scoring: Apex, chain: Chain, put_drop: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    edits, reason = UNUSABLE[name]
    put_drop()
    other = edited(scoring, tmp_path, *edits)
    done = other.call("score")
    assert done.code == 30 and "Traceback" not in done.err
    assert reason in done.err and "The drops wait in the inbox" in done.err
    assert "apex -p orders retrain; apex plan orders" in done.err
    assert [path.name for path in scoring.inbox.iterdir()] == ["a.parquet"]
    assert scoring.sql("SELECT count(*) FROM orders.drops") == [(0,)]
    assert other.call("score").code == 30
    ((kind, subject, message),) = scoring.sql("SELECT kind, subject, message FROM orders.open_alerts")
    assert (kind, subject) == ("cannot_score", "champion") and reason in message
    assert overview_row(scoring).health == Health("attention", ("1 open alert: cannot_score",))
    assert scoring.call("score").code == 0  # the file of before scores it
    assert scoring.sql("SELECT kind FROM orders.open_alerts") == []
    assert overview_row(scoring).health.level == "ok"


def shown_champion(apex: Apex) -> tuple[bool, str]:
    """Whether the part of `apex status` about the champion is well, and its text."""
    console = Console(file=io.StringIO(), width=1_000, record=True)
    well = status._show_part("champion", lambda: status._champion(apex.settings, apex.pipeline, console), console)
    return well, console.export_text()


def test_status_says_that_the_champion_cannot_score(
    scoring: Apex, chain: Chain, put_drop: Callable[..., Path], tmp_path: Path
) -> None:
    put_drop()
    assert scoring.call("score").code == 0
    copy_champion_record(scoring, chain)
    assert scoring.sql("SELECT DISTINCT contract_identity FROM orders.model_versions") == [
        (scoring.pipeline.contract.identity().digest(),)
    ]
    down = scoring.but(mlflow_tracking_uri="http://127.0.0.1:1")
    well, plain = shown_champion(down)  # a champion of this very contract is not loaded
    assert well and "cannot score" not in plain and "unknown" not in plain
    additive = edited(scoring, tmp_path, ADDITIVE["a new class"])
    assert shown_champion(additive) == (True, plain)
    for edits, reason in UNUSABLE.values():
        well, text = shown_champion(edited(scoring, tmp_path, *edits))
        assert not well and text.startswith(plain)
        assert f"cannot score by this contract: {reason}" in text, text
        assert text.endswith("; drops wait: `apex -p orders retrain`\n")
    well, text = shown_champion(edited(down, tmp_path, *edits))
    assert not well and text.startswith(plain) and "whether version" in text and "is unknown: MLflow" in text


COMPARED: dict[str, tuple[Edit, ...]] = {
    "other classes and recipes": (ADDITIVE["a new class before the others"], ADDITIVE["other recipes"]),
    "no history": (ADDITIVE["no history at all"],),
    "no attributes": (ADDITIVE["no attributes"],),
    "every order": (ADDITIVE["another grain"], ADDITIVE["no attributes"]),
}


@pytest.mark.parametrize("name", COMPARED)
def test_the_gate_gives_the_champion_its_own_features(chain: Chain, tmp_path: Path, name: str) -> None:
    """Computed again for the rows of a holdout of the edited contract, they are those of its training, bit for bit."""
    apex = edited(chain.apex, tmp_path, *COMPARED[name]).but(processed_url=str(tmp_path / "processed"))
    context = apex.context(RUN)
    trained = pq.read_table(chain.apex.processed / RUN / "split" / TEST)
    model = Model.from_files(
        {path.name: path.read_bytes() for path in (chain.apex.processed / RUN / "train" / "bundle").iterdir()}
    )
    keys = [*context.contract.named("entity", "timestamp", "target")]
    context.output("split").mkdir(parents=True)
    pq.write_table(trained.select(keys), context.output("split") / TEST)
    context.output("validate").symlink_to(chain.apex.processed / RUN / "validate")
    table, rows = holdout_of_model(context, model, trained.select(keys))
    assert len(rows) > 0.9 * trained.num_rows and (name == "every order" or len(rows) == trained.num_rows)
    expected = trained.select(model.encoder.names).take(pa.array(rows))
    assert (model.encoder.encode(table) == model.encoder.encode(expected)).all()
    assert (model.probabilities(table) == model.probabilities(expected)).all()


def test_a_champion_of_the_new_contract_waits_for_the_tables(
    scoring: Apex, put_drop: Callable[..., Path], tmp_path: Path
) -> None:
    """A retraining before `apex up`: the scores have no column yet."""
    put_drop()
    scoring.sql("ALTER TABLE orders.scored DROP COLUMN p_digital CASCADE")
    done = scoring.call("score")
    assert done.code == 30, done.err
    assert "the table scored has no column p_digital" in done.err and "`apex up` adds what is missing" in done.err
    assert [path.name for path in scoring.inbox.iterdir()] == ["a.parquet"]
    assert scoring.sql("SELECT count(*) FROM orders.drops") == [(0,)]
