"""How a pipeline trains, promotes, scores and monitors: the sections of ``pipeline.yaml`` beside its contract.

Airflow reads these sections alone, so this module imports neither Arrow nor a package of machine learning.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from apex_ml.contract.error_cost import ClassName, ErrorCost, repeated_errors
from apex_ml.contract.locations import LocationOptions
from apex_ml.contract.part import ContractPart, ContradictionError
from apex_ml.contract.scoring_options import MAX_MINUTES, Scoring
from apex_ml.setting_types import Mails, check_candidates, check_cron, check_rows_noun, check_split

Cron = Annotated[str, AfterValidator(check_cron)]
CandidateNames = Annotated[tuple[str, ...], AfterValidator(check_candidates)]
RowsNoun = Annotated[str, AfterValidator(check_rows_noun)]
SplitStrategy = Annotated[str, AfterValidator(check_split)]


class Wording(ContractPart):
    """The pipeline's own words for what every pipeline has."""

    rows: RowsNoun = Field(
        "rows", description="Plural noun for the rows of the data, as pages and messages call them: flights, claims."
    )


DecisionName = Literal["most_probable", "macro_f1", "cost"]


class ModelOptions(ContractPart):
    """The registered model and its training."""

    name: str = Field(
        "",
        pattern=r"^[^/:]*$",
        description="Name of the registered model in MLflow, without / and :. Empty: the pipeline's name.",
    )
    candidates: CandidateNames = Field(
        ("xgboost",),
        min_length=1,
        description="Candidate models, in order: xgboost, xgboost_native (splits columns of many levels by sets of"
        " levels, and tries three sets of parameters), logistic, lightgbm (an extra) or your own. Ties go to the"
        " first.",
    )
    split: SplitStrategy = Field(
        "temporal",
        description="How examples are split: temporal, random, stratified_random or legacy (as the original project"
        " did). Only temporal is promotable; of rows without a timestamp only random is, which then is the default.",
    )
    selection: Literal["noise", "none"] = Field(
        "noise",
        description="Feature selection: features that beat permuted copies of themselves, unless all together predict"
        " clearly better (noise), or all (none).",
    )
    decision: DecisionName = Field(
        "most_probable",
        description="How the predicted class is chosen: the most probable class; by weights that are tuned for"
        " macro-F1 (macro_f1), which finds more of rare classes and is right less often; or the class with the lowest"
        " expected cost (cost).",
    )
    costs: tuple[ErrorCost, ...] = Field(
        (),
        exclude_if=lambda costs: not costs,
        description="Costs of wrong predictions, for decision: cost. An error that is not listed costs 1, a right"
        " prediction nothing.",
    )
    positive: ClassName | None = Field(
        None,
        exclude_if=lambda name: name is None,
        description="Of two classes the one that average precision and the table of thresholds are about. Empty: the"
        " last one.",
    )
    class_weights: Literal["none", "balanced"] = Field("none", description="Class weights in training.")
    trials: int = Field(
        0, ge=0, description="Hyper-parameter trials of a training; 0: train with the fixed parameters."
    )
    search_seconds: float = Field(
        0, ge=0, description="Time limit of the search, in seconds; 0: none, which keeps results reproducible."
    )
    time_budget_minutes: float = Field(
        30,
        gt=0,
        le=MAX_MINUTES,
        exclude_if=lambda minutes: minutes == 30,
        description="Time for the selection of features, the search and the fits of a training, in minutes. What is"
        " not done by then is left out or stops early, so that the result may depend on the speed of the machine.",
    )
    search_folds: int = Field(
        1,
        ge=1,
        le=10,
        description="Number of rolling-origin folds inside the training part by which the search scores; 1: none.",
    )
    early_stopping_rounds: int = Field(
        30, ge=0, description="Early stopping: rounds without progress before training stops; 0: off."
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Device on which XGBoost trains.")
    seed: int = Field(42, description="Seed of the split, the search and the training.")

    @model_validator(mode="after")
    def _states_costs(self) -> Self:
        faults = [(("costs", *place), text) for place, text in repeated_errors(self.costs)]
        if self.decision == "cost" and not self.costs:
            faults.append((("decision",), "cost needs the costs of the errors: add costs"))
        if self.costs and self.decision != "cost":
            faults.append((("costs",), f"with decision: {self.decision} no cost is used: write decision: cost"))
        if faults:
            raise ContradictionError(faults)
        return self


class Approval(ContractPart):
    """Whether a user must approve a promotion in Airflow."""

    required: bool = Field(False, description="Require approval in Airflow before a challenger becomes champion.")
    hours: float = Field(12, gt=0, le=MAX_MINUTES / 60, description="Approval timeout, in hours.")
    default: Literal["Approve", "Reject"] = Field(
        "Reject", description="Answer when nobody responds before the approval timeout."
    )


class Shadow(ContractPart):
    """Scoring in shadow."""

    days: int = Field(
        0,
        ge=0,
        le=90,
        description="Days for which a challenger that was not promoted scores the drops in shadow; 0: never.",
    )


class Schedule(ContractPart):
    """When the DAGs run, in UTC."""

    retrain: Cron = Field("0 2 * * *", description="Cron of the retraining, in UTC.")
    sweep: Cron = Field("*/15 * * * *", description="Cron of the fallback sweep for drops, in UTC.")
    monitor: Cron = Field("0 5 * * *", description="Cron of the monitoring, in UTC; it also follows scoring.")
    retrain_deadline_minutes: int = Field(
        240, ge=1, le=MAX_MINUTES, description="Deadline of a retraining, in minutes."
    )


class StepOptions(ContractPart):
    """Limits of one step in Airflow."""

    timeout_minutes: int = Field(60, ge=1, le=MAX_MINUTES, description="Time limit of one step in Airflow, in minutes.")
    retries: int = Field(2, ge=0, le=100, description="Number of times Airflow retries a step after a transient error.")
    retry_delay_seconds: int = Field(60, ge=0, le=86_400, description="Wait before a retry, in seconds.")


class Resources(ContractPart):
    """What a step's container may use, where steps run in containers. Only training with device: cuda gets a GPU."""

    memory_mb: int | None = Field(
        None, ge=512, description="Memory limit of a step's container, in MB. Empty: APEX_STEP_MEMORY_MB."
    )
    cpus: float | None = Field(None, gt=0, description="CPU limit of a step's container. Empty: APEX_STEP_CPUS.")


class Validation(ContractPart):
    """How much of the data is checked twice, copied and described."""

    expectation_rows: int = Field(
        1_500_000,
        ge=1000,
        description="Maximum number of accepted rows that Great Expectations checks; of more rows it checks a"
        " sample. Row checks always check every row.",
    )
    quarantine_rows_in_sql: int = Field(
        10_000,
        ge=0,
        description="Maximum number of quarantined rows of a raw file or a refused drop that are copied to Postgres.",
    )
    profile: bool = Field(
        True,
        exclude_if=lambda profile: profile,
        description="Each training describes its accepted rows on a page, an artifact of its MLflow run.",
    )


class Monitoring(ContractPart):
    """Thresholds of drift and quality."""

    drift_alpha: float = Field(
        0.002, gt=0, lt=0.5, description="Probability of a false alarm in one healthy drop or day, over all features."
    )
    drift_min_rows: int = Field(
        1000, ge=100, description="Minimum number of rows of a drop or a day for which drift is measured."
    )
    quality_margin: float = Field(
        0.01, ge=0, description="Tolerated increase of a week's log loss over its value at promotion, in nats."
    )
    quality_alpha: float = Field(0.01, gt=0, lt=0.5, description="Probability of calling one healthy week worse.")
    quality_year_alpha: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="Probability of a false alarm in 52 healthy weeks of a version, by the rule over several weeks.",
    )
    quality_min_rows: int = Field(
        500, ge=50, description="Minimum number of known outcomes of a week that is evaluated."
    )
    quality_worse_weeks: int = Field(2, ge=1, description="Number of worse weeks that trigger a retraining …")
    quality_window_weeks: int = Field(3, ge=1, description="… among this many newest weeks.")

    @model_validator(mode="after")
    def _can_trigger(self) -> Self:
        if self.quality_worse_weeks > self.quality_window_weeks:
            text = (
                f"{self.quality_worse_weeks} is more than quality_window_weeks, {self.quality_window_weeks}, so nothing"
                " would ever trigger a retraining"
            )
            raise ContradictionError([(("quality_worse_weeks",), text)])
        return self


