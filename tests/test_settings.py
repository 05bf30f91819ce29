"""Settings are read by one rule and checked where they load; one error names every fault and its remedy."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.timetables.trigger import CronTriggerTimetable
from croniter import croniter

from apex_ml import pipeline_values
from apex_ml.core.candidates import candidate_names
from apex_ml.env_syntax import format_value, parse_env
from apex_ml.errors import ConfigError
from apex_ml.pipelines import load_pipeline
from apex_ml.platform.embedded.env_file import ensure_env, file_values, remember_option
from apex_ml.platform.embedded.environment import apex_variables
from apex_ml.setting_types import check_cron
from apex_ml.settings import CODE_ROOT, Settings


def load(home: Path, content: str | bytes, **overrides: object) -> Settings:
    (home / ".env").write_bytes(content.encode() if isinstance(content, str) else content)
    return Settings.load(home=home, **overrides)


def refusal(home: Path, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(load(home, content))
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b c", "b c"),
        ("  A = b  # comment", "b"),
        ("export A='b # c'  # comment", "b # c"),
        ("A=b#c", "b#c"),
        ("A=", ""),
        ("A= # comment", ""),
        ("A=it's", "it's"),
        ("A='it\\'s'", "it's"),
        ("A='C:\\new'", "C:\\new"),
        ('A="a\\"b\\$c\\\\"', 'a"b$c\\'),
        ("A=$1 $X", "$1 $X"),
        ("A='${X}'", "${X}"),
        ("A=one\nA=two", "two"),
        ("A=b\r\nB=c\r\n", "b"),
        ("A=b=c", "b=c"),
        ("OTHER\nA=b", "b"),
        ("DATA=${HOME}/x\nA=b", "b"),
    ],
)
def test_a_line_has_one_meaning(line: str, value: str) -> None:
    assert parse_env(line, ".env")["A"].text == value


@pytest.mark.parametrize(
    "value", ["plain", "two words", "it's", 'a"b', "${HOME} $1 `id`", "back\\slash'", "#", "ñ→", ""]
)
def test_written_values_are_read_back_by_apex_and_by_a_shell(value: str) -> None:
    line = f"A={format_value(value)}"
    assert parse_env(line, ".env")["A"].text == value
    output = subprocess.run(["sh", "-c", f'{line}; printf %s "$A"'], capture_output=True, check=True, timeout=10)
    assert output.stdout.decode() == value


def test_both_readers_of_the_file_agree(tmp_path: Path) -> None:
    text = "\ufeffAPEX_PG_READER_PASSWORD='pa${HOME}ss$1'\r\nexport APEX_TRIALS = 5 # five\r\n"
    text += "APEX_RAW_URL='/data/${X}/y'\r\n"
    settings = load(tmp_path, text)
    assert settings.pg_reader_password.get_secret_value() == "pa${HOME}ss$1"
    assert (load_pipeline(settings).options.model.trials, load_pipeline(settings).locations.raw) == (5, "/data/${X}/y")
    assert file_values(settings) == {
        "APEX_PG_READER_PASSWORD": "pa${HOME}ss$1",
        "APEX_TRIALS": "5",
        "APEX_RAW_URL": "/data/${X}/y",
    }
    remember_option(ensure_env(settings), "orders", "model", "trials", "6")
    second = Settings.load(home=tmp_path)
    assert (load_pipeline(second).options.model.trials, second.pg_reader_password.get_secret_value()) == (
        6,
        "pa${HOME}ss$1",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("APEX_TRIALS=5\n".encode("utf-16"), r"\.env is written in UTF-16.*iconv -f UTF-16"),
        ("APEX_TRIALS=5\n".encode("utf-16-le"), r"\.env, line 1: holds a NUL"),
        ("# a\nAPEX_RAW_URL=/año\n".encode("latin-1"), r"\.env, line 2: byte 0xf1 is not UTF-8.*iconv"),
        ("# a\nAPEX_RETRAIN_SCHEDULE='0 3 * * *\nAPEX_TRIALS=5\n", "line 2: APEX_RETRAIN_SCHEDULE: the quote ' is not"),
        ("APEX_TRIALS='5'6\n", "line 1: APEX_TRIALS: text follows the closing quote"),
        ("APEX_RAW_URL=${HOME}/raw\n", r"line 1: APEX_RAW_URL: \$\{…\} is not replaced"),
        ('APEX_RAW_URL="${HOME}/raw"\n', r"line 1: APEX_RAW_URL: \$\{…\} is not replaced"),
        ("APEX_TRIALS: 5\n", "line 1: 'APEX_TRIALS' is no NAME=value"),
        ("APEX_TRIALS\n", "line 1: 'APEX_TRIALS' is no NAME=value"),
        ("APEX_TRIALS='5\nAPEX_SEED='4\n", "line 1: .*; line 2: "),
        ("\nAPEX_TRAILS=5\n", r"APEX_TRAILS is not a setting; did you mean APEX_TRIALS\?.*\.env, line 2"),
        ("apex_trials=5\n", r"apex_trials is not a setting; did you mean APEX_TRIALS\?"),
        ("APEX_QQQ=5\nAPEX_THREADS=x\n", "APEX_QQQ is not a setting.*APEX_THREADS='x': .*line 2"),
        ("APEX_SHADOW_DAYS=x\n", "APEX_SHADOW_DAYS='x': .*line 1"),
        ("APEX_HOME=/elsewhere\n", "APEX_HOME='/elsewhere': names the folder of this file"),
    ],
)
def test_a_faulty_file_is_refused_by_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert re.search(message, refusal(tmp_path, content), re.DOTALL)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"\.env is a folder"):
        Settings.load(home=tmp_path)


OLD_ENV = """\
# made by a platform of an earlier version
APEX_DRIFT_LEAST_ROWS=1200
APEX_QUALITY_OF_WEEKS=5
export APEX_QUALITY_LEAST_ORDERS = 600  # per week
"""


@pytest.fixture
def warnings_are_new() -> None:
    """A warning comes once a process; another test may have caused it already."""
    pipeline_values._warn_of_former_variable.cache_clear()


@pytest.mark.usefixtures("warnings_are_new")
def test_an_env_of_the_first_edition_is_understood_with_a_warning_for_each_option_of_a_pipeline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load(tmp_path, OLD_ENV)
    monitoring = load_pipeline(settings).options.monitoring
    assert (monitoring.drift_min_rows, monitoring.quality_window_weeks, monitoring.quality_min_rows) == (1200, 5, 600)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3
    assert (
        "APEX_DRIFT_LEAST_ROWS is now part of the pipeline's file. It is still read; write `monitoring:"
        " {drift_min_rows: 1200}` into pipelines/<name>/pipeline.yaml, or run `apex upgrade`"
        f" ({tmp_path / '.env'}, line 2)" in warnings
    )
    assert apex_variables(settings).keys() == {"APEX_HOME"}, "programs read .env themselves, so that they see changes"
    remembered = remember_option(settings, "orders", "monitoring", "quality_window_weeks", "4")
    for again in (remembered, Settings.load(home=tmp_path)):
        assert load_pipeline(again).options.monitoring.quality_window_weeks == 4


@pytest.mark.usefixtures("warnings_are_new")
def test_the_environment_wins_under_a_former_name_and_the_new_name_wins_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def min_rows(env: str) -> int:
        return load_pipeline(load(tmp_path, env)).options.monitoring.drift_min_rows

    monkeypatch.setenv("APEX_DRIFT_LEAST_ROWS", "300")
    assert min_rows("APEX_ORDERS__MONITORING__DRIFT_MIN_ROWS=200\n") == 300
    assert "APEX_DRIFT_LEAST_ROWS is now part of the pipeline's file" in caplog.text and "(environment)" in caplog.text
    monkeypatch.delenv("APEX_DRIFT_LEAST_ROWS")
    assert min_rows("APEX_ORDERS__MONITORING__DRIFT_MIN_ROWS=200\nAPEX_DRIFT_LEAST_ROWS=400\n") == 200
    assert min_rows("APEX_DRIFT_MIN_ROWS=\nAPEX_DRIFT_LEAST_ROWS=400\n") == 400
    assert min_rows("APEX_DRIFT_MIN_ROWS=many\nAPEX_ORDERS__MONITORING__DRIFT_MIN_ROWS=200\n") == 200


def test_a_bad_value_is_reported_under_the_name_that_gave_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"APEX_QUALITY_OF_WEEKS='x': must be a whole number \(.*\.env, line 1"):
        load_pipeline(load(tmp_path, "APEX_QUALITY_OF_WEEKS=x\n"))
    with pytest.raises(ConfigError, match=r"APEX_ORDERS__MODEL__TRIALS.*'-1': must be greater than or equal to 0"):
        load_pipeline(load(tmp_path, "APEX_ORDERS__MODEL__TRIALS=-1\n"))
    with pytest.raises(ConfigError, match=r"no key trails in model; .*did you mean trials\?"):
        load_pipeline(load(tmp_path, "APEX_ORDERS__MODEL__TRAILS=1\n"))
    with pytest.raises(ConfigError, match=r"no section modle; .*did you mean model\?"):
        load_pipeline(load(tmp_path, "APEX_ORDERS__MODLE__TRIALS=1\n"))


def test_a_misspelt_variable_is_an_error_and_an_unknown_one_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("APEX_TEST_RAW", "APEX_SUPERVISED", "COMPOSE_PROJECT_NAME", "APEXLEGENDS"):
        monkeypatch.setenv(name, "x")
    assert load_pipeline(Settings.load(home=tmp_path)).options.model.trials == 0 and not caplog.records
    monkeypatch.setenv("APEX_ORACLE_WORKSPACE", "x")
    Settings.load(home=tmp_path)
    assert "APEX_ORACLE_WORKSPACE is not a setting of Apex and is not read" in caplog.text
    monkeypatch.setenv("APEX_ORDERS__TRIALS", "5")
    with pytest.raises(ConfigError, match=r"APEX_ORDERS__TRIALS is not a setting; did you mean APEX_ORDERS__MODEL__TR"):
        Settings.load(home=tmp_path)
    monkeypatch.delenv("APEX_ORDERS__TRIALS")
    monkeypatch.setenv("APEX_TRAILS", "5")
    with pytest.raises(ConfigError, match=r"APEX_TRAILS is not a setting; did you mean APEX_TRIALS\?.*\(environment\)"):
        Settings.load(home=tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("APEX_RETRAIN_SCHEDULE='0 25 * * *'", "out of range.*five fields"),
        ("APEX_MONITOR_SCHEDULE=daily", "1 fields.*five fields"),
        ("APEX_SWEEP_SCHEDULE='0 0 30 2 *'", "never comes"),
        ("APEX_HOST=http://127.0.0.1", "is no host"),
        ("APEX_SERVING_HOST=0.0.0.0:80", "is no host"),
        ("APEX_DATABASE_URL=mysql://a:geheim@b/c", "has no such scheme; expected postgresql://"),
        ("APEX_MLFLOW_TRACKING_URI=mlflow:5000", "expected http:// or https://"),
        ("APEX_AIRFLOW_PUBLIC_URL=http://host:99999", "is no URL"),
        ("APEX_SERVING_PUBLIC_URL=https://", "names no host"),
        ("APEX_DOCKER_HOST=/var/run/docker.sock", "expected unix://"),
        ("APEX_ALERT_WEBHOOK_URL=hooks.example.org/geheim", "expected http:// or https://"),
        ("APEX_ALERT_SMTP_URL=http://u:geheim@mail", "expected smtp:// or smtps://"),
        ("APEX_ALERT_MAIL_TO='ops@example.org; me@example.org'", "is no e-mail address.*commas"),
        ("APEX_ALERT_MAIL_FROM=apex", "is no e-mail address"),
        ("APEX_SERVING_KEYS=geheim", "entry 1 of 1 is no sha256"),
        ("APEX_AIRFLOW_FERNET_KEY=geheim", "is no Fernet key"),
        ("APEX_CANDIDATES=xgbost", "expected lightgbm, logistic, prior, xgboost"),
        ("APEX_APPROVAL_HOURS=inf", "finite"),
        ("APEX_TRIALS=many", r"APEX_TRIALS='many': must be a whole number \("),
        ("APEX_APPROVAL_HOURS=long", r"APEX_APPROVAL_HOURS='long': must be a number \("),
        ("APEX_SERVING=perhaps", r"APEX_SERVING='perhaps': must be true or false \("),
        ("APEX_STEP_TIMEOUT_MINUTES=99999999999", "less than or equal to"),
        ("APEX_MLFLOW_PORT=8080", "APEX_AIRFLOW_PORT=8080: is also APEX_MLFLOW_PORT"),
        ("APEX_QUALITY_WORSE_WEEKS=4", "is more than quality_window_weeks, 3"),
    ],
)
def test_each_setting_is_checked_by_its_type(tmp_path: Path, line: str, message: str) -> None:
    answer = refusal(tmp_path, f"{line}\n")
    assert line.partition("=")[0] in answer and re.search(message, answer)
    assert "geheim" not in answer


def test_all_faults_are_in_one_error(tmp_path: Path) -> None:
    message = refusal(tmp_path, "APEX_HOST=http://a\nAPEX_THREADS=many\nAPEX_SEEED=1\n")
    assert all(part in message for part in ("APEX_HOST", "line 1", "APEX_THREADS='many'", "APEX_SEED?"))
    message = refusal(tmp_path, "APEX_RETRAIN_SCHEDULE='0 25 * * *'\nAPEX_TRIALS=many\nAPEX_SEED=x\n")
    assert all(part in message for part in ("APEX_RETRAIN_SCHEDULE", "line 1", "APEX_TRIALS='many'", "APEX_SEED='x'"))


def test_a_line_that_cannot_be_understood_hides_no_other_fault(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("foo bar\nAPEX_TRAILS=5\nAPEX_RETRAIN_SCHEDULE='0 3\nAPEX_PG_PORT=0\n")
    with pytest.raises(ConfigError) as refused:
        Settings.load(home=tmp_path)
    for words in ("'foo' is no NAME=value", "is not closed", "did you mean APEX_TRIALS", "APEX_PG_PORT='0'"):
        assert words in str(refused.value)


@pytest.mark.parametrize(
    "expression",
    [
        "0 2 * * *", "*/15 * * * *", "@daily", "0 2 * * mon-fri", "0 2 1,15 * *", "0 2 L * *", "0 2 * * 1#1",
        "0 0 29 2 *", "0 2 * * 7", "0 25 * * *", "daily", "@once", "0 2 * *", "0 2 * * 8", "*/0 * * * *",
        "0 0 2 * * ?", "H 2 * * *", "0 0 30 2 *", "0 0 31 4,6 *", "61 * * * *", "0 2 * * funday", "", "0 2 * * */",
        "0,, 2 * * *",
    ],
)  # fmt: skip
def test_a_cron_is_accepted_if_airflow_can_use_it(expression: str) -> None:
    try:
        table = CronTriggerTimetable(expression, timezone="UTC")
        table.validate()
        croniter(expression, datetime(2026, 1, 1, tzinfo=UTC)).get_next()
        runs = True
    except Exception:  # any error of Airflow or its parser
        runs = False
    try:
        taken = bool(check_cron(expression))
    except ValueError:
        taken = False
    assert taken == runs


@pytest.mark.parametrize("expression", ["0 2 * * * *", "0 2 * * * * *", "R R * * *"])
def test_a_cron_that_comes_every_second_or_at_random_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="five fields"):
        check_cron(expression)


def test_every_candidate_can_be_named(tmp_path: Path) -> None:
    name = load(tmp_path, f"APEX_CANDIDATES={','.join(candidate_names())}\n")
    assert load_pipeline(name).options.model.candidates == tuple(candidate_names())


def test_a_relative_path_means_one_folder_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "caller").mkdir()
    monkeypatch.chdir(tmp_path / "caller")
    assert load_pipeline(load(tmp_path, "APEX_RAW_URL=my/raw\n")).locations.raw == str(tmp_path / "my" / "raw")
    monkeypatch.setenv("APEX_DROPS_URL", "drops")
    shutil.copy(CODE_ROOT / "pipelines" / "orders" / "pipeline.yaml", "mine.yaml")
    monkeypatch.setenv("APEX_CONTRACT", "mine.yaml")
    settings = Settings.load(home=tmp_path)
    assert load_pipeline(settings).locations.drops == str(tmp_path / "caller" / "drops")
    assert load_pipeline(settings).file == tmp_path / "caller" / "mine.yaml"
