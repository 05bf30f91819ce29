"""Score every drop in the inbox exactly once."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

from apex_airflow.assets import CHAMPION, SCORED, inbox
from apex_airflow.deadlines import deadline
from apex_airflow.operators.bad_drop import BadDropOperator
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_ml.settings import Settings

settings = Settings.load()

with DAG(
    dag_id="apex_score",
    description="drops in the inbox → predictions in Postgres",
    doc_md="""
### Scoring
Woken by a new file in the inbox, by a new champion, and by a sweep in case either was missed. `list_drops` asks the
ledger what is left to do; `score` then runs once a chunk of drops. A file whose content was scored before is not
scored again, whatever its name.

`report` announces that something was scored, which starts `apex_monitor`, and lists the drops that could not be scored.
`bad_drops` has a red task for each of them, with its name and the reason; the drop is in `quarantine/` beside a
`.reason.json`, or still in the inbox when its disk fails. When it is mended or its alert is closed (`apex alerts`),
clear `report` to make the run green.

Without a champion the drops wait, and are scored when there is one. Nothing to do: the tasks are skipped, the run is
a success. Results: `select * from apex.drop_summary`.
""",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(settings.sweep_schedule, timezone="UTC"), assets=inbox(settings) | CHAMPION
    ),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # a drop that comes before the first run is scored when there is a champion
    deadline=deadline(settings, "score_late", "apex_score", settings.drop_deadline_minutes),
    default_args={**step_defaults(settings), "pool": "apex_scoring"},
    tags=["apex", "scoring"],
) as dag:
    list_drops = StepOperator(
        task_id="list_drops",
        step="score",
        args=["--list"],
        returns="chunks",
        doc_md="Ask the ledger which drops of the inbox are not done and part them into chunks.",
    )
    score = StepOperator.partial(
        task_id="score",
        step="score",
        args=["--bad-later", "--drops={{ task.chunk.drops | tojson }}"],
        map_index_template="{{ task.chunk.label }}",
        doc_md="Score a chunk of drops with the champion: rows and ledger in one transaction for every drop.",
    ).expand(chunk=list_drops.output)
    report = StepOperator(
        task_id="report",
        step="score",
        args=["--report"],
        returns="bad",
        announces=SCORED,
        announces_if="scored",
        trigger_rule="all_done",
        doc_md="Announce what the run has scored, also when a chunk failed, and list its bad drops.",
    )
    bad_drops = BadDropOperator.partial(
        task_id="bad_drops",
        map_index_template="{{ task.bad.label }}",
        doc_md="One red task for each drop that could not be scored, with the reason. It stops nothing.",
    ).expand(bad=report.output)
    all_scored = EmptyOperator(
        task_id="all_scored",
        trigger_rule="none_failed",
        doc_md="Makes the run red when the drops could not be listed or a chunk failed, whatever `report` has to say.",
    )

    list_drops >> score >> report >> bad_drops
    list_drops >> report
    [list_drops, score] >> all_scored
