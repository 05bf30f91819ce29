"""`apex plan`: what an edited contract means, before anything is applied; the tables take no other contract."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.contracts import PostgresContracts
from apex_ml.cli.pipelines import plan
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded import start
from apex_ml.platform.embedded.home_record import record_home
from apex_ml.platform.pipeline_tables import migrate_pipelines
from apex_ml.platform.reports import status
from apex_ml.settings import Settings
from tests.support.apex_home import Apex
from tests.support.pipeline_files import MODEL, ORDERS, write_pipelines

CLASSES = "[DIGITAL, TELEFONO, VENDEDOR]"


@pytest.fixture
def one(databases: Any, home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A platform of one pipeline with its tables; commands find it, too."""
    write_pipelines(tmp_path / "pipelines", ["orders"])
    settings: Settings = home(**databases.empty(), pipelines=tmp_path / "pipelines")
    for name, value in Apex(settings).environment().items():
        if name.startswith("APEX_"):
            monkeypatch.setenv(name, value)
    return settings


def edit(settings: Settings, before: str, after: str) -> None:
    file = settings.pipelines / "orders" / "pipeline.yaml"
    text = ORDERS.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


def planned(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(plan, arguments)
    assert result.exit_code == code and (code or not result.exception), result
    return result.output


def contracts(settings: Settings) -> list[tuple[str]]:
    return Apex(settings).sql("SELECT identity FROM orders.contracts ORDER BY contract_id")


def test_a_plan_before_and_after_the_tables(one: Settings) -> None:
    assert planned() == (
        "orders: there is no contract of its tables yet\n  → `apex up` creates the tables of this contract.\n"
    )
    migrate_pipelines(one, print)
    assert planned("orders") == "orders: nothing to do: the tables have this contract\n"
    assert contracts(one) == [(load_pipeline(one).contract.identity().digest(),)]


def test_a_new_class_is_planned_and_applied(one: Settings) -> None:
    migrate_pipelines(one, print)
    edit(one, CLASSES, "[DIGITAL, TELEFONO, VENDEDOR, WEB]")
    assert planned() == (
        "orders: the contract has changed, and everything of before can be computed\n"
        "  the column canal_pedido_cd: new classes WEB\n"
        "  the feature history_share_WEB is new\n"
        "  new column scored.p_web\n"
        "  new column shadow_scores.p_web\n"
        "  new column online_rows.p_web\n"
        "  → `apex up` adds the columns scored.p_web, shadow_scores.p_web, online_rows.p_web, and restarts what runs"
        " with the former contract.\n"
    )
    migrate_pipelines(one, print)
    assert planned() == "orders: nothing to do: the tables have this contract\n"
    assert Apex(one).sql("SELECT p_web FROM orders.scored") == []
    assert len(contracts(one)) == 2
    migrate_pipelines(one, print)
    assert len(contracts(one)) == 2


def test_the_plan_as_json(one: Settings) -> None:
    migrate_pipelines(one, print)
    edit(one, "    - frecuencia_visitas_cd\n", "")
    (content,) = json.loads(planned("--format", "json"))["plans"]
    assert content["pipeline"] == "orders" and content["kind"] == "additive" and content["new_columns"] == []
    assert content["differences"] == ["the feature frecuencia_visitas_cd is gone"]
    assert content["identity"] != content["tables_identity"] == contracts(one)[0][0]


@pytest.mark.skipif(find_spec("lightgbm") is not None, reason="the extra lightgbm is installed")
def test_a_candidate_without_its_package_is_a_warning(one: Settings) -> None:
    migrate_pipelines(one, print)
    edit(one, "candidates: [xgboost]", "candidates: [xgboost, lightgbm]")
    assert planned() == (
        "orders: nothing to do: the tables have this contract\n"
        "  WARNING: model.candidates: a training fails here, as lightgbm needs lightgbm>=4.6: pip install"
        " 'lightgbm>=4.6', or leave it out\n"
    )


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (CLASSES, "[DIGITAL, VENDEDOR]", "classes that no longer exist: TELEFONO"),
        ("canal_pedido_cd", "canal", "the target is canal and was canal_pedido_cd"),
        ("cliente_id", "kunde_id", "the entity is kunde_id and was cliente_id"),
    ],
)
def test_another_contract_is_refused_before_anything_changes(
    one: Settings, monkeypatch: pytest.MonkeyPatch, before: str, after: str, reason: str
) -> None:
    migrate_pipelines(one, print)
    one.state.mkdir(parents=True, exist_ok=True)
    record_home(one)
    edit(one, before, after)
    text = planned(code=ConfigError.exit_code)
    assert json.loads(planned("--format", "json", code=ConfigError.exit_code))["plans"][0]["refused"] == [reason]
    assert text.startswith("orders: the contract has changed into that of another pipeline\n")
    assert f"  refused: {reason}\n" in text and "copy the file to pipelines/NAME/pipeline.yaml" in text
    with pytest.raises(ConfigError, match=f"pipeline orders: {reason}: .* Its tables are unchanged"):
        migrate_pipelines(one, print)
    monkeypatch.setattr(start, "stop_everything", lambda _: pytest.fail("the platform was stopped"))
    with pytest.raises(ConfigError, match=rf"pipeline\.yaml: {reason}: .* Nothing was stopped or changed"):
        start.up(one)
    assert len(contracts(one)) == 1


