"""Settings of the first edition move into the pipeline's file; what the file says else stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.upgrade import apply_upgrade, find_upgrade
from apex_ml.settings import CODE_ROOT, Settings

ENV = """\
# kept
APEX_PG_PORT=15433
APEX_TRIALS=5
APEX_CANDIDATES=xgboost,logistic
APEX_APPROVAL=true
APEX_RAW_URL=/data/raw
APEX_DRIFT_LEAST_ROWS=200
"""


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home of the first edition, with a folder of pipelines of its own."""
    monkeypatch.delenv("APEX_PIPELINE")
    shutil.copytree(CODE_ROOT / "pipelines" / "orders", tmp_path / "pipelines" / "orders")
    (tmp_path / ".env").write_text(ENV)
    return Settings.load(home=tmp_path, pipelines=tmp_path / "pipelines")


def test_options_move_and_mean_the_same(platform: Settings) -> None:
    file = platform.pipelines / "orders" / "pipeline.yaml"
    before, then = file.read_text(), load_pipeline(platform)
    planned = find_upgrade(platform)
    assert file.read_text() == before, "nothing is written yet"
    apply_upgrade(platform, planned)
    assert platform.env_file.read_text() == ("# kept\nAPEX_PG_PORT=15433\nAPEX_ORDERS__LOCATIONS__RAW=/data/raw\n")
    again = Settings.load(home=platform.home, pipelines=platform.pipelines)
    now = load_pipeline(again)
    assert (now.options.model_dump(exclude={"locations"}), now.locations, now.contract) == (
        then.options.model_dump(exclude={"locations"}),
        then.locations,
        then.contract,
    )
    assert not find_upgrade(again).is_needed
    changed = set(file.read_text().splitlines()) ^ set(before.splitlines())
    assert changed == {
        "  candidates: [xgboost]", "  candidates: [xgboost, logistic]", "  trials: 0", "  trials: 5",
        "approval:", "  required: true", "monitoring:", "  drift_min_rows: 200",
    }  # fmt: skip


def test_a_contract_of_the_first_edition_moves_into_a_folder_of_its_name(platform: Settings) -> None:
    text = (platform.pipelines / "orders" / "pipeline.yaml").read_text()
    shutil.rmtree(platform.pipelines / "orders")
    mine = platform.home / "mine.yaml"
    mine.write_text(text[: text.index("\nmodel:")].replace("name: orders\n", "name: kunden\n"))
    platform.env_file.write_text("APEX_CONTRACT=mine.yaml\nAPEX_TRIALS=2\n")
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    assert load_pipeline(settings).model_name == "digital_orders_xgboost", "the default of the first edition"
    apply_upgrade(settings, find_upgrade(settings))
    now = load_pipeline(Settings.load(home=platform.home, pipelines=platform.pipelines))
    assert (now.name, now.file) == ("kunden", platform.pipelines / "kunden" / "pipeline.yaml")
    assert (now.options.model.trials, now.model_name) == (2, "digital_orders_xgboost")
    assert not platform.env_file.read_text().strip()


def test_a_contract_replaces_no_other_file(platform: Settings) -> None:
    mine = platform.home / "mine.yaml"
    mine.write_text((platform.pipelines / "orders" / "pipeline.yaml").read_text() + "# mine\n")
    platform.env_file.write_text("APEX_CONTRACT=mine.yaml\n")
    with pytest.raises(ConfigError, match="exists, and APEX_CONTRACT names another file of the pipeline orders"):
        find_upgrade(Settings.load(home=platform.home, pipelines=platform.pipelines))


