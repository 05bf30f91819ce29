"""What is generated from the settings is what is committed."""

from __future__ import annotations

from click.testing import CliRunner

from apex_ml.cli.platform import settings_table
from apex_ml.platform.reports.settings_table import env_example, markdown_table
from apex_ml.settings import CODE_ROOT, Settings


def test_env_example_is_current() -> None:
    committed = (CODE_ROOT / ".env.example").read_text()
    assert committed == env_example(), "run: apex settings --format env > .env.example"


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"`APEX_{name.upper()}`" in markdown_table()


def test_the_table_contains_no_machine_details() -> None:
    assert str(CODE_ROOT) not in env_example() + markdown_table()


def test_command_prints_both() -> None:
    runner = CliRunner()
    assert runner.invoke(settings_table, ["--format", "env"]).output == env_example()
    assert runner.invoke(settings_table, []).output == markdown_table()
