"""Retrain the order channel model every night and promote it only on evidence."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param

from apex_airflow.assets import CHAMPION
from apex_airflow.deadlines import deadline
from apex_airflow.operators.approval import ApprovalOperator, answer_args
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_ml.settings import Settings

settings = Settings.load()

with DAG(
    dag_id="apex_retrain",
    description="raw orders → checked → examples → challenger → champion, if it proves better",
    doc_md="""
### Nightly retraining
`validate → elt → split → train → promote`, each task one `apex` command in a process of its own. Its result is the
task's XCom; the button *Data Docs* or *MLflow run* on a task leads to what it made. Beside them `outcomes` looks up
what became of orders that were scored before; `promote` waits for it, and goes on even when it fails.

A night without new raw data ends early, as a success: `validate` is skipped and says since when. Tick **force** to
retrain all the same. A challenger that does not prove better is rejected; that too is a success. A new champion wakes
`apex_score`.

With `APEX_APPROVAL` a person is asked before a promotion: the task `approve` waits under *Required Actions* with the
reasons and the evidence, and takes `APEX_APPROVAL_DEFAULT` when nobody answers in `APEX_APPROVAL_HOURS`.
""",
    # Without a start date the first run is the coming night's, not one at the moment the DAG is switched on. The ten
    # minutes keep that first night from being passed over when this file is parsed just then.
    schedule=CronTriggerTimetable(settings.retrain_schedule, timezone="UTC", run_immediately=timedelta(minutes=10)),
    catchup=False,
    max_active_runs=1,
    deadline=deadline(settings, "retrain_late", "apex_retrain", settings.retrain_deadline_minutes),
    default_args={**step_defaults(settings), "pool": "apex_training"},
    tags=["apex", "training"],
    params={
        "force": Param(False, type="boolean", description="Retrain even when there is no new raw data."),
        "split": Param(
            settings.split,
            enum=["temporal", "stratified_random", "legacy"],
            description="How examples are split; legacy is the original project's way. Only temporal can be promoted.",
        ),
        "trials": Param(
            settings.trials, type="integer", minimum=0, description="Hyper-parameter trials; 0: the fixed parameters."
        ),
        "raw": Param(
            None, type=["null", "string"], description="Folder of raw parquet files. Empty: the one in the settings."
        ),
        "without_newest_day": Param(
            False, type="boolean", description="Hold the newest day back from training: `make run` scores it as a drop."
        ),
    },
) as dag:
    validate = StepOperator(
        task_id="validate",
        step="validate",
        args=[
            "{{ '--force' if params.force }}",
            "{{ '--raw=' ~ params.raw if params.raw }}",
            "{{ '--without-newest-day' if params.without_newest_day }}",
        ],
        doc_md="Check the raw files: cast each to the contract, quarantine bad rows with reasons, gate on "
        "Great Expectations. Skipped when there is no new raw data.",
    )
    elt = StepOperator(
        task_id="elt",
        step="elt",
        doc_md="Make one example a client, its last order, with features known just before that order.",
    )
    outcomes = StepOperator(
        task_id="outcomes",
        step="outcomes",
        doc_md="Match the channels of raw orders with their scores, where client and date are unique on both sides. "
        "The coverage is in the XCom and in `apex.outcome_coverage`. A failure here is red, but stops nothing.",
    )
    outcomes_over = EmptyOperator(
        task_id="outcomes_over",
        trigger_rule="all_done",
        doc_md="Does nothing; it comes after `outcomes` however that ended, so that a failure does not stop `promote`.",
    )
    split = StepOperator(
        task_id="split",
        step="split",
        args=["--strategy={{ params.split }}"],
        doc_md="Part the examples into train, validation and test; by default each later in time than the one before.",
    )
    train = StepOperator(
        task_id="train",
        step="train",
        args=["--trials={{ params.trials }}"],
        doc_md="Fit a challenger, evaluate it on the test window, log and register it in MLflow.",
    )
    promote = StepOperator(
        task_id="promote",
        step="promote",
        args=answer_args("approve") if settings.approval else [],
        announces=CHAMPION,
        announces_if="promoted",
        doc_md="Score champion and challenger on the same newest orders; the challenger takes over only if it beats "
        "both the class prior and the champion by the margin. The reasons are in the XCom and in `apex.promotions`.",
    )

    validate >> elt >> split >> train
    elt >> outcomes >> outcomes_over
    if settings.approval:
        decide = StepOperator(
            task_id="decide",
            step="promote",
            args=["--hold"],
            doc_md="Decide as `promote` does, and apply nothing but a rejection.",
        )
        approve = ApprovalOperator(
            task_id="approve",
            decided_by="decide",
            response_timeout=timedelta(hours=settings.approval_hours),
            defaults=settings.approval_default,
            doc_md="Wait for a person's answer under *Required Actions*. Nothing is asked when the gate did not "
            "promote. A refusal is recorded by `promote`.",
        )
        [train, outcomes_over] >> decide >> approve >> promote
    else:
        [train, outcomes_over] >> promote
    if settings.shadow_days:
        reconsider = StepOperator(
            task_id="reconsider",
            step="reconsider",
            announces=CHAMPION,
            announces_if="promoted",
            doc_md="Bring the newest challenger that scored drops in the shadow before the gate once more, on the "
            "orders whose outcome arrived since. Skipped when too few are known.",
        )
        promote >> reconsider