class AlertOptions(ContractPart):
    """What is watched, and who is written to. The mail server and the webhook are settings of the platform."""

    deadlines: bool = Field(True, description="Airflow watches the deadlines of scoring and retraining as well.")
    mail_to: Mails = Field(
        "",
        description="Addresses for the alerts of this pipeline, separated by commas. Empty: APEX_ALERT_MAIL_TO.",
    )


class ServingOptions(ContractPart):
    """How the online service answers for the pipeline."""

    record_share: float = Field(
        0, ge=0, le=1, description="Share of online answers that are recorded in Postgres and monitored, from 0 to 1."
    )


class PipelineOptions(ContractPart):
    """All sections of a pipeline's file beside its contract."""

    model: ModelOptions = ModelOptions()
    approval: Approval = Approval()
    shadow: Shadow = Shadow()
    schedule: Schedule = Schedule()
    locations: LocationOptions = LocationOptions()
    scoring: Scoring = Scoring()
    steps: StepOptions = StepOptions()
    resources: Resources = Resources()
    validation: Validation = Validation()
    monitoring: Monitoring = Monitoring()
    alerts: AlertOptions = AlertOptions()
    serving: ServingOptions = ServingOptions()

    def digest(self) -> str:
        """Sha256 of the options."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


SECTIONS = tuple(PipelineOptions.model_fields)
