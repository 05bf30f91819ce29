"""Score every drop in the inbox exactly once."""

from __future__ import annotations

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable

from apex_airflow.assets import CHAMPION, SCORED, inbox
from apex_airflow.deadlines import deadline
from apex_airflow.step_operator import StepOperator, step_defaults
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

Without a champion the drops wait, and are scored when there is one. Nothing to do: both tasks are skipped, the run is
a success. Results: `select * from apex.drop_summary`.
""",
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(settings.sweep_schedule, timezone="UTC"), assets=inbox(settings) | CHAMPION
    ),
    catchup=False,
    max_active_runs=1,
    deadline=deadline(settings, "score_late", "apex_score", settings.drop_deadline_minutes),
    default_args={**step_defaults(settings), "pool": "apex_scoring"},
    tags=["apex", "scoring"],
) as dag:
    list_drops = StepOperator(
        task_id="list_drops",
        step="score",
        args=["--list"],
        with_run=False,
        returns="chunks",
        doc_md="Ask the ledger which drops of the inbox are not done and part them into chunks.",
    )
    score = StepOperator.partial(
        task_id="score",
        step="score",
        args=["--drops={{ task.chunk.drops | tojson }}"],
        map_index_template="{{ task.chunk.label }}",
        outlets=[SCORED],
        doc_md="Score a chunk of drops with the champion: rows and ledger in one transaction for every drop.",
    ).expand(chunk=list_drops.output)

    list_drops >> score