def test_a_value_that_its_option_does_not_accept_is_named(platform: Settings) -> None:
    platform.env_file.write_text("APEX_TRIALS=many\n")
    with pytest.raises(ConfigError, match=r"APEX_TRIALS='many': must be a whole number \(.*\.env, line 1\)"):
        find_upgrade(Settings.load(home=platform.home, pipelines=platform.pipelines))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_everything_else_in_the_file_stays_byte_by_byte(platform: Settings, newline: str) -> None:
    file = platform.pipelines / "orders" / "pipeline.yaml"
    text = file.read_text()
    head = text[: text.index("\nmodel:")]
    options = """
model:
    # first the name
    name: mine  # of the registry
    candidates:
      # fast and good
      - xgboost  # keep
    # trials of a training
    trials: 0
schedule:
    # at night
    retrain: "0 2 * * *"
"""
    file.write_bytes(f"\ufeff{head}{options}".replace("\n", newline).encode())
    platform.env_file.write_text(
        "APEX_CANDIDATES=logistic\nAPEX_SEED=3\nAPEX_SHADOW_DAYS=7\nAPEX_SWEEP_SCHEDULE=@hourly\n"
    )
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    apply_upgrade(settings, find_upgrade(settings))
    expected = f"\ufeff{head}{options}".replace("- xgboost  # keep", "[logistic]  # keep")
    expected = expected.replace("model:\n", "model:\n    seed: 3\n").replace(
        "schedule:\n", "schedule:\n    sweep: '@hourly'\n"
    )
    assert file.read_bytes().decode() == f"{expected}\nshadow:\n  days: 7\n".replace("\n", newline)
    loaded = load_pipeline(Settings.load(home=platform.home, pipelines=platform.pipelines)).options
    assert (loaded.model.candidates, loaded.model.seed, loaded.shadow.days) == (("logistic",), 3, 7)


def test_words_that_yaml_reads_otherwise_are_quoted(platform: Settings) -> None:
    platform.env_file.write_text("APEX_MODEL_NAME=on\n")
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    apply_upgrade(settings, find_upgrade(settings))
    assert load_pipeline(Settings.load(home=platform.home, pipelines=platform.pipelines)).model_name == "on"


def test_another_pipeline_in_the_folder_is_no_reason_to_ask(platform: Settings) -> None:
    mine = platform.home / "mine.yaml"
    text = (platform.pipelines / "orders" / "pipeline.yaml").read_text()
    mine.write_text(text.replace("name: orders\n", "name: demand\n"))
    platform.env_file.write_text("APEX_CONTRACT=mine.yaml\n")
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    apply_upgrade(settings, find_upgrade(settings))
    assert platform.env_file.read_text().strip() == "APEX_PIPELINE=demand"
    assert load_pipeline(Settings.load(home=platform.home, pipelines=platform.pipelines)).name == "demand"


def test_the_variable_goes_when_it_names_the_file_in_its_place(platform: Settings) -> None:
    file = platform.pipelines / "orders" / "pipeline.yaml"
    before = file.read_bytes()
    platform.env_file.write_text(f"APEX_CONTRACT={file}\n")
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    apply_upgrade(settings, find_upgrade(settings))
    assert (platform.env_file.read_text().strip(), file.read_bytes()) == ("", before)


def test_a_link_stays_and_a_protected_file_is_refused(platform: Settings) -> None:
    file = platform.pipelines / "orders" / "pipeline.yaml"
    real = platform.home / "real.yaml"
    file.rename(real)
    file.symlink_to(real)
    platform.env_file.write_text("APEX_TRIALS=9\n")
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    apply_upgrade(settings, find_upgrade(settings))
    assert file.is_symlink() and "trials: 9" in real.read_text()
    real.chmod(0o444)
    platform.env_file.write_text("APEX_TRIALS=8\n")
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    with pytest.raises(ConfigError, match="is write-protected"):
        apply_upgrade(settings, find_upgrade(settings))
    assert "APEX_TRIALS=8" in platform.env_file.read_text()


def test_a_former_variable_that_does_not_count_only_goes(platform: Settings) -> None:
    file = platform.pipelines / "orders" / "pipeline.yaml"
    before = file.read_bytes()
    platform.env_file.write_text("APEX_TRIALS=5\nAPEX_ORDERS__MODEL__TRIALS=6\n")
    settings = Settings.load(home=platform.home, pipelines=platform.pipelines)
    apply_upgrade(settings, find_upgrade(settings))
    assert (platform.env_file.read_text().strip(), file.read_bytes()) == ("APEX_ORDERS__MODEL__TRIALS=6", before)
