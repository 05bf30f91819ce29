"""A home remembers ports, contract and model; another contract is refused before anything is stopped."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import HOME_RECORD
from apex_ml.pipelines import load_all_pipelines, load_pipeline
from apex_ml.platform.embedded import start
from apex_ml.platform.embedded.env_file import file_values
from apex_ml.platform.embedded.home_record import (
    has_new_pipeline,
    record_home,
    refuse_contradiction,
    remember_given,
)
from apex_ml.platform.raw_data import sample_raw
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.pipeline_files import text_named, write_pipelines

ORDERS = (CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text()


def test_a_removed_and_a_restored_pipeline_are_changes(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines")
    write_pipelines(settings.pipelines, ["orders", "visits"])
    record_home(settings)
    assert not has_new_pipeline(settings)
    (settings.pipelines / "visits").rename(tmp_path / "visits")
    assert has_new_pipeline(settings)
    record_home(settings)
    assert not has_new_pipeline(settings)
    (tmp_path / "visits").rename(settings.pipelines / "visits")
    assert has_new_pipeline(settings)
    record_home(settings)
    assert not has_new_pipeline(settings)


def test_a_refused_contract_of_one_pipeline_is_reported(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines")
    write_pipelines(settings.pipelines, ["orders", "visits"])
    record_home(settings)
    assert refuse_contradiction(settings) == {}
    file = settings.pipelines / "visits" / "pipeline.yaml"
    file.write_text(file.read_text().replace("[DIGITAL, TELEFONO, VENDEDOR]", "[DIGITAL, VENDEDOR]"))
    faults = refuse_contradiction(settings)
    assert list(faults) == ["visits"] and "Nothing was stopped or changed" in str(faults["visits"])
    with pytest.raises(ConfigError, match="Nothing was stopped or changed"):
        refuse_contradiction(settings.model_copy(update={"pipeline": "visits"}))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "kunden.yaml"
    path.write_text(ORDERS.replace("cliente_id", "kunde_id").replace("name: orders\n", "name: kunden\n"))
    return path


def test_recorded_settings_apply_to_the_next_command(
    tmp_path: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as shell:
        for name, value in {
            "APEX_AIRFLOW_PORT": "18081", "APEX_PG_PORT": "15432", "APEX_CONTRACT": str(foreign),
            "APEX_MODEL_NAME": "kunden", "APEX_TRIALS": "3", "APEX_RAW_URL": str(tmp_path / "mine"),
        }.items():  # fmt: skip
            shell.setenv(name, value)
        remember_given(Settings.load(home=tmp_path))
    second = Settings.load(home=tmp_path)
    assert (
        second.airflow_port,
        load_pipeline(second).file,
        load_pipeline(second).model_name,
        load_pipeline(second).options.model.trials,
    ) == (18081, foreign, "kunden", 0)
    # what is the default is not written
    assert load_pipeline(second).locations.raw == str(tmp_path / "mine")
    assert set(file_values(second)) == {
        *("APEX_AIRFLOW_PORT", "APEX_CONTRACT", "APEX_KUNDEN__MODEL__NAME", "APEX_KUNDEN__LOCATIONS__RAW")
    }
    monkeypatch.setenv("APEX_AIRFLOW_PORT", "8080")
    remember_given(Settings.load(home=tmp_path))
    monkeypatch.delenv("APEX_AIRFLOW_PORT")
    assert Settings.load(home=tmp_path).airflow_port == 8080


@pytest.mark.parametrize("recorded", [True, False])
def test_another_contract_is_refused_before_any_change(
    tmp_path: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    settings = Settings.load(home=tmp_path / "home")
    (settings.state / "postgres").mkdir(parents=True)
    if recorded:
        record_home(settings)
    refuse_contradiction(settings)
    monkeypatch.setattr(start, "stop_everything", lambda _: pytest.fail("the platform was stopped"))
    other = Settings.load(home=tmp_path / "home", contract=foreign)
    with pytest.raises(
        ConfigError, match=r"kunden\.yaml: this home .* is made for .*orders/pipeline\.yaml; .* no cliente_id"
    ):
        start.up(other)
    assert not settings.env_file.exists()
    if recorded:
        with pytest.raises(
            ConfigError, match=f"other is named as the model: .* is {load_pipeline(settings).model_name}"
        ):
            start.up(Settings.load(home=tmp_path / "home", model_name="other"))


def test_a_contract_can_get_columns_and_another_path(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path / "home")
    settings.state.mkdir(parents=True)
    record_home(settings)
    grown = tmp_path / "grown.yaml"
    grown.write_text(ORDERS.replace("[DIGITAL, TELEFONO, VENDEDOR]", "[DIGITAL, TELEFONO, VENDEDOR, WEB]"))
    assert grown.read_text() != ORDERS
    other = Settings.load(home=tmp_path / "home", contract=grown)
    refuse_contradiction(other)
    # a running platform is restarted with it: tables and the online service know the new class only then
    assert has_new_pipeline(other) and not has_new_pipeline(settings)
    record_home(other)
    assert not has_new_pipeline(other)


def test_the_only_pipeline_of_a_home_stays_the_default_when_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout that was updated has the example beside the pipeline that this home had until now."""
    monkeypatch.delenv("APEX_PIPELINE")
    folder = tmp_path / "pipelines"
    for name in ("orders", "visits"):
        (folder / name).mkdir(parents=True)
        (folder / name / "pipeline.yaml").write_text(text_named(name))
    settings = Settings.load(home=tmp_path / "home", pipelines=folder)
    settings.state.mkdir(parents=True)
    former = {"contract": str(folder / "visits" / "pipeline.yaml"), "columns": {}}
    (settings.state / HOME_RECORD).write_text(json.dumps(former))
    with pytest.raises(ConfigError, match="there are several pipelines"):
        load_pipeline(settings)
    assert "APEX_PIPELINE" in remember_given(settings)[1]
    again = Settings.load(home=tmp_path / "home", pipelines=folder)
    assert load_pipeline(again).name == "visits"
    record_home(again)
    (settings.env_file).unlink()
    assert "APEX_PIPELINE" not in remember_given(settings)[1], "a home of several has no default"


