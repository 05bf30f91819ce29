"""A night of a pipeline on a sample, without the platform: checks, features, split, training, in a folder of its own.

The steps are those of a run. Left out is what needs Postgres, MLflow or earlier runs: the registry, the gate, the
comparison with earlier batches, and Great Expectations.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.profile import profile_batch
from apex_ml.contract.pipeline import Pipeline
from apex_ml.core.development import Development, Options, develop
from apex_ml.core.examples import Examples
from apex_ml.core.plain_models import PlainModel, compare_with_plain
from apex_ml.core.strategies import split_strategy
from apex_ml.core.training_time import TrainingTime
from apex_ml.services.data_check import DataCheck, check_data, refuse_problems
from apex_ml.services.held_back import point_in_time
from apex_ml.services.holdout import segment_columns
from apex_ml.services.repeated_keys import settle_repeated_keys
from apex_ml.services.results import EltResult, SplitResult, ValidateResult
from apex_ml.services.run_folder import StepContext, run_step
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.services.sample import Sample, sample_accepted
from apex_ml.services.training_inputs import load_examples, model_info, training_options, training_time
from apex_ml.settings import Settings
from apex_ml.steps.elt import elt
from apex_ml.steps.split import split

MAX_EXAMPLES = 50_000
DEVELOPMENT_SHARE, MIN_SECONDS = 0.7, 5.0
"""Share of the time that is left for our model, rather than the plain ones, and the least that is left."""
"""Examples of the sample: enough for the noise test, and trained in seconds."""
MIN_EXAMPLES = 10_000
MAX_CLASS_ROWS = 300_000
"""Examples times classes: the trees of each class take their own time, so that many classes get a smaller sample."""
RUN = "try"


@dataclass(frozen=True)
class TrialRun:
    """The result of a night on a sample."""

    sample: Sample
    superseded: int
    """Accepted rows left out because their key has a later row."""
    examples: EltResult
    parts: SplitResult
    development: Development
    compared: tuple[PlainModel, ...]
    """The plain models, then the model of Apex, on the same test rows."""
    was_short: bool
    """The time budget ended a part of the training before it was done."""
    tables: Mapping[str, Examples]
    """The examples of each part."""
    options: Options
    """With which the model was developed."""
    seconds: float
    """Of developing the model."""


def try_pipeline(
    settings: Settings,
    pipeline: Pipeline,
    path: Path,
    on_check: Callable[[DataCheck], None],
    progress: Callable[[str], None] = lambda text: None,
    max_examples: int | None = None,
    seconds: float = math.inf,
) -> TrialRun:
    """Check all rows of a file or folder, and train on a sample of them. Nothing is kept.

    `on_check` gets the result of the checks before anything is trained. `max_examples` is the size of the sample, by
    default MAX_EXAMPLES, and fewer where there are many classes. All of it takes about `seconds` at most: a training
    that would take longer ends early. Raises :class:`~apex_ml.errors.DataError` when a run would refuse the data or
    nothing can be learned from it.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".apex-try-") as name:
        folder = Path(name)
        context = StepContext(settings, _placed(pipeline, folder), RUN)
        checked_rows = folder / "checked"
        checked_rows.mkdir()
        checked = check_data(settings, pipeline.contract, path, "train", progress, keep=checked_rows)
        on_check(checked)
        refuse_problems(pipeline.name, checked)
        progress("sample")
        max_examples = max_examples or sample_size(len(pipeline.contract.classes))
        sample, superseded = _sample(context, checked, checked_rows, max_examples)
        progress("features")
        examples = elt(context)
        parts = split(context, strategy=pipeline.options.model.split)
        progress("training")
        tables = load_examples(context)
        options = training_options(context, 0, parts.strategy)
        began = time.monotonic()
        spent = training_time(context, DEVELOPMENT_SHARE * max(seconds - (began - started), MIN_SECONDS))
        development = _develop(context, parts, tables, options, spent)
        developed = time.monotonic()
        compared = _compare(context, parts, tables, options, development)
        return TrialRun(
            sample,
            superseded,
            examples,
            parts,
            development,
            compared,
            spent.was_short,
            tables,
            options,
            developed - began,
        )


def sample_size(classes: int) -> int:
    """The maximum of examples for a number of classes."""
    return min(MAX_EXAMPLES, max(MIN_EXAMPLES, MAX_CLASS_ROWS // classes))


def _placed(pipeline: Pipeline, folder: Path) -> Pipeline:
    """The pipeline with its runs in the folder."""
    return replace(pipeline, locations=replace(pipeline.locations, processed=str(folder)))


def _sample(context: StepContext, checked: DataCheck, checked_rows: Path, max_examples: int) -> tuple[Sample, int]:
    """Write the sample as the result of the step `validate`, from which the next steps go on."""
    contract, settings = context.contract, context.settings
    with engine.connect(settings, context.processed) as con:
        superseded = settle_repeated_keys(con, contract, checked_rows, checked.rows - checked.quarantined)
        newest = profile_batch(con, contract, checked_rows).newest
        sample = sample_accepted(con, contract, checked_rows, max_examples, context.pipeline.options.model.seed)

    def work(folder: Path) -> ValidateResult:
        checked_rows.rename(folder / ACCEPTED)
        as_of = point_in_time(context, newest)
        return ValidateResult(run=RUN, step="validate", data_sha256="", newest=newest, as_of=as_of)

    run_step(context, ValidateResult, {}, work)
    return sample, superseded


def _develop(
    context: StepContext, divided: SplitResult, tables: dict[str, Examples], options: Options, spent: TrainingTime
) -> Development:
    """Develop a model as the step `train` does, without a search."""
    contract = context.contract
    return develop(
        tables,
        split_strategy(divided.strategy).columns(contract),
        contract.classes,
        segment_columns(contract),
        options,
        model_info(context, divided, tables),
        spent=spent,
    )


def _compare(
    context: StepContext,
    divided: SplitResult,
    tables: dict[str, Examples],
    options: Options,
    done: Development,
) -> tuple[PlainModel, ...]:
    """Scores of plain models, and of the model of Apex."""
    contract = context.contract
    columns = split_strategy(divided.strategy).columns(contract)
    ours = done.model.probabilities(tables["test"].table)
    plain = compare_with_plain(
        tables, columns, contract.classes, ours, seed=options.seed, threads=options.threads, costs=options.costs
    )
    metrics, features = done.metrics, len(done.model.encoder.names)
    own = PlainModel(
        "Apex",
        features,
        metrics["test_log_loss"],
        metrics["test_weighted_accuracy"],
        auc=metrics.get("test_auc"),
        mean_cost=metrics.get("test_mean_cost"),
    )
    return (*plain, own)
