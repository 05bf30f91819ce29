"""The page about tables: its commands run, and its sections score the appends to tables, in a folder and on S3."""

from __future__ import annotations

import json
import re
import shlex
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import write_deltalake

from apex_airflow.assets import inbox
from apex_ml.cli.main import main
from apex_ml.contract.model import Contract
from apex_ml.contract.options import PipelineOptions
from apex_ml.pipelines import load_pipeline
from apex_ml.settings import CODE_ROOT, Settings
from apex_ml.simulate.drop import make_drop
from tests.support import watching
from tests.support.apex_home import Apex
from tests.support.iceberg_tables import new_catalog, new_table, place_of
from tests.support.object_servers import ObjectServer
from tests.support.stranger_tables import visits

PAGE = (CODE_ROOT / "docs" / "how-to" / "tables.md").read_text(encoding="utf-8")
DROPS, FIRST = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("place", ["folder", "moto"])
def test_the_commands_do_what_the_page_says(
    place: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    server: ObjectServer | None = None if place == "folder" else request.getfixturevalue(place)
    rows = pa.table(visits(2000))
    stays = place_of(new_table(new_catalog(tmp_path, server), "stays", rows))
    lake, options = tmp_path / "lake" / "visits", {}
    table = str(lake)
    if server is not None:
        table, options = f"s3://{server.bucket}/{tmp_path.name}/visits", server.environment | {"AWS_ALLOW_HTTP": "true"}
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
    for mode in ("overwrite", "append"):
        write_deltalake(table, rows.slice(1000 * (mode == "append"), 1000), mode=mode, storage_options=options)
    monkeypatch.setenv("APEX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
    for command in COMMANDS:
        words = [{"lake/visits": table, "lake/stays": stays}.get(word, word) for word in shlex.split(command)]
        assert words[0] == "apex"
        with pytest.raises(SystemExit) as left:
            main(words[1:])
        output = capsys.readouterr()
        assert left.value.code == 0, (command, output)
        assert words[1] != "check" or "2,000" in output.out, output.out
    for name, location in (("visits", table), ("stays", stays)):
        pipeline = load_pipeline(Settings.load().model_copy(update={"pipeline": name}))
        assert pipeline.locations.raw == location


@pytest.mark.parametrize("sections", [DROPS, FIRST])
def test_the_sections_can_be_read(sections: dict[str, Any]) -> None:
    PipelineOptions.model_validate(sections)


@pytest.mark.parametrize("place", ["folder", "moto", "rclone"])
def test_the_appends_of_the_page_are_noticed_and_scored(
    place: str,
    scoring: Apex,
    raw: Path,
    contract: Contract,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    url, options = str(tmp_path / "lake" / "visits_to_score"), {}
    if place != "folder":
        server: ObjectServer = request.getfixturevalue(place)
        url = f"s3://{server.bucket}/{tmp_path.name}/visits_to_score"
        options = {**server.environment, "AWS_ALLOW_HTTP": "true", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
    own = yaml.safe_load(load_pipeline(Settings.load()).file.read_text())
    own |= json.loads(json.dumps(DROPS).replace("s3://lake/visits_to_score", url))
    own["scoring"]["poll_seconds"] = 0.2
    file = tmp_path / "pipelines" / "orders" / "pipeline.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(own, sort_keys=False))
    apex = scoring.but(pipelines=tmp_path / "pipelines", pipeline="orders", drops_url=url)
    make_drop(str(raw), date(2024, 8, 24), 200, 1, tmp_path / "a.parquet", contract)
    rows = pq.read_table(tmp_path / "a.parquet")

    def append() -> None:
        write_deltalake(url, rows, mode="append", storage_options=options)

    append()
    assert apex.call("score").code == 0  # nothing waits: the first look
    monkeypatch.setenv("APEX_PIPELINES", str(tmp_path / "pipelines"))
    (watcher,) = inbox(load_pipeline(Settings.load(pipeline="orders"))).watchers
    trigger: Any = watcher.trigger
    first, second = watching.watch(trigger, 2.0, lambda: None, append)
    assert first == [f"{0:020d}.json"] and second == [f"{1:020d}.json"]
    done = apex.call("score")
    assert done.code == 0, done.err
    assert apex.sql("SELECT name, state FROM orders.drops") == [("visits_to_score-v000001.parquet", "done")]