def test_the_owner_of_the_first_editions_variables_stays_the_same_after_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that had another pipeline than orders, in a checkout that has both."""
    monkeypatch.delenv("APEX_PIPELINE")
    write_pipelines(tmp_path / "pipelines", ["orders", "visits"])
    home = tmp_path / "home"
    home.mkdir()
    (home / ".env").write_text("APEX_TRIALS=7\n")
    settings = Settings.load(home=home, pipelines=tmp_path / "pipelines")
    settings.state.mkdir(parents=True)
    former = {"contract": str(tmp_path / "pipelines" / "visits" / "pipeline.yaml"), "columns": {}}
    (settings.state / HOME_RECORD).write_text(json.dumps(former))
    for _ in range(3):  # of the first edition, upgraded, and started again
        trials = {p.name: p.options.model.trials for p in load_all_pipelines(settings)[0]}
        assert trials == {"orders": 0, "visits": 7}
        record_home(settings)


def test_the_contradiction_of_one_pipeline_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APEX_PIPELINE")
    write_pipelines(tmp_path / "pipelines", ["orders", "visits"])
    settings = Settings.load(home=tmp_path / "home", pipelines=tmp_path / "pipelines")
    settings.state.mkdir(parents=True)
    record_home(settings)
    before = (settings.state / HOME_RECORD).read_text()
    file = tmp_path / "pipelines" / "visits" / "pipeline.yaml"
    file.write_text(file.read_text().replace("cliente_id", "kunde_id"))
    refuse_contradiction(settings)
    refuse_contradiction(settings.model_copy(update={"pipeline": "orders"}))
    with pytest.raises(ConfigError, match="visits/pipeline.yaml: the entity is kunde_id and was cliente_id"):
        refuse_contradiction(settings.model_copy(update={"pipeline": "visits"}))
    assert not has_new_pipeline(settings)
    record_home(settings)
    assert (settings.state / HOME_RECORD).read_text() == before, "what the tables are made for stays recorded"


def test_a_damaged_record_and_a_missing_contract_are_reported(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    settings.state.mkdir(parents=True)
    (settings.state / HOME_RECORD).write_text("{")
    with pytest.raises(ConfigError, match=r"home\.json: damaged; remove it"):
        refuse_contradiction(settings)
    with pytest.raises(ConfigError, match="nowhere"):
        refuse_contradiction(Settings.load(home=tmp_path / "b", contract=tmp_path / "nowhere.yaml"))


def test_a_pipeline_without_sample_data_and_raw_files_says_what_to_do(tmp_path: Path, foreign: Path) -> None:
    settings = Settings.load(home=tmp_path / "home", contract=foreign)
    with (
        pytest.raises(ConfigError, match=r"no raw data in .*/data/kunden/raw: put parquet files there, .*RAW=/path/to"),
        sample_raw(settings, Console(file=io.StringIO())),
    ):
        pytest.fail("the block began")
    assert not (tmp_path / "home").exists()


def test_the_program_beside_the_file_writes_sample_data(tmp_path: Path, foreign: Path) -> None:
    settings = Settings.load(home=tmp_path / "home", contract=foreign)
    program = foreign.with_name("sample_data.py")
    program.write_text(
        "import os, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "folder.mkdir(parents=True)\n"
        "(folder / 'a.parquet').write_text(os.environ['APEX_PIPELINE'])\n"
        "print('one file')\n"
    )
    console = Console(file=io.StringIO(), width=200)
    with sample_raw(settings, console):
        pass
    assert (tmp_path / "home" / "data" / "kunden" / "raw" / "a.parquet").read_text() == "kunden"
    assert isinstance(console.file, io.StringIO) and console.file.getvalue().endswith("writes sample data\none file\n")
    program.write_text("raise SystemExit('the index does not answer')")
    shutil.rmtree(tmp_path / "home")
    with (
        pytest.raises(ConfigError, match=r"sample_data\.py failed \(exit code 1\):\nthe index does not answer"),
        sample_raw(settings, console),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alert_mail_to", "ops@example.org", "APEX_ALERT_SMTP_URL is not"),
        ("serving_host", "0.0.0.0", "APEX_SERVING_HOST=0.0.0.0: .*apex serve-key"),
    ],
)
def test_settings_that_break_a_service_are_refused_before_anything_starts(
    tmp_path: Path, name: str, value: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        start.up(Settings.load(home=tmp_path / "home", **{name: value}))
    assert not (tmp_path / "home").exists()
