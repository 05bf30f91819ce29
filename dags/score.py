"""Score every drop in the inbox exactly once."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

from apex_airflow.assets import champion, inbox, scored
from apex_airflow.deadlines import deadline
from apex_airflow.operators.bad_drop import BadDropOperator
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_airflow.pipelines import readable_pipelines
from apex_airflow.priorities import EARLY_CHUNKS_FIRST
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.settings import Settings

settings = Settings.load()

ABOUT = """
### Scoring
Triggered by a new file in the inbox, by a new champion, and by a periodic sweep in case an event was missed.
`list_drops` lists the drops that the ledger does not have as done. `score` then runs once for each chunk of drops. A
file whose content was scored before is not scored again, even under another name.

`report` emits an event that starts `<pipeline>_monitor` when something was scored, and lists the drops that could not
be scored. `bad_drops` has a failed task for each of them, with its name and the reason. Such a drop is in
`quarantine/` beside a `.reason.json`, or still in the inbox when its disk fails. After you fix the drop or close its
alert (`apex alerts`), clear `report` to make the run green.

Without a champion the drops wait until there is one. When there is nothing to do, the tasks are skipped and the run
succeeds. Results: `select * from <pipeline>.drop_summary`.
"""


def build(pipeline: PipelineSettings) -> DAG:
    """Return the DAG that scores the drops of a pipeline."""
    options = pipeline.options
    with DAG(
        dag_id=pipeline.dag_id("score"),
        description="drops in the inbox → predictions in Postgres",
        doc_md=ABOUT.replace("<pipeline>", pipeline.name),
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable(options.schedule.sweep, timezone="UTC"),
            assets=inbox(pipeline) | champion(pipeline),
        ),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,  # a drop that arrives before the first run waits for a champion only
        deadline=deadline(pipeline, "score", options.scoring.deadline_minutes),
        default_args={**step_defaults(settings, pipeline), "pool": "apex_scoring", "weight_rule": EARLY_CHUNKS_FIRST},
        tags=["apex", pipeline.name, "scoring"],
    ) as dag:
        add_tasks(pipeline)
    return dag


def add_tasks(pipeline: PipelineSettings) -> None:
    """Add the tasks that score the drops and report the bad ones."""
    list_drops = StepOperator(
        task_id="list_drops",
        step="score",
        args=["--list"],
        returns="chunks",
        doc_md="List the drops in the inbox that the ledger does not have as done, in chunks.",
    )
    score = StepOperator.partial(
        task_id="score",
        step="score",
        args=["--bad-later", "--drops={{ task.chunk.drops | tojson }}"],
        map_index_template="{{ task.chunk.label }}",
        doc_md="Score a chunk of drops with the champion. A drop is one transaction: rows and ledger entry.",
    ).expand(chunk=list_drops.output)
    report = StepOperator(
        task_id="report",
        step="score",
        args=["--report"],
        returns="bad",
        emits=scored(pipeline),
        emits_if="scored",
        trigger_rule="all_done",
        doc_md="Emit the event of what the run has scored, also when a chunk failed, and list its bad drops.",
    )
    bad_drops = BadDropOperator.partial(
        task_id="bad_drops",
        map_index_template="{{ task.bad.label }}",
        doc_md="A failed task for each drop that could not be scored, with the reason. It stops no other task.",
    ).expand(bad=report.output)
    all_scored = EmptyOperator(
        task_id="all_scored",
        trigger_rule="none_failed",
        doc_md="Fails the run when `list_drops` or a chunk failed, independent of the state of `report`.",
    )

    list_drops >> score >> report >> bad_drops
    list_drops >> report
    [list_drops, score] >> all_scored


for each in readable_pipelines(settings):
    build(each)
