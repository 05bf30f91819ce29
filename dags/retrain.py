"""Retrain a pipeline's model every night and promote it only on evidence."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, CronTriggerTimetable, Param

from apex_airflow.assets import champion
from apex_airflow.deadlines import deadline
from apex_airflow.operators.approval import ApprovalOperator, answer_args
from apex_airflow.operators.step import StepOperator, step_defaults
from apex_airflow.pipelines import readable_pipelines
from apex_ml.contract.options import PipelineOptions
from apex_ml.contract.pipeline import PipelineSettings
from apex_ml.discovery import SPLIT_STRATEGIES, module_names
from apex_ml.settings import Settings

settings = Settings.load()

ABOUT = """
### Nightly retraining
`validate → elt → split → train → promote`. Each task runs one `apex` command in its own process. The result of a task
is its XCom; the buttons *Data Docs* and *MLflow run* on a task open its output. In parallel, `outcomes` looks up the
true outcomes of rows that were scored before. `promote` waits for it, and continues even when it fails.

A run without new raw data ends early and successfully: `validate` is skipped and shows the reason. Tick **force** to
retrain anyway. A challenger that is not significantly better is rejected; that is a success, too. A new champion
triggers `<pipeline>_score`.

With `approval: {required: true}` in the pipeline's file a user must approve a promotion: the task `approve` waits under
*Required Actions* with the reasons and the evidence, and takes `approval.default` without an answer within
`approval.hours`.
"""


def build(pipeline: PipelineSettings) -> DAG:
    """Return the DAG that retrains the model of a pipeline."""
    options = pipeline.options
    with DAG(
        dag_id=pipeline.dag_id("retrain"),
        description="raw rows → checks → examples → challenger → champion, if it is better",
        doc_md=ABOUT.replace("<pipeline>", pipeline.name),
        # Without a start date the first run is that of the next night; unpausing the DAG starts no run. The ten minutes
        # ensure that the first run is not skipped when this file is parsed at its scheduled time.
        schedule=CronTriggerTimetable(options.schedule.retrain, timezone="UTC", run_immediately=timedelta(minutes=10)),
        catchup=False,
        max_active_runs=1,
        deadline=deadline(pipeline, "retrain", options.schedule.retrain_deadline_minutes),
        default_args={**step_defaults(settings, pipeline), "pool": "apex_training"},
        tags=["apex", pipeline.name, "training"],
        params=parameters(options),
    ) as dag:
        add_promotion(pipeline, after=add_training())
    return dag


def parameters(options: PipelineOptions) -> dict[str, Param]:
    """Return the form for a manual run."""
    return {
        "force": Param(False, type="boolean", description="Retrain even when there is no new raw data."),
        "split": Param(
            options.model.split,
            enum=list(module_names(SPLIT_STRATEGIES)),
            description="Split of the examples; legacy: the original project's. Only temporal can be promoted.",
        ),
        "trials": Param(
            options.model.trials,
            type="integer",
            minimum=0,
            description="Hyper-parameter trials; 0: the fixed parameters.",
        ),
        "raw": Param(
            None,
            type=["null", "string"],
            description="Folder of raw files. Empty: the one in the settings.",
        ),
        "without_newest_day": Param(
            False,
            type="boolean",
            description="Hold back the newest day from training; `make run` scores it as a drop.",
        ),
    }


def add_training() -> list[BaseOperator]:
    """Add the tasks that train a challenger; return those before its promotion."""
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
        doc_md="Build one example per entity from its last row, with features known just before that row.",
    )
    outcomes = StepOperator(
        task_id="outcomes",
        step="outcomes",
        doc_md="Match the classes of raw rows with their scores where entity and date are unique on both sides. "
        "The coverage is in the XCom and in the view `outcome_coverage`. A failure does not stop the other tasks.",
    )
    outcomes_done = EmptyOperator(
        task_id="outcomes_done",
        trigger_rule="all_done",
        doc_md="Does nothing. It runs after `outcomes` succeeds or fails, so that a failure stops no `promote`.",
    )
    split = StepOperator(
        task_id="split",
        step="split",
        args=["--strategy={{ params.split }}"],
        doc_md="Split the examples into train, validation and test; by default each is later than the one before.",
    )
    train = StepOperator(
        task_id="train",
        step="train",
        args=["--trials={{ params.trials }}"],
        doc_md="Fit a challenger, evaluate it on the test window, log and register it in MLflow.",
    )

    validate >> elt >> split >> train
    elt >> outcomes >> outcomes_done
    return [train, outcomes_done]


def add_promotion(pipeline: PipelineSettings, after: list[BaseOperator]) -> None:
    """Add the tasks that decide about the challenger, with a user's approval where the pipeline requires one."""
    options = pipeline.options
    promote = StepOperator(
        task_id="promote",
        step="promote",
        args=answer_args("approve") if options.approval.required else [],
        emits=champion(pipeline),
        emits_if="promoted",
        doc_md="Score champion and challenger on the same newest rows; the challenger takes over if it beats "
        "both the class prior and the champion by the margin. The reasons are in the XCom and in `promotions`.",
    )

    if options.approval.required:
        decide = StepOperator(
            task_id="decide",
            step="promote",
            args=["--hold"],
            doc_md="Decide as `promote` does; apply only a rejection.",
        )
        approve = ApprovalOperator(
            task_id="approve",
            decided_by="decide",
            response_timeout=timedelta(hours=options.approval.hours),
            defaults=options.approval.default,
            doc_md="Wait for a user's answer under *Required Actions*. Nothing is asked when the gate did not "
            "promote. `promote` records a rejection.",
        )
        after >> decide >> approve >> promote
    else:
        after >> promote
    if options.shadow.days:
        reconsider = StepOperator(
            task_id="reconsider",
            step="reconsider",
            emits=champion(pipeline),
            emits_if="promoted",
            doc_md="Evaluate the newest challenger that scored drops in shadow at the gate again, on the "
            "rows whose outcome has arrived since. Skipped when too few outcomes are known.",
        )
        promote >> reconsider


for each in readable_pipelines(settings):
    build(each)
