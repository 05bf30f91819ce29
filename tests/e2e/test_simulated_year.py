"""A short simulated year, by its command: calm weeks, a drift that is found, a retraining that is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from apex_ml.cli.simulated_year import year
from apex_ml.errors import ConfigError
from apex_ml.platform.embedded import stop
from apex_ml.platform.simulated_year import Plan, Week, summary
from apex_ml.settings import CODE_ROOT, Settings
from tests.support.throwaway_home import open_folder


def test_a_drift_is_detected_and_triggers_a_retraining() -> None:
    with open_folder() as folder:
        home = folder / "year"
        command = [sys.executable, "-c", "from apex_ml.cli.main import main; main()", "simulate", "year", "--fast"]
        command += ["--weeks", "5", "--drift-week", "3", "--home", str(home)]
        try:
            done = subprocess.run(command, cwd=CODE_ROOT, capture_output=True, text=True, timeout=280, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            content = json.loads((home / "year.json").read_text())
            assert content["false_alarms"] == 0, content["weeks"]
            assert (content["weeks_until_drift_found"], content["weeks_until_degradation_found"]) == (0, 1)
            assert [week["retrained"] for week in content["weeks"]] == ["", "", "", "degraded", ""]
            assert "week  3" in done.stdout and "drift:" in done.stdout
        finally:
            stop.destroy(Settings.load(home=home))


def test_the_summary_of_a_year() -> None:
    weeks = [Week(n, f"day {n}", 1 if n < 5 else 2, 1.0) for n in range(1, 8)]
    weeks[0].alerts = ["a"]
    weeks[2].alerts, weeks[3].alerts, weeks[3].retrained, weeks[3].promoted = ["a"], ["version 1"], "degraded", 2
    weeks[3].worse = weeks[4].worse = True
    weeks[1].drifted = weeks[3].drifted = weeks[5].drifted = ["a"]
    result = summary(Plan(weeks=7, drift_week=3), weeks).to_json()
    assert result["false_alarms"] == 1
    assert [
        result[f"weeks_until_{what}"] for what in ("drift_found", "degradation_found", "promotion", "recovered")
    ] == [
        0,
        1,
        1,
        3,
    ]
    assert (result["trainings"], result["trainings_without_promotion"]) == (1, 0)
    assert result["drifted_weeks_after_promotion"] == 1


def test_a_year_that_is_not_over_today_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--start 2020-01-06: the year would end on 2\d{3}-"):
        Plan(start=date(2020, 1, 6), weeks=52 * 200)


@pytest.mark.parametrize(("weeks", "drift_week"), [(52, 20), (40, 20), (14, 8), (2, 2)])
def test_the_drift_comes_half_way_in_a_short_year(monkeypatch: pytest.MonkeyPatch, weeks: int, drift_week: int) -> None:
    plans: list[Plan] = []

    def stop_at_the_plan(home: Path, plan: Plan, say: object) -> None:
        plans.append(plan)
        raise ConfigError("enough")

    monkeypatch.setattr("apex_ml.platform.simulated_year.simulate_year", stop_at_the_plan)
    assert isinstance(CliRunner().invoke(year, ["--weeks", str(weeks)]).exception, ConfigError)
    assert [plan.drift_week for plan in plans] == [drift_week]
