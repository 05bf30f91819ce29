"""The parts of .env, and Airflow's environment in a container."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apex_ml.api_keys import hash_of
from apex_ml.contract.pipeline import DAG_KINDS
from apex_ml.env_syntax import parse_env
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.containers.prepare import PARTS, container_airflow_environment, digests, part_secrets
from apex_ml.platform.containers.roles import role_permissions
from apex_ml.platform.embedded.env_file import CONTAINER_SECRETS, SECRETS, completed
from apex_ml.setting_sources import variable_of
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.apex_home import COMMAND

EVERY = [variable_of(name) for name in (*SECRETS, *CONTAINER_SECRETS)]


def parted(folder: Path, text: str) -> dict[str, Settings]:
    source = folder / "env"
    source.write_text(text)
    target = folder / "parts"
    target.mkdir()
    part_secrets(Settings.load(home=folder, env_file=source), target)
    return {kind: Settings.load(home=folder, env_file=target / kind / "env") for kind in PARTS}


def test_each_service_gets_its_own_secrets(tmp_path: Path) -> None:
    text = completed("APEX_RETRAIN_SCHEDULE='0 3 * * 1'\nAPEX_METRICS_TOKEN=t'o ken\nAPEX_RAW_URL=/srv/raw\n")
    services = parted(tmp_path, text)
    for kind, settings in services.items():
        secrets = {
            name for name in Settings.model_fields if getattr(getattr(settings, name), "get_secret_value", str)()
        }
        assert secrets <= set(PARTS[kind]), kind
        assert (
            load_pipeline(settings).options.schedule.retrain == "0 3 * * 1"
            and load_pipeline(settings).options.locations.raw == ""
        )
        assert (settings.pg_host, settings.runtime) == ("postgres", "docker")
        assert settings.airflow_address == "http://127.0.0.1:8080"
        mode = stat.S_IMODE((tmp_path / "parts" / kind / "env").stat().st_mode)
        assert mode == (0o444 if kind in ("postgres", "redis", "gate") else 0o400)
    assert "apex_writer:" in services["steps"].writer_url and "@postgres:5432/apex" in services["steps"].writer_url
    assert (tmp_path / "parts" / "postgres" / "admin_password").read_text() == services[
        "postgres"
    ].pg_admin_password.get_secret_value()


def test_the_online_service_knows_hashes_and_the_tools_the_key(tmp_path: Path) -> None:
    mine = "ab" * 32
    services = parted(tmp_path, completed(f"APEX_SERVING_KEYS={mine}\nAPEX_SERVING_PORT=9000\n"))
    key = services["tools"].serving_key.get_secret_value()
    assert services["serving"].serving_keys == f"{mine},{hash_of(key)}"
    assert len(key) > 40 and all(not services[kind].serving_key for kind in PARTS if kind != "tools")
    assert (services["serving"].serving_address, services["serving"].serving_port) == ("0.0.0.0", 8008)
    assert services["tools"].serving_url == "http://serving:8008"
    assert services["tools"].serving_for_people == "http://127.0.0.1:9000"


def test_the_online_service_gets_logins_only_to_read_its_snapshots(tmp_path: Path) -> None:
    login = "AWS_SECRET_ACCESS_KEY=a-login\n"

    def serving_env(name: str, more: str) -> str:
        (tmp_path / name).mkdir()
        parted(tmp_path / name, completed(login + more))
        return (tmp_path / name / "parts" / "serving" / "env").read_text()

    assert "a-login" not in serving_env("folders", "APEX_ORDERS__LOCATIONS__DROPS=s3://lake/drops\n")
    assert "a-login" in serving_env("stored", "APEX_ORDERS__LOCATIONS__PROCESSED=s3://lake/processed\n")


def test_a_digest_changes_with_the_settings_of_its_service_alone(tmp_path: Path) -> None:
    text = completed("APEX_SERVING_KEYS=" + "ab" * 32 + "\n")

    def digested(old: str, new: str) -> dict[str, str]:
        assert old in text
        (tmp_path / "env").write_text(text.replace(old, new))
        return digests(Settings.load(home=tmp_path, env_file=tmp_path / "env"))

    before = digested("", "")
    assert digested("", "") == before and set(before) == set(PARTS)

    def changed(old: str, new: str) -> set[str]:
        return {kind for kind, digest in digested(old, new).items() if digest != before[kind]}

    assert changed("APEX_REDIS_PASSWORD=", "APEX_REDIS_PASSWORD=new") == {"redis", "airflow"}
    fernet_key = SECRETS["airflow_fernet_key"]()
    assert changed("APEX_AIRFLOW_FERNET_KEY=", f"APEX_AIRFLOW_FERNET_KEY={fernet_key}\n#") == {"airflow"}
    assert changed("APEX_SERVING_KEYS=", "APEX_EXECUTOR=CeleryExecutor\nAPEX_SERVING_KEYS=") == set(PARTS)
    # it reads new keys by itself
    assert changed("ab" * 32, "cd" * 32) == set()


def test_digests_are_the_same_in_every_process() -> None:
    text = completed("APEX_RETRAIN_SCHEDULE='0 3 * * 1'\nAPEX_EXECUTOR=CeleryExecutor\nAPEX_DEVICE=cuda\n")
    expected = {
        subprocess.run(
            [*COMMAND, "container", "digests"],
            input=text,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    [lines] = expected
    assert set(re.findall(r"^APEX_DIGEST_(\w+)=[0-9a-f]{16}$", lines, re.M)) == {kind.upper() for kind in PARTS}


def test_the_secrets_can_be_split_again(tmp_path: Path) -> None:
    text = completed("")
    parted(tmp_path, text)
    (tmp_path / "env").write_text(text.replace("APEX_REDIS_PASSWORD=", "APEX_REDIS_PASSWORD=new"))
    part_secrets(Settings.load(home=tmp_path, env_file=tmp_path / "env"), tmp_path / "parts")
    assert (tmp_path / "parts" / "redis" / "redis.conf").read_text().startswith("requirepass new")


def test_missing_secrets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="APEX_MLFLOW_PASSWORD.*make secrets") as caught:
        parted(tmp_path, completed("").replace("APEX_MLFLOW_PASSWORD=", "OTHER="))
    assert "APEX_REDIS_PASSWORD" not in str(caught.value)


def test_completing_adds_only_missing_settings() -> None:
    text = "# mine\nAPEX_PG_ADMIN_PASSWORD=kept"
    created = completed(text)
    assert created.startswith(text + "\n") and completed(created) == created
    names = [line.partition("=")[0] for line in created.splitlines() if not line.startswith("#")]
    assert sorted(names) == sorted(EVERY)


def test_airflow_in_a_container(tmp_path: Path) -> None:
    created = container_airflow_environment(parted(tmp_path, completed("APEX_EXECUTOR=CeleryExecutor\n"))["airflow"])
    assert created["AIRFLOW__CORE__AUTH_MANAGER"].endswith("FabAuthManager")
    assert created["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert created["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://airflow-api-server:8080/execution/"
    assert "@postgres:5432/airflow" in created["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert not any("SIMPLE_AUTH" in name for name in created)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("WORKERS=4", "4"),
        ("export WORKERS = '4 5'  # four", "4 5"),
        ('WORKERS="4"', "4"),
        ("WORKERS=4 # four", "4"),
        ("WORKERS=it's", "it's"),
        ("WORKERS=3\r\nWORKERS=4\r\n", "4"),
        ("WORKERS=", "2"),
        ("\ufeffWORKERS=4", "4"),
        ("#WORKERS=4", "2"),
    ],
)
def test_the_script_reads_the_file_as_the_settings_do(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / "env").write_bytes(line.encode())
    script = CODE_ROOT / "deployment" / "docker" / "platform.sh"
    ask = f"""eval "$(sed -n '/^value() {{/,/^}}/p' '{script}')"; value WORKERS 2"""
    output = subprocess.run(
        ["bash", "-c", ask],
        env={"PATH": os.environ["PATH"], "APEX_ENV_FILE": str(tmp_path / "env")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout == f"{value}\n"
    result = parse_env(line.removeprefix("\ufeff"), ".env").get("WORKERS")
    assert (result.text if result and result.text else "2") == value


def test_a_file_that_is_not_utf8_is_refused_by_its_line() -> None:
    done = subprocess.run(
        [*COMMAND, "container", "secrets", "--complete"], input=b"A=1\nB=\xf1\n", capture_output=True, check=False
    )
    assert done.returncode == 30 and b".env, line 2: byte 0xf1 is not UTF-8" in done.stderr


def test_the_airflow_image_needs_no_machine_learning_package() -> None:
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'pandas', 'numpy', 'duckdb', 'mlflow', 'sklearn', 'xgboost', 'psutil', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from apex_ml.cli import container\nfrom apex_ml.platform.containers import prepare\n"
        "from apex_ml.platform.airflow_state import prepare_database, repair\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CODE_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_role_of_a_pipeline_acts_on_its_dags_alone() -> None:
    viewer = [("can_read", "DAGs"), ("can_read", "DAG Runs"), ("menu_access", "DAGs"), ("can_read", "Website")]
    permissions = set(role_permissions("orders", viewer))
    # read or edit on "DAGs" would be on those of every pipeline
    assert {action for action, resource in permissions if resource == "DAGs"} == {"menu_access"}
    assert {resource for _, resource in permissions if resource.startswith("DAG:")} == {
        f"DAG:orders_{kind}" for kind in DAG_KINDS
    }
    trigger_and_approve = {("can_create", "DAG Runs"), ("can_edit", "HITL Detail"), ("can_edit", "DAG:orders_retrain")}
    assert trigger_and_approve | set(viewer[1:]) <= permissions
    assert not any(action == "can_delete" for action, _ in permissions)
