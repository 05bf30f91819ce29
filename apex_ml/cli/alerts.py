"""The command `apex alerts`: list the open alerts, and close one manually."""

from __future__ import annotations

import getpass

import click

from apex_ml.cli.named_pipeline import named_pipeline
from apex_ml.errors import ConfigError
from apex_ml.settings import Settings
from apex_ml.text import one_line, visible


@click.group(invoke_without_command=True)
@click.pass_context
def alerts(context: click.Context) -> None:
    """List the open alerts of every pipeline, or with `apex -p NAME alerts` of one, the newest first.

    Numbers are a pipeline's own: with several pipelines, each line names the pipeline, and `close` needs -p NAME.

    Example: apex alerts close 12 --reason "delivered again under another name"
    """
    if context.invoked_subcommand is not None:
        return
    from apex_ml.adapters.alerts import notify
    from apex_ml.adapters.postgres.alerts import PostgresAlerts
    from apex_ml.adapters.postgres.connection import transaction
    from apex_ml.pipeline_settings import load_pipeline_settings, pipeline_file, settings_by_pipeline

    settings = Settings.load()
    channels = notify.channels(settings)
    by_pipeline = settings_by_pipeline(settings)
    if not by_pipeline or named_pipeline(context):  # a default hides no alert
        by_pipeline = {pipeline_file(settings)[0]: settings}  # an error when there is none
    count, faults = 0, []
    for name, own in by_pipeline.items():
        owner = f"{name}  " if len(by_pipeline) > 1 else ""
        try:
            with transaction(own, load_pipeline_settings(own).schema) as session:
                alerts_open = PostgresAlerts(session).list_open()
        except ConfigError as error:  # of one pipeline: the alerts of the others are listed anyway
            faults.append(f"{owner}{error}")
            continue
        count += len(alerts_open)
        for row in alerts_open:
            times = f"raised {row.raised_at:%F %H:%M} UTC, last seen {row.last_seen_at:%F %H:%M} UTC"
            if missing := [channel for channel in channels if channel not in row.channels]:
                times += f", not sent by {' and '.join(missing)} yet"
            line = f"{owner}{row.alert_id}  {row.kind}  {visible(row.subject)}  ({times})"
            click.echo(f"{line}\n    {one_line(row.message)}")
    if faults:
        raise ConfigError("; ".join(faults))
    if not count:
        click.echo("No alert is open.")


@alerts.command()
@click.argument("alert_id", metavar="ID", type=click.IntRange(min=1))
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept in the view alert_history.")
@click.option("--who", metavar="NAME", help="Recorded as the one who closed it. Default: the OS user.")
def close(alert_id: int, reason: str, who: str | None) -> None:
    """Close the alert with the number ID, such as an alert about a drop that will not be delivered again.

    It stays closed unless the same drop fails again. An alert that monitoring measures (drift, quality, a drop that
    waits) ends by itself and cannot be closed.
    """
    from apex_ml.pipelines import load_pipeline
    from apex_ml.steps.alerts import close_alert

    settings = Settings.load()
    closed = close_alert(
        settings, load_pipeline(settings).schema, alert_id, who=who or getpass.getuser(), reason=reason
    )
    click.echo(f"Closed alert {closed.alert_id}: {closed.kind}, {closed.subject}")