MODEL_LINE = f"name: {MODEL}\n"
OTHER_MODEL = "name: orders_of_today\n"


def test_another_registered_model_is_planned(one: Settings) -> None:
    migrate_pipelines(one, print)
    edit(one, MODEL_LINE, OTHER_MODEL)
    changed = f"  the registered model, model.name, is orders_of_today and was {MODEL}\n"
    up = "  → `apex up` adds no column, and restarts what runs with the former contract.\n"
    title = "orders: the tables have this contract, and the registered model is another one\n"
    assert planned() == title + changed + up  # before there is any champion
    Apex(one).sql(
        "INSERT INTO orders.promotions (model_name, action, state, to_version, who, step_run, reasons, evidence)"
        " VALUES (%s, 'promote', 'done', 3, 'test', '', '{}', '{}')",
        (MODEL,),
    )
    waits = (
        f"  → orders_of_today has no champion, and drops are not scored by version 3 of {MODEL}. They wait in the inbox"
        " until a version of orders_of_today is champion: `apex -p orders retrain`. Or restore model.name.\n"
    )
    assert planned("orders") == title + changed + up + waits
    migrate_pipelines(one, print)
    title = "orders: the tables have this contract, and the registered model has no champion\n"
    assert planned() == title + waits
    edit(one, MODEL_LINE, MODEL_LINE)
    text = planned()
    assert f"is {MODEL} and was orders_of_today\n" in text and "  champion: version 3" in text
    assert "no champion" not in text


def test_the_registered_model_of_another_pipeline_is_refused(one: Settings) -> None:
    write_pipelines(one.pipelines, ["visits"])
    migrate_pipelines(one, print)
    file = one.pipelines / "visits" / "pipeline.yaml"
    file.write_text(file.read_text().replace("name: visits_model\n", MODEL_LINE))
    for name, other in (("visits", "orders"), ("orders", "visits")):
        result = CliRunner().invoke(plan, [name])
        assert isinstance(result.exception, ConfigError) and not result.output
        assert f"model.name: {MODEL} is also that of {other}" in str(result.exception)
    (one.pipelines / "wrong").mkdir()
    (one.pipelines / "wrong" / "pipeline.yaml").write_text("name: wrong\n")
    file.write_text(file.read_text().replace(MODEL_LINE, "name: visits_model\n"))
    assert planned("orders") == "orders: nothing to do: the tables have this contract\n"  # a fault of another one


