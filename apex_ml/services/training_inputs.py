"""The inputs of a training run: options, examples of each part, and facts about its data."""

from __future__ import annotations

import logging
import math
import time
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from apex_ml.adapters.duckdb import engine
from apex_ml.adapters.duckdb.accepted_rows import accepted_files
from apex_ml.adapters.storage.atomic_writes import scratch_folder
from apex_ml.contract.columns import Column
from apex_ml.contract.costs import cost_matrix, positive_class
from apex_ml.core.development import Options
from apex_ml.core.evaluation import class_shares
from apex_ml.core.examples import Examples
from apex_ml.core.features import feature_columns, feature_values, features_of_entity
from apex_ml.core.model_info import ModelInfo
from apex_ml.core.profile import Bins, ModelProfile, bins_of
from apex_ml.core.row_time import days_of
from apex_ml.core.search import Budget
from apex_ml.core.split import PARTS
from apex_ml.core.strategies import split_strategy
from apex_ml.core.training_time import TrainingTime
from apex_ml.services.holdout import class_indexes
from apex_ml.services.results import EltResult, SplitResult, ValidateResult
from apex_ml.services.run_folder import StepContext, git_commit, step_manifest
from apex_ml.services.run_layout import ACCEPTED
from apex_ml.sql.accepted_rows import select_weeks_before

logger = logging.getLogger(__name__)

RECENT_WEEKS, MIN_RECENT_ROWS = 4, 5_000
"""A model keeps the attributes of the newest week of rows, or of more weeks, up to RECENT_WEEKS, until they have
MIN_RECENT_ROWS rows."""


def training_options(context: StepContext, trials: int, strategy: str) -> Options:
    """Options of development, from the settings, the contract and the split strategy."""
    settings, model = context.settings, context.pipeline.options.model
    options = Options(
        contenders=model.candidates,
        selection=model.selection,
        suspicious_gain=context.contract.features.suspicious_gain,
        budget=Budget(trials, model.search_seconds),
        search_folds=model.search_folds,
        decision=model.decision,
        costs=cost_matrix(context.contract, model),
        positive=positive_class(context.contract, model),
        of_entity=features_of_entity(context.contract),
        class_weights=model.class_weights,
        early_stopping_rounds=model.early_stopping_rounds,
        device=model.device,
        seed=model.seed,
        threads=settings.threads,
    )
    return split_strategy(strategy).options(context.contract, options)


def training_time(context: StepContext, limit: float = math.inf) -> TrainingTime:
    """The time budget of a training, from now on, and at most `limit` seconds. Its progress is logged."""
    seconds = min(60 * context.pipeline.options.model.time_budget_minutes, limit)
    return TrainingTime(seconds, logger.info, time.monotonic)


def load_examples(context: StepContext) -> dict[str, Examples]:
    """Examples of each part with classes, entities and days."""
    contract = context.contract
    examples = {}
    for part in PARTS:
        table = pq.read_table(context.output("split", f"{part}.parquet"))
        entities = table.column(contract.entity).to_numpy(zero_copy_only=False)
        days = days_of(contract, table)
        examples[part] = Examples(table, class_indexes(table, contract.target, contract.classes), entities, days)
    return examples


def model_info(context: StepContext, divided: SplitResult, parts: dict[str, Examples]) -> ModelInfo:
    """Facts about a model's data, stored with the model."""
    history = step_manifest(context, EltResult).result
    dates = divided.parts
    commit, dirty = git_commit()
    return ModelInfo(
        run=context.run,
        as_of=history.as_of,
        data_sha256=history.data_sha256,
        contract_sha256=context.contract.digest(),
        features_sha256=history.features_sha256,
        split=divided.strategy,
        promotable=divided.promotable,
        train_first=dates["train"].first,
        train_last=dates["train"].last,
        validation_last=dates["validation"].last,
        test_first=dates["test"].first,
        test_last=dates["test"].last,
        class_shares=tuple(class_shares(parts["train"].y, len(context.contract.classes)).tolist()),
        seed=context.pipeline.options.model.seed,
        git_commit=commit,
        dirty=dirty,
        profile=ModelProfile(recent=recent_profile(context, history.as_of, parts["train"].table)),
        contract=context.contract.identity(),
    )


def recent_profile(context: StepContext, as_of: date, examples: pa.Table) -> dict[str, list[int]]:
    """Counts of the attributes of the newest accepted rows, over the bins of the training examples.

    The rows are those of the newest whole week before `as_of`, and of more weeks, up to four, until there are enough.
    Without a timestamp there are none.

    The examples are each entity's last row, and some are old: they show what the model learned from, not the rows
    of today.
    """
    contract = context.contract
    attributes = [c for c in feature_columns(contract) if c.name in contract.features.attributes]
    attributes = [c for c in attributes if c.name in examples.column_names]
    files = accepted_files(context.output("validate", ACCEPTED))
    if not attributes or not files or not contract.has_timestamp:
        return {}
    newest = step_manifest(context, ValidateResult).result.newest
    end = as_of if newest is None else min(as_of, newest + timedelta(1))
    names = [column.name for column in attributes]
    with (
        scratch_folder(context.processed, "train") as scratch,
        engine.connect(context.settings, scratch) as con,
        engine.errors_name("train"),
    ):
        begin = end - timedelta(weeks=RECENT_WEEKS)
        rows = con.sql(select_weeks_before(contract, files, names, begin, end)).to_arrow_table()
    by_week = np.cumsum(np.bincount(rows.column("week").to_numpy(), minlength=RECENT_WEEKS))
    last = int(np.searchsorted(by_week, min(MIN_RECENT_ROWS, by_week[-1])))
    rows = rows.filter(pc.less_equal(rows.column("week"), last))
    bins = bins_of(attributes, examples)
    return {c.name: _count(bins[c.name], contract.columns[c.name], rows) for c in attributes}


def _count(bins: Bins, column: Column, rows: pa.Table) -> list[int]:
    counts: list[int] = bins.count(feature_values(column, rows.column(column.name))).tolist()
    return counts
