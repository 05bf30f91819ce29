"""A public table as a stranger starts with it: `apex init`, then `apex run`, on a platform that is up."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from apex_ml.settings import Settings
from benchmarks.public_tables import TABLES, PublicTable
from benchmarks.registry import Beside, Row, measurement
from benchmarks.scene import APEX, CommandError, Ended, Scene, clean_environment, destroy, run_measured
from tests.support.throwaway_home import free_ports, open_folder

NAMES = ("flights", "brands", "tumours", "digits", "affairs")
"""With and without dates and entities; the first two need the archives that `make bench-quality` gets."""
TEN_MINUTES = 600.0


@measurement
def any_table(scene: Scene) -> Iterator[Row]:
    """Public tables, each by two commands: a promoted model, and the rows of a drop scored in Postgres."""
    tables = [table for table in TABLES if table.name in NAMES and table.is_here]
    with open_folder() as folder:
        ports = dict(zip(("pg_port", "mlflow_port", "airflow_port", "serving_port"), free_ports(4), strict=True))
        settings = Settings.load(home=folder / "home", pipelines=folder / "pipelines", **ports)
        env = clean_environment(**{f"APEX_{name.upper()}": str(port) for name, port in ports.items()})
        env |= {"APEX_HOME": str(settings.home), "APEX_PIPELINES": str(settings.pipelines), "APEX_PIPELINE": ""}
        try:
            for table in tables:
                yield _from_file_to_scores(table, folder, settings, env)
        finally:
            destroy(settings, folder)


def _from_file_to_scores(table: PublicTable, folder: Path, settings: Settings, env: dict[str, str]) -> Row:
    rows = table.read()
    delivered = folder / f"{table.name}.parquet"
    rows.to_parquet(delivered, index=False)
    created = _apex(env, "init", table.name, "--from", str(delivered), *table.roles(), "--yes")
    raw = settings.home / "data" / table.name / "raw"
    raw.mkdir(parents=True)
    delivered.rename(raw / delivered.name)
    run = _apex(env, "-p", table.name, "run")
    scores = _apex(env, "sql", "-c", _SCORED.format(table.name), "--csv").output
    (scored,) = csv.DictReader(scores.splitlines())
    if not int(scored["rows"]) or not int(scored["version"]):
        raise CommandError(f"{table.name}: no row was scored:\n{run.output[-1500:]}")
    note = f"{len(rows):,} rows, a drop of {int(scored['rows']):,} scored by version {scored['version']}; 2 commands"
    beside = Beside("of it apex init", created.seconds)
    return Row(
        f"{table.name}: from the file to scored rows", created.seconds + run.seconds, "s", TEN_MINUTES, beside, note
    )


_SCORED = "SELECT count(*) AS rows, coalesce(max(model_version), 0) AS version FROM {}.scored_current"


def _apex(env: dict[str, str], *arguments: str) -> Ended:
    return run_measured([*APEX, *arguments], env)