def test_a_renamed_pipeline_does_not_take_over_the_champion(one: Settings) -> None:
    """Its tables are new, and the former pipeline's are still there."""
    migrate_pipelines(one, print)
    Apex(one).sql(
        "INSERT INTO orders.promotions (model_name, action, state, to_version, who, step_run, reasons, evidence)"
        " VALUES (%s, 'promote', 'done', 3, 'test', '', '{}', '{}')",
        (MODEL,),
    )
    write_pipelines(one.pipelines, ["visits"])
    (one.pipelines / "orders").rename(one.pipelines / "sales")
    file = one.pipelines / "sales" / "pipeline.yaml"
    file.write_text(file.read_text().replace("name: orders\n", "name: sales\n", 1))
    reason = f"pipeline sales: model.name: {MODEL} is the registered model of the pipeline orders, whose champion is"
    text = planned("sales", code=ConfigError.exit_code)
    assert text.startswith("sales: the registered model is that of another pipeline\n") and f"refused: {reason}" in text
    assert text.endswith("  → `apex up` refuses this registered model, and leaves the tables as they are.\n")
    reports: list[str] = []
    for _ in range(2):  # again when the former pipeline is recorded as removed
        migrate_pipelines(one.model_copy(update={"pipeline": ""}), reports.append)
        assert reports.pop().startswith(f"pipeline sales: its tables stay as they are: {reason}") and not reports
        assert Apex(one).sql("SELECT FROM pg_namespace WHERE nspname = 'sales'") == []
    with pytest.raises(ConfigError, match=reason):
        migrate_pipelines(one.model_copy(update={"pipeline": "sales"}), print)
    console = Console(file=io.StringIO(), width=500, record=True)
    sales = one.model_copy(update={"pipeline": "sales"})
    assert status._show_pipelines(sales, console, "sales") is False
    assert console.export_text().startswith(f"pipeline sales: unknown, {reason}")
    file.write_text(file.read_text().replace(MODEL_LINE, OTHER_MODEL))
    migrate_pipelines(sales, print)
    assert planned("sales") == "sales: nothing to do: the tables have this contract\n"
    file.write_text(file.read_text().replace(OTHER_MODEL, MODEL_LINE))  # with tables of its own, too
    assert f"refused: {reason}" in planned("sales", code=ConfigError.exit_code)
    Apex(one).sql(
        "INSERT INTO sales.promotions (model_name, action, state, to_version, who, step_run, reasons, evidence)"
        " VALUES (%s, 'manual', 'done', 3, 'test', '', '{}', '{}')",
        (MODEL,),
    )
    migrate_pipelines(sales, print)  # what took it over before can go on


def test_tables_of_before_the_record_take_no_other_contract(one: Settings) -> None:
    migrate_pipelines(one, print)
    Apex(one).sql("TRUNCATE orders.contracts")
    edit(one, CLASSES, "[DIGITAL, VENDEDOR]")
    with pytest.raises(ConfigError, match="the table scored has the column p_telefono of a class that the contract"):
        migrate_pipelines(one, print)
    edit(one, "cliente_id", "kunde_id")
    with pytest.raises(ConfigError, match="the table scored needs the column cliente_id, and the contract has none"):
        migrate_pipelines(one, print)


def test_a_column_that_comes_back_with_another_type_is_refused(one: Settings) -> None:
    """online_rows keeps the columns of every contract."""
    column = (
        "  zona:\n    description: Zone.\n    type: {}\n    role: attribute\n    required: false\n    nullable: true\n"
    )
    edit(one, "  fecha_pedido_dt:\n", column.format("string") + "  fecha_pedido_dt:\n")
    migrate_pipelines(one, print)
    edit(one, "name: orders\n", "name: orders\n")
    migrate_pipelines(one, print)
    edit(one, "  fecha_pedido_dt:\n", column.format("int64") + "  fecha_pedido_dt:\n")
    with pytest.raises(ConfigError, match="online_rows has a column zona of type text, and the contract makes it"):
        migrate_pipelines(one, print)


def test_without_postgres_the_record_of_the_home_is_compared(one: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    one.state.mkdir(parents=True, exist_ok=True)
    record_home(one)
    edit(one, CLASSES, "[DIGITAL, TELEFONO, VENDEDOR, WEB]")
    monkeypatch.setenv("APEX_DATABASE_URL", "postgresql://apex_writer:x@127.0.0.1:1/apex")
    text = planned()
    assert "  new column scored.p_web\n" in text
    assert "  → The champion is unknown: Postgres at 127.0.0.1:1/apex" in text


def test_a_pipeline_that_cannot_be_read_is_an_error_after_the_others(one: Settings) -> None:
    migrate_pipelines(one, print)
    (one.pipelines / "wrong").mkdir()
    (one.pipelines / "wrong" / "pipeline.yaml").write_text("name: wrong\n")
    result = CliRunner().invoke(plan)
    assert result.output == "orders: nothing to do: the tables have this contract\n"
    assert isinstance(result.exception, ConfigError) and "wrong" in str(result.exception)


def test_the_record_is_read_back(one: Settings) -> None:
    migrate_pipelines(one, print)
    with transaction(one, "orders") as session:
        recorded = PostgresContracts(session).newest()
    assert recorded is not None and recorded.digest() == load_pipeline(one).contract.identity().digest()
