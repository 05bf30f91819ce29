"""Pipelines are found by their folders; an option is named by section and key, in the file and in variables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from apex_ml.contract.options import SECTIONS, PipelineOptions
from apex_ml.contract.options_file import option_field
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import (
    load_all_pipeline_settings,
    load_pipeline_settings,
    pipeline_names,
    pipeline_variables,
    recorded_pipelines,
)
from apex_ml.pipeline_values import FORMER, override_variable
from apex_ml.pipelines import load_all_pipelines, load_pipeline, usable_pipelines
from apex_ml.platform.embedded.home_record import record_home
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.pipeline_files import text_named, write_pipelines

ORDERS = (CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml").read_text(encoding="utf-8")


def settings_with(home: Path, *names: str, **overrides: object) -> Settings:
    for name in names:
        (home / "pipelines" / name).mkdir(parents=True)
        (home / "pipelines" / name / "pipeline.yaml").write_text(text_named(name))
    return Settings.load(**{"home": home, "pipelines": home / "pipelines", "pipeline": ""} | overrides)


def test_the_only_pipeline_is_the_default_and_several_must_be_named(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "orders")
    assert load_pipeline(settings).name == "orders"
    settings = settings_with(tmp_path, "visits")
    assert pipeline_names(settings) == ("orders", "visits")
    with pytest.raises(ConfigError, match=r"several pipelines: orders, visits; name one: apex -p orders"):
        load_pipeline(settings)
    assert load_pipeline(Settings.load(home=tmp_path, pipelines=settings.pipelines, pipeline="visits")).name == "visits"
    with pytest.raises(ConfigError, match=r"no pipeline visit in .*there are orders, visits; did you mean visits\?"):
        load_pipeline(Settings.load(home=tmp_path, pipelines=settings.pipelines, pipeline="visit"))


def test_a_folder_without_pipelines_and_a_folder_of_another_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no pipeline in .*\(APEX_PIPELINES\)"):
        load_pipeline(Settings.load(home=tmp_path, pipelines=tmp_path, pipeline=""))
    settings = settings_with(tmp_path, "orders")
    (settings.pipelines / "orders").rename(settings.pipelines / "sales")
    with pytest.raises(ConfigError, match=r"name: is orders; the folder is sales: give both the same name"):
        load_pipeline(settings)


@pytest.mark.parametrize("name", ["apex", "public", "pg_orders", "a__b", "x" * 41, "predict", "docs"])
def test_a_name_that_is_not_safe_everywhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"pipeline\.yaml: name: {name} (is reserved|must be)"):
        load_pipeline(settings_with(tmp_path, name))


@pytest.mark.parametrize("load", [load_pipeline, load_pipeline_settings])
def test_the_noun_for_rows_is_one_short_word(tmp_path: Path, load: Callable[[Settings], PipelineSettings]) -> None:
    settings = settings_with(tmp_path, "orders")
    path = settings.pipelines / "orders" / "pipeline.yaml"
    assert load(settings).rows == "orders"
    for text, noun in (("", "rows"), ("rows: Aufträge\n", "Aufträge"), ("rows: web-orders\n", "web-orders")):
        path.write_text(ORDERS.replace("rows: orders\n", text), encoding="utf-8")
        assert load(settings).rows == noun
    for text in ("all orders", '""', "orders1", "x" * 25, "<b>"):
        path.write_text(ORDERS.replace("rows: orders\n", f"rows: {text}\n"), encoding="utf-8")
        with pytest.raises(ConfigError, match=r"pipeline\.yaml:\d+: rows: must be one word in the plural"):
            load(settings)


def test_the_noun_for_rows_changes_no_digest(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "orders")
    before = load_pipeline(settings).contract.digest()
    path = settings.pipelines / "orders" / "pipeline.yaml"
    path.write_text(ORDERS.replace("rows: orders\n", ""), encoding="utf-8")
    assert load_pipeline(settings).contract.digest() == before


def test_two_pipelines_cannot_share_a_registered_model(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "orders", "visits", "shops")
    file = settings.pipelines / "visits" / "pipeline.yaml"
    file.write_text(file.read_text().replace("name: visits_model", "name: digital_orders_xgboost"))
    for load in (load_all_pipelines, load_all_pipeline_settings):
        loaded, faults = load(settings)
        assert [pipeline.name for pipeline in loaded] == ["shops"]
        assert "model.name: digital_orders_xgboost is also that of visits: give each" in str(faults["orders"])
        assert str(faults["visits"]).startswith(f"{file}: ")


def test_the_pipeline_that_the_platform_has_started_with_keeps_its_model(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "orders")
    record_home(settings)
    file = settings.pipelines / "copy" / "pipeline.yaml"
    file.parent.mkdir()
    for text in (ORDERS, ORDERS.replace("name: orders\n", "name: copy\n")):
        file.write_text(text, encoding="utf-8")
        for load in (load_all_pipelines, load_all_pipeline_settings):
            loaded, faults = load(settings)
            assert [pipeline.name for pipeline in loaded] == ["orders"] and list(faults) == ["copy"]
    assert "model.name: digital_orders_xgboost is also that of orders" in str(faults["copy"])
    record_home(settings)
    assert recorded_pipelines(settings) == {"orders"}


def test_a_value_of_a_removed_pipeline_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_with(tmp_path, "orders", "visits")
    record_home(settings)
    shutil.rmtree(settings.pipelines / "visits")
    (tmp_path / ".env").write_text("APEX_VISITS__LOCATIONS__RAW=/visits\nAPEX_SHOPS__MODEL__TRIALS=3\n")
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines")
    assert [pipeline.name for pipeline in usable_pipelines(settings)[0]] == ["orders"]
    for name in ("APEX_VISITS__LOCATIONS__RAW: there is no pipeline visits", "APEX_SHOPS__MODEL__TRIALS: there is no"):
        assert [name in record.message for record in caplog.records].count(True) == 1
    write_pipelines(settings.pipelines, ["visit"])  # once it was there, its name is not a mistyped one
    assert len(usable_pipelines(Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines"))[0]) == 2


def test_the_platform_needs_the_named_pipeline_or_a_readable_one(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "orders", "visits")
    file = settings.pipelines / "visits" / "pipeline.yaml"
    file.write_text("name: visits\n")
    loaded, faults = usable_pipelines(settings)
    assert [pipeline.name for pipeline in loaded] == ["orders"] and list(faults) == ["visits"]
    for named, message in (("visits", f"{file}: "), ("visit", r"no pipeline visit in .*did you mean visits\?")):
        with pytest.raises(ConfigError, match=message):
            usable_pipelines(settings.model_copy(update={"pipeline": named}))
    (settings.pipelines / "orders" / "pipeline.yaml").write_text("name: orders\n")
    with pytest.raises(ConfigError, match="orders/pipeline.yaml: "):
        usable_pipelines(settings)
    with pytest.raises(ConfigError, match="visits/pipeline.yaml: "):  # a file of the first edition is the only one
        usable_pipelines(settings.model_copy(update={"pipeline": "orders"}).with_pipeline_file(file))
    with pytest.raises(ConfigError, match=r"no pipeline in .*\(APEX_PIPELINES\)"):
        usable_pipelines(settings.model_copy(update={"pipelines": tmp_path / "none"}))


def test_an_override_is_for_one_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_VISITS__MODEL__TRIALS", "3")
    settings_with(tmp_path, "orders", "visits")
    trials = {
        name: load_pipeline(
            Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines", pipeline=name)
        ).options.model.trials
        for name in ("orders", "visits")
    }
    assert trials == {"orders": 0, "visits": 3}
    monkeypatch.setenv("APEX_VISITS__LOCATIONS__RAW", "/visits/raw")
    settings = Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines", pipeline="orders")
    assert load_pipeline(settings).locations.raw == str(tmp_path / "data" / "orders" / "raw")
    assert pipeline_variables(settings)["APEX_VISITS__LOCATIONS__RAW"] == "/visits/raw"
    monkeypatch.setenv("APEX_VISIST__MODEL__TRIALS", "3")
    with pytest.raises(
        ConfigError, match=r"APEX_VISIST__MODEL__TRIALS: there is no pipeline visist; did you mean visits\?"
    ):
        load_pipeline(Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines", pipeline="orders"))


def test_every_fault_of_the_options_is_reported_with_its_line(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "orders")
    file = settings.pipelines / "orders" / "pipeline.yaml"
    file.write_text(ORDERS.replace("trials: 0", "trails: 0").replace('sweep: "*/15 * * * *"', "sweep: hourly"))
    for load in (load_pipeline, load_pipeline_settings):
        with pytest.raises(ConfigError) as refused:
            load(settings)
        assert "did you mean trials?" in str(refused.value) and "schedule.sweep: has 1 fields" in str(refused.value)
        assert str(refused.value).count(f"{file}:") == 2


def test_empty_sections_and_keys_count_as_absent_and_numbers_are_explained(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "orders")
    file = settings.pipelines / "orders" / "pipeline.yaml"
    file.write_text(ORDERS + "\nshadow:\nlocations:\n  raw:\nresources: {memory_mb: }\n")
    loaded = load_pipeline(settings)
    assert loaded.options.shadow.days == 0 and loaded.locations.raw == str(tmp_path / "data" / "orders" / "raw")
    for wrong, words in {
        "2.0": "must be a whole number; found 2.0: write 2",
        "2.5": "must be a whole number; found 2.5",
        '"3"': "write it without quotes",
    }.items():
        file.write_text(ORDERS.replace("trials: 0", f"trials: {wrong}"))
        with pytest.raises(ConfigError) as refused:
            load_pipeline(settings)
        assert words in str(refused.value)
    file.write_text(ORDERS.replace("candidates: [xgboost]", "candidates: [xgbost]"))
    with pytest.raises(ConfigError, match=r"found xgbost; did you mean xgboost\?"):
        load_pipeline(settings)


def test_what_a_caller_gives_reaches_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_ORDERS__LOCATIONS__RAW", "mine")
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(home=tmp_path / "home", approval__required=True, candidates=("xgboost", "logistic"))
    variables = pipeline_variables(settings)
    assert variables == {
        "APEX_ORDERS__LOCATIONS__RAW": str(tmp_path / "mine"),
        "APEX_ORDERS__APPROVAL__REQUIRED": "true",
        "APEX_ORDERS__MODEL__CANDIDATES": "xgboost,logistic",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    again = load_pipeline(Settings.load(home=tmp_path / "home"))
    assert (again.options.approval, again.options.model, again.locations) == (
        load_pipeline(settings).options.approval,
        load_pipeline(settings).options.model,
        load_pipeline(settings).locations,
    )


def test_every_former_setting_is_an_option_and_every_option_says_what_it_is() -> None:
    for section, key in FORMER.values():
        assert option_field(section, key)
        assert override_variable("orders", section, key).isupper()
    for section in SECTIONS:
        part = PipelineOptions.model_fields[section].annotation
        assert part is not None and part.__doc__
        for key, field in part.model_fields.items():
            assert field.description and field.description.strip()[0].isupper() or key == "quality_window_weeks"


def test_options_are_read_without_arrow(tmp_path: Path) -> None:
    """The image of Airflow has neither Arrow nor a package of machine learning."""
    code = (
        "import sys; from apex_ml.pipeline_settings import load_pipeline_settings;"
        "from apex_ml.settings import Settings; load_pipeline_settings(Settings.load());"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'pyarrow', 'numpy', 'pandas', 'duckdb', 'xgboost'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CODE_ROOT)
    assert done.stdout.strip() == "[]"


def test_the_command_takes_a_pipeline_and_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from apex_ml.cli.main import main

    settings = settings_with(tmp_path, "orders", "visits")
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_PIPELINES", str(settings.pipelines))
    monkeypatch.setenv("APEX_PIPELINE", "")

    def call(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, *capsys.readouterr()

    code, listed, _ = call("pipelines")
    assert (code, [line.split()[0] for line in listed.splitlines()]) == (0, ["orders", "visits"])
    code, _, error = call("contract", "show")
    assert code == 30 and "name one: apex -p orders" in error
    assert call("-p", "visits", "contract", "show")[0] == 0
    shutil.copy(__file__, settings.pipelines / "visits" / "pipeline.yaml")
    monkeypatch.setenv("APEX_PIPELINE", "ordrs")
    assert call("pipelines")[0] == 30
    monkeypatch.setenv("APEX_PIPELINE", "")
    code, listed, error = call("pipelines")
    assert code == 30 and "orders" in listed and "visits" in listed and "the list above says where" in error
