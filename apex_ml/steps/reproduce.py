"""Step train with --reproduce: train a recorded model again and compare the bytes."""

from __future__ import annotations

import logging
from dataclasses import replace

from apex_ml.core.development import develop
from apex_ml.core.estimator import Model
from apex_ml.core.strategies import split_strategy
from apex_ml.services.holdout import segment_columns
from apex_ml.services.results import ReproduceResult, TrainResult
from apex_ml.services.run_folder import StepContext, git_commit, step_manifest
from apex_ml.services.training_inputs import load_examples, training_options

logger = logging.getLogger(__name__)


def reproduce(context: StepContext) -> ReproduceResult:
    """Train the run's model again from its parts, with the recorded settings, and compare the bytes.

    The search is not replayed. Nothing is registered or written. Raises :class:`~apex_ml.errors.DataError` when the
    run's training has not finished.
    """
    recorded = step_manifest(context, TrainResult)
    used = recorded.inputs
    bundle = context.output("train", "bundle")
    before = Model.from_files({path.name: path.read_bytes() for path in bundle.iterdir()})
    columns = split_strategy(before.info.split).columns(context.contract)
    usual = training_options(context, 0, before.info.split)
    names = frozenset(before.encoder.names)
    # that all stay, or the history of the entity does not, may be due to other parameters than the recorded ones
    is_due_to_others = {column.name for column in columns} == names or not names & usual.of_entity
    options = replace(
        usual,
        contenders=tuple(used["contenders"]),
        selection=used["selection"],
        features=names if is_due_to_others else None,
        decision=used.get("decision", "macro_f1"),  # which older versions of Apex did not record
        costs=tuple(map(tuple, used.get("costs", ()))),
        class_weights=used["class_weights"],
        early_stopping_rounds=used["early_stopping_rounds"],
        device=used["device"],
        seed=used["seed"],
        fixed=recorded.result.chosen,
    )
    parts = load_examples(context)
    contract = context.contract
    done = develop(parts, columns, contract.classes, segment_columns(contract), options, before.info)
    files, reproduced_files = before.to_files(), done.model.to_files()
    differing = sorted(name for name in files if files[name] != reproduced_files.get(name))
    commit, dirty = git_commit()
    same_code = commit == before.info.git_commit and not dirty and not before.info.dirty
    comparison = "the same bytes" if not differing else f"{', '.join(differing)} differ"
    logger.info("reproduced match=%s: %s", not differing, comparison)
    return ReproduceResult(
        run=context.run,
        step="train",
        reproduced=not differing,
        differing=tuple(differing),
        same_code=same_code,
        recorded_log_loss=recorded.result.test_log_loss,
        log_loss=done.metrics["test_log_loss"],
    )
