"""`apex try`: a night of a pipeline on a sample, with no service and no home."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from apex_ml.adapters.duckdb import engine
from apex_ml.contract.pipeline_file import load_contract
from apex_ml.pipelines import load_pipeline
from apex_ml.platform import trial_run
from apex_ml.platform.reports.trial_page import verdict
from apex_ml.platform.trial_run import TrialRun, sample_size, try_pipeline
from apex_ml.services.sample import sample_accepted
from apex_ml.settings import Settings
from tests.support.command_line import called, enter_bare_folder
from tests.support.html_page import Page, assert_fits_on_a_phone
from tests.support.stranger_tables import visits, write_table

NO_ROLES = ("--entity", "-", "--timestamp", "-", "--key", "-")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a home, a platform or a pipeline, and with its own folder of temporary files."""
    monkeypatch.setenv("APEX_THREADS", "1")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return enter_bare_folder(tmp_path, monkeypatch)


def make_pipeline(capsys: pytest.CaptureFixture[str], table: dict[str, Any], *roles: str) -> None:
    write_table(Path("visits", "1.parquet"), table)
    assert called(capsys, "init", "visits", "--from", "visits", "--target", "show", "--yes", *roles)[0] == 0


def tried(path: str, max_examples: int) -> TrialRun:
    settings = Settings.load().model_copy(update={"pipeline": "visits"})
    return try_pipeline(settings, load_pipeline(settings), Path(path), lambda checked: None, max_examples=max_examples)


