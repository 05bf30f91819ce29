"""`apex contract …`: build and check what is generated from the contract."""

from __future__ import annotations

import click

from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.contract.pipeline_file import json_schema
from apex_ml.pipelines import load_pipeline, load_pipelines
from apex_ml.settings import Settings

SCHEMA_FILE = "pipeline.schema.json"


@click.group()
def contract() -> None:
    """Build and check what is generated from the contract."""


@contract.command()
def build() -> None:
    """Write the JSON Schema of pipeline files, and great_expectations/ for all pipelines of the checkout.

    The suites of pipelines elsewhere (APEX_PIPELINES, APEX_CONTRACT) are made when a step needs them.
    """
    from apex_ml.adapters.expectations.project import OWN_PIPELINES, build_project

    settings = Settings.load()
    schema = settings.pipelines / SCHEMA_FILE
    pipelines = load_pipelines(settings)
    write_atomically(schema, json_schema().encode())
    click.echo(schema)
    if all(pipeline.file.resolve().is_relative_to(OWN_PIPELINES) for pipeline in pipelines):
        for path in build_project([pipeline.contract for pipeline in pipelines]):
            click.echo(path)


@contract.command()
def show() -> None:
    """Print the columns of the contract."""
    loaded = load_pipeline(Settings.load()).contract
    for column in loaded.columns.values():
        domain = f" {{{', '.join(column.domain.shown)}}}" if column.domain else ""
        derive = f" = {column.derive}" if column.derive else ""
        click.echo(f"{column.name:28} {column.type:9} {column.role:11}{derive}{domain}")
