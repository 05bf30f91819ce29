"""`apex simulate`: realistic files, written atomically, and clear refusals."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from apex_ml.adapters.storage.simulated_truth import find_truth, identity, read_truth
from apex_ml.cli.main import main
from apex_ml.cli.simulate import simulate
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError
from apex_ml.settings import Settings
from apex_ml.simulate.files import part_files, staged_folder
from apex_ml.simulate.generate import simulate_orders
from apex_ml.simulate.log_loss import class_codes, log_loss, truth_matrix
from apex_ml.simulate.posterior import posterior_predictive
from apex_ml.simulate.process import Process
from apex_ml.simulate.quirks.catalog import QUIRKS

SMALL = ["--orders", "2000", "--clients", "300", "--files", "3"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(simulate, arguments, catch_exceptions=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_files_are_like_the_real_ones(tmp_path: Path, process: Process) -> None:
    out = tmp_path / "raw"
    result = run("--out", str(out), *SMALL)
    assert result.exit_code == 0
    files = part_files(out)
    assert [re.sub(r"-[0-9a-f]{12}\.", "-*.", path.name) for path in files] == [
        f"part-0000{number}-*.snappy.parquet" for number in range(3)
    ]
    assert (out / "_SUCCESS").read_bytes() == b""
    physical = {"string": "BYTE_ARRAY", "date": "INT96", "double": "DOUBLE", "int64": "INT64"}
    for path in files:
        file = pq.ParquetFile(path)
        assert [file.schema.column(place).physical_type for place in range(len(file.schema))] == [
            physical[kind] for kind in process.types.values()
        ]
        assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
        assert file.metadata.metadata is None or b"ARROW:schema" not in file.metadata.metadata
        assert str(tmp_path).encode() not in path.read_bytes()
        days = file.read([process.timestamp]).column(0).to_numpy()
        assert np.ptp(days) > np.timedelta64(550, "D")  # a file is no slice of time
    tables = [pq.read_table(path) for path in files]
    assert sum(table.num_rows for table in tables) == 2_000
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_the_command_reports_the_files(tmp_path: Path) -> None:
    result = run("--out", str(tmp_path / "raw"), *SMALL)
    assert "2,000 orders of 3" in result.stdout
    assert "DIGITAL 0.4" in result.stdout
    assert "Bayes log loss: 0.9" in result.stdout
    assert "2,000 orders drawn in" in result.stderr


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(
            "--out",
            str(tmp_path / name),
            *SMALL,
            "--seed",
            seed,
            "--mode",
            "signal",
            "--quirk",
            "nulls",
            "--quirk",
            "case:one",
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_the_truth_belongs_to_the_orders(tmp_path: Path, process: Process) -> None:
    truth = tmp_path / "deep" / "truth.parquet"
    run("--out", str(tmp_path / "raw"), *SMALL, "--mode", "signal", "--set", "persistence=2", "--truth", str(truth))
    matrix = truth_matrix(pq.read_table(truth))
    orders = pq.read_table(tmp_path / "raw")
    assert orders.num_rows == len(matrix)
    codes = class_codes(orders, process)
    shuffled = np.random.default_rng(0).permutation(codes)
    assert log_loss(matrix, codes) < log_loss(matrix, shuffled) - 0.2


def test_the_truth_beside_the_folder_holds_the_optimum_and_names_its_data(
    tmp_path: Path, process: Process, contract: Contract
) -> None:
    raw = tmp_path / "raw"
    run("--out", str(raw), *SMALL, "--mode", "signal", "--seed", "3", "--truth", "--quirk", "nulls:one")
    files = part_files(raw)
    path = find_truth(raw, identity(files))
    assert path == tmp_path / "raw.truth.parquet"
    orders, expected = simulate_orders(process, orders=2_000, clients=300, seed=3, mode="signal", probabilities=True)
    requested = pa.table(
        {
            process.entity: orders[process.entity].cast(pa.string()),
            process.timestamp: orders[process.timestamp].cast(pa.timestamp("s")).cast(pa.date32()),
        }
    )
    some = requested.take(pa.array([1_500, 3, 700]))
    settings = read_truth(Settings.load(home=tmp_path / "home"), contract, path, some)
    assert settings is not None
    assert contract.classes == tuple(process.classes)
    np.testing.assert_allclose(settings.true, truth_matrix(expected)[[1_500, 3, 700]])
    best = posterior_predictive(process, orders, mode="signal")
    np.testing.assert_allclose(settings.optimum, best[[1_500, 3, 700]], atol=1e-12)
    strangers = some.set_column(0, process.entity, pa.array(["C999999"] * 3))
    missing = read_truth(Settings.load(home=tmp_path / "home"), contract, path, strangers)
    assert missing is not None and np.isnan(missing.optimum).all()
    files[0].write_bytes(files[1].read_bytes())
    assert find_truth(raw, identity(part_files(raw))) is None


def test_quirks_are_applied_in_order(tmp_path: Path, process: Process) -> None:
    result = run("--out", str(tmp_path / "raw"), *SMALL, "--quirk", "new_channel:one", "--quirk", "truncated_file:one")
    assert "new_channel at one: 1 file changed" in result.stderr
    files = part_files(tmp_path / "raw")
    assert sum(path.read_bytes()[-4:] != b"PAR1" for path in files) == 1


def test_the_list_of_quirks() -> None:
    lines = run("--list-quirks").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(QUIRKS)


def test_the_default_folder_is_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    run(*SMALL)
    assert len(part_files(tmp_path / "data" / "orders" / "raw")) == 3


def test_overwrite_replaces_part_files_only(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    out.mkdir()
    (out / ".gitkeep").write_text("kept")
    run("--out", str(out), *SMALL)  # a folder of hidden files counts as empty
    first = contents(out)
    with pytest.raises(ConfigError, match=r"not empty.*--overwrite"):
        run("--out", str(out), *SMALL)
    run("--out", str(out), *SMALL, "--seed", "9", "--overwrite")
    assert len(part_files(out)) == 3
    assert not set(contents(out)) & {name for name in first if name.startswith("part")}
    assert (out / ".gitkeep").read_text() == "kept"
    (out / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"letter\.txt"):
        run("--out", str(out), *SMALL, "--overwrite")
    assert (out / "letter.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_failure_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    run("--out", str(out), *SMALL)
    before = contents(out)
    with pytest.raises(RuntimeError), staged_folder(out, overwrite=True) as stage:
        (stage / "part-00000.parquet").write_bytes(b"half")
        raise RuntimeError
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "nothing"], "mode 'nothing'.*base, signal"),
        (["--quirk", "rust"], "quirk 'rust': unknown"),
        (["--quirk", "nulls:2"], "at most 1"),
        (["--set", "persistence=much"], "persistence"),
        (["--files", "0"], "--files 0"),
        (["--orders", "2", "--files", "3"], "--files 3"),
        (["--orders", "0", "--files", "1"], "--orders 0: must be 1 or more"),
        (["--orders", "-5", "--files", "8"], "--orders -5: must be 1 or more"),
        (["--start", "2024-02-01", "--end", "2024-01-01"], "before it starts"),
        (["--process", "nowhere.yaml"], "nowhere.yaml"),
        (["--out", "s3://bucket/raw"], "s3://"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], message: str) -> None:
    out = tmp_path / "raw"
    with pytest.raises(ConfigError, match=message):
        run("--out", str(out), *SMALL, *arguments)
    assert not list(tmp_path.iterdir())


def test_contradictory_options_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        run("--out", str(tmp_path / "file"), *SMALL)
    with pytest.raises(ConfigError, match="--truth"):
        run("--out", str(tmp_path / "raw"), *SMALL, "--truth", str(tmp_path / "raw" / "truth.parquet"))


def test_the_exit_code_of_apex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["simulate", "--out", str(tmp_path / "raw"), "--mode", "nothing"])
    assert caught.value.code == 30
    assert "ConfigError: mode 'nothing'" in capsys.readouterr().err


def test_a_fifth_of_the_full_size_takes_a_fifth_of_the_time(tmp_path: Path) -> None:
    began = time.perf_counter()
    run("--out", str(tmp_path / "raw"), "--orders", "250000")
    assert time.perf_counter() - began < 2


def test_the_folder_holds_what_the_function_gives(tmp_path: Path, process: Process) -> None:
    run("--out", str(tmp_path / "raw"), *SMALL, "--seed", "4")
    table = simulate_orders(process, orders=2_000, clients=300, seed=4)
    assert pq.read_table(tmp_path / "raw").to_pylist() == table.to_pylist()