def test_a_training_that_takes_too_long_ends_early(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pipeline(capsys, visits())
    monkeypatch.setattr(trial_run, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(trial_run, "DEVELOPMENT_SHARE", 1e-9)
    code, out, err = called(capsys, "try", "visits", "--minutes", "0.5")
    assert code == 0, err
    assert "The training ended early: the scores may be better with more time, by --minutes" in " ".join(out.split())
    assert "Apex (" in out


def test_a_night_is_shown_and_nothing_is_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pipeline(capsys, visits())
    table = visits()
    table["age group"][:5] = ["baby"] * 5
    write_table(here / "visits" / "1.parquet", table)
    code, out, err = called(capsys, "try", "visits")
    assert code == 0, err
    assert "2,995 accepted, 5 quarantined" in out and "age group: domain" in out and "'baby'" in out
    assert "Sample: all 2,995 accepted rows" in out and "Examples: 2,995, split temporal: train" in out
    lines = [line.split() for line in out.splitlines()]
    assert next(line for line in lines if line[:2] == ["age", "group"])[2] == "yes"
    assert next(line for line in lines if line[:1] == ["distance"])[1] == "no"
    for model in ("class prior", "logistic regression", "XGBoost with defaults", "Apex (xgboost_native)"):
        assert out.count(f"  {model} ") == 1, out
    assert list((here / "temporary").iterdir()) == [] and not (here / "home").exists()
    text = (here / "visits-try.html").read_text(encoding="utf-8")
    page = Page(text)
    shown = {text.strip() for text in page.texts}
    assert any(text.startswith("age group: domain") for text in shown)
    assert {"distance", "logistic regression", "Thresholds", "Calibration"} <= shown
    assert "script" not in page.tags and not re.search(r"url\(|@import|https?:", text)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "Page with plots: visits-try.html" in out
    assert_fits_on_a_phone(here / "visits-try.html")


def test_names_and_values_are_escaped_and_more_than_two_classes_have_no_thresholds(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = visits(900)
    table["show"] = [("<b>no</b>", "<i>yes", "perhaps & more")[nr % 3] for nr in range(900)]
    table["<script>alert(1)</script>"] = [nr % 3 * 2 + nr % 7 for nr in range(900)]
    make_pipeline(capsys, table, *NO_ROLES)
    code, out, err = called(capsys, "try", "visits", "--out", "deep.html")
    assert code == 0, err
    page = Page((here / "deep.html").read_text(encoding="utf-8"))
    shown = {text.strip() for text in page.texts}
    assert {"<b>no</b>", "<i>yes", "perhaps & more", "<script>alert(1)</script>"} <= shown
    assert "script" not in page.tags and "thresholds" not in page.ids and not (here / "visits-try.html").exists()


def test_the_verdict_says_what_the_scores_mean(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pipeline(capsys, visits())
    run = tried("visits", 50_000)
    prior, logistic, plain, own = run.compared
    first, second, *rest = verdict(run)
    assert f"{own.accuracy:.1%}" in first and f"{prior.accuracy:.1%}" in first
    assert f"{1 - own.log_loss / prior.log_loss:.1%} below" in second
    assert own.auc == pytest.approx(run.development.metrics["test_auc"]) and prior.auc == 0.5
    for model, sentence in zip((logistic, plain), rest, strict=True):
        assert model.gain is not None and model.way in sentence
        assert ("better than" in sentence) == (model.gain[1] > 0)


def test_the_scores_are_those_of_the_test_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = visits()
    make_pipeline(capsys, table)
    run = tried("visits", 50_000)
    prior, logistic, plain, own = run.compared
    first = run.parts.parts["test"].first
    outcomes = [(day >= first, show) for day, show in zip(table["day"], table["show"], strict=True)]
    known = Counter(show for is_test, show in outcomes if not is_test)
    shares = {show: n / sum(known.values()) for show, n in known.items()}
    test = [show for is_test, show in outcomes if is_test]
    assert run.parts.parts["test"].examples == len(test)
    assert prior.log_loss == pytest.approx(-sum(math.log(shares[show]) for show in test) / len(test), abs=1e-6)
    likely = max(shares, key=lambda show: shares[show])
    assert prior.accuracy == pytest.approx(test.count(likely) / len(test))
    for model in (prior, logistic, plain):
        assert model.gain is not None
        gain, low, high = model.gain
        assert gain == pytest.approx(model.log_loss - own.log_loss, abs=1e-6) and low < gain < high
    # the best possible model knows the three chances, 0.2, 0.5 and 0.8
    best = -(2 * (0.2 * math.log(0.2) + 0.8 * math.log(0.8)) + math.log(0.5)) / 3
    assert own.log_loss == pytest.approx(best, abs=0.04) and own.log_loss < prior.log_loss - 0.05


def test_a_table_without_entity_and_timestamp(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pipeline(capsys, visits(2000), *NO_ROLES)
    run = tried("visits", 1500)
    # two visits are equal in the columns of the contract: one is quarantined
    assert run.sample.of_rows == 1999 and run.sample.rows == run.examples.examples == 1500
    assert run.parts.strategy == "random" and sum(part.examples for part in run.parts.parts.values()) == 1500
    assert {v.name for v in run.development.verdicts if v.kept} == {"age group"}
    assert run.compared == tried("visits", 1500).compared
    code, out, _ = called(capsys, "try", "visits", "--from", "visits/1.parquet")
    assert code == 0 and "Sample: all 1,999 accepted rows" in out and "split random" in out


def test_a_sample_holds_whole_entities(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = visits(1000)
    make_pipeline(capsys, table)
    contract = load_contract(here / "pipelines" / "visits" / "pipeline.yaml")
    for few, folder in ((False, "many"), (True, "few")):
        patients = [f"P{n % 2}" for n in range(1000)] if few else table["patient"]
        files = [
            write_table(
                here / folder / f"part-{k}.parquet",
                {name: (patients if name == "patient" else values)[k::2] for name, values in table.items()},
            )
            for k in range(2)
        ]
        with engine.connect(Settings.load()) as con:
            sample = sample_accepted(con, contract, here / folder, 300, seed=1)
        left = Counter(name for file in files for name in pq.read_table(file).column("patient").to_pylist())
        assert sample.of_rows == 1000 and sample.rows == sum(left.values()) and 200 < sample.rows <= 300
        assert sample.splits_entities == few
        if not few:
            whole = Counter(patients)
            assert sample.entities == len(left) and all(whole[name] == n for name, n in left.items())


def test_many_classes_get_a_smaller_sample() -> None:
    assert [sample_size(classes) for classes in (2, 6, 10, 30, 50)] == [50_000, 50_000, 30_000, 10_000, 10_000]


def test_data_that_a_run_would_refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pipeline(capsys, visits(400))
    bad = visits(400)
    bad["age group"][:30] = ["baby"] * 30
    write_table(here / "bad.parquet", bad)
    code, out, err = called(capsys, "try", "visits", "--from", "bad.parquet")
    assert code == 10 and "visits: a run would refuse this data" in err and "age group: domain" in out
    assert "Sample" not in out and list((here / "temporary").iterdir()) == []
    alone = visits(400) | {"day": [date(2024, 1, 1) + timedelta(days=n % 2) for n in range(400)]}
    write_table(here / "alone.parquet", alone)
    code, _, err = called(capsys, "try", "visits", "--from", "alone.parquet")
    assert code == 10 and "needs examples of at least 3 days" in err and "Traceback" not in err


def test_no_library_of_the_platform_is_loaded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pipeline(capsys, visits(600))
    code = (
        "import sys\nfrom apex_ml.cli.main import main\n"
        "try:\n    main(['try', 'visits'])\nexcept SystemExit as left:\n    assert not left.code\n"
        "print({'mlflow', 'sqlalchemy', 'psycopg2', 'great_expectations', 'airflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stdout + done.stderr
