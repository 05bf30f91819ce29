"""`apex container …`: the entry points of the images in the compose file; not for users."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from apex_ml.settings import Settings


@click.group()
def container() -> None:
    """Inside the images: entry points of the services in the compose file."""


@container.command()
@click.option("--complete", is_flag=True, help="Read an .env from stdin and print it with every secret that it lacks.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="The .env.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder with a volume for each kind of service.")
def secrets(complete: bool, source: Path | None, target: Path | None) -> None:
    """Split the secrets of .env by service."""
    from apex_ml.env_syntax import decode_env
    from apex_ml.platform.containers import prepare as containers
    from apex_ml.platform.embedded.env_file import completed

    if complete:
        click.echo(completed(decode_env(sys.stdin.buffer.read(), ".env")), nl=False)
        return
    assert source and target
    containers.part_secrets(Settings.load(env_file=source), target)


@container.command()
def digests() -> None:
    """Read an .env from stdin; print lines APEX_DIGEST_<KIND>=…, which change with the settings of the service."""
    from apex_ml.platform.containers import prepare as containers

    with tempfile.NamedTemporaryFile(suffix=".env") as file:
        file.write(sys.stdin.buffer.read())
        file.flush()
        digests = containers.digests(Settings.load(env_file=file.name))
    for kind, digest in digests.items():
        click.echo(f"APEX_DIGEST_{kind.upper()}={digest}")


@container.command()
def prepare() -> None:
    """Apex's tables and folders."""
    from apex_ml.faults import arm
    from apex_ml.platform.containers.prepare import prepare_apex

    settings = Settings.load()
    arm(settings.fault)
    prepare_apex(settings)


@container.command("prepare-airflow")
def prepare_airflow() -> None:
    """Airflow's tables, pools and users."""
    from apex_ml.platform.containers import prepare as containers

    containers.prepare_airflow(Settings.load())


@container.command()
def repair() -> None:
    """Restore the pools and DAGs of the running platform."""
    from apex_ml.platform.embedded.progress import Phases
    from apex_ml.platform.embedded.start import repair_airflow

    repair_airflow(Settings.load(), Phases())


@container.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def airflow(arguments: tuple[str, ...]) -> None:
    """An `airflow` command with the platform's configuration."""
    from apex_ml.platform.containers.prepare import become_airflow

    become_airflow(Settings.load(), list(arguments))


@container.command()
def mlflow() -> None:
    """MLflow's server."""
    from apex_ml.platform.containers.prepare import become_mlflow

    become_mlflow(Settings.load())
