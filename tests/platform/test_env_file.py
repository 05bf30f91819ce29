"""Secrets are made once, and what a command remembers replaces one line."""

from __future__ import annotations

import base64
import multiprocessing
import stat
from pathlib import Path

import pytest

from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded.env_file import SECRETS, ensure_env, file_values, remember, remember_option
from apex_ml.settings import Settings


def _secrets(settings: Settings) -> dict[str, str]:
    return {name: getattr(settings, name).get_secret_value() for name in SECRETS}


def test_secrets_are_made_once_and_kept(settings: Settings) -> None:
    first = _secrets(ensure_env(settings))
    assert all(first.values()) and len(set(first.values())) == len(first)
    text = settings.env_file.read_text()
    assert _secrets(ensure_env(Settings.load(home=settings.home))) == first
    assert settings.env_file.read_text() == text


def test_only_the_owner_reads_the_file(settings: Settings) -> None:
    ensure_env(settings)
    assert stat.S_IMODE(settings.env_file.stat().st_mode) == 0o600
    settings.env_file.chmod(0o644)
    ensure_env(Settings.load(home=settings.home))
    assert stat.S_IMODE(settings.env_file.stat().st_mode) == 0o600


def test_fernet_key_is_valid(settings: Settings) -> None:
    key = ensure_env(settings).airflow_fernet_key.get_secret_value()
    assert len(base64.urlsafe_b64decode(key)) == 32


def test_missing_secret_is_added_and_nothing_else_changes(settings: Settings) -> None:
    settings.env_file.write_text("# mine\nAPEX_TRIALS=7\nAPEX_PG_ADMIN_PASSWORD='it is \"mine\"'\n")
    configured = ensure_env(Settings.load(home=settings.home))
    assert configured.pg_admin_password.get_secret_value() == 'it is "mine"'
    assert settings.env_file.read_text().startswith("# mine\nAPEX_TRIALS=7\nAPEX_PG_ADMIN_PASSWORD='it is \"mine\"'\n")
    assert len(file_values(settings)) == len(SECRETS) + 1


def test_secret_of_the_environment_is_used_and_not_written(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_PG_READER_PASSWORD", "from-outside")
    configured = ensure_env(Settings.load(home=settings.home))
    assert configured.pg_reader_password.get_secret_value() == "from-outside"
    assert "from-outside" not in settings.env_file.read_text()


def _made(home: Path) -> dict[str, str]:
    return _secrets(ensure_env(Settings.load(home=home)))


def test_concurrent_calls_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        result = pool.map(_made, [tmp_path] * 8)
    assert all(one == result[0] for one in result)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".env.")]


@pytest.mark.parametrize(
    "value", ["/data/raw", "/with space/#1", "/it's", 'a"b', "s3://bucket/x?y=1&z=2", "back\\slash"]
)
def test_remembered_value_is_read_back(settings: Settings, value: str) -> None:
    ensure_env(settings)
    assert remember(settings, "APEX_MLFLOW_USER", value).mlflow_user == value
    assert Settings.load(home=settings.home).mlflow_user == value


@pytest.mark.parametrize("value", ["/data/raw", "/with space/#1", "/it's", "s3://bucket/x?y=1&z=2"])
def test_a_remembered_option_of_a_pipeline_is_read_back(settings: Settings, value: str) -> None:
    ensure_env(settings)
    remembered = remember_option(settings, "orders", "locations", "raw", value)
    for again in (remembered, Settings.load(home=settings.home)):
        assert load_pipeline(again).locations.raw == value
    assert "APEX_ORDERS__LOCATIONS__RAW=" in settings.env_file.read_text()


def test_a_remembered_option_replaces_the_variable_of_the_first_edition(settings: Settings) -> None:
    settings.env_file.write_text("# a\nexport APEX_RAW_URL=/old\n# b\nAPEX_TRIALS=7\nAPEX_RAW_URL=/older\n")
    remember_option(settings, "orders", "locations", "raw", "/new")
    assert settings.env_file.read_text() == "# a\n# b\nAPEX_TRIALS=7\nAPEX_ORDERS__LOCATIONS__RAW=/new\n"


def test_remember_replaces_one_line_and_keeps_the_rest(settings: Settings) -> None:
    settings.env_file.write_text("# a\nexport APEX_THREADS=1\n# b\nAPEX_PROJECT=mine\nAPEX_THREADS=3\n")
    remember(settings, "threads", "4")
    assert settings.env_file.read_text() == "# a\nAPEX_THREADS=4\n# b\nAPEX_PROJECT=mine\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("APEX_NOPE", "1", "APEX_NOPE is not a setting"),
        ("threads", "many", "APEX_THREADS='many'"),
        ("project", "a\nb", "must be one line"),
    ],
)
def test_remember_refuses(settings: Settings, name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        remember(settings, name, value)
    assert not settings.env_file.exists()


def test_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="APEX_HOME"):
        ensure_env(Settings.load(home=tmp_path / "file"))
