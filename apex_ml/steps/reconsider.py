"""Step reconsider: the gate decides again about a challenger, by the outcomes of drops that it scored in the shadow.

The rows are those that both the challenger and the present champion scored on arrival, and whose outcome is known
since: neither model has learned from any of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres.bulk import bulk_transaction
from apex_ml.adapters.postgres.champions import champions
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.shadow import PostgresShadow, shadow_outcomes
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.core.estimator import Model
from apex_ml.core.promotion import Holdout, decide
from apex_ml.core.training_keys import row_keys
from apex_ml.services import champion_ledger
from apex_ml.services.promotion_decision import carry_out, contender, publish, recorded, serving
from apex_ml.services.results import PromoteResult, ReconsiderSkipped
from apex_ml.services.run_folder import StepContext

MIN_OUTCOMES = 1000
"""Rows with an outcome that a challenger needs to be reconsidered."""


def reconsider(context: StepContext, *, version: int | None, who: str) -> PromoteResult | ReconsiderSkipped:
    """Decide again about a challenger, by the outcomes of rows that it scored in the champion's shadow.

    Without `version` it is the newest challenger with enough outcomes. This is a look of the gate like any other: it
    counts, is recorded, and moves the champion or does not. Without anything to decide the result has a `skip`.
    """
    settings, contract = context.settings, context.contract
    registry = Registry(settings, context.model_name)
    current = champion_ledger.resolve(settings, context.schema, registry)
    if current is None:
        return ReconsiderSkipped(run=context.run, step="reconsider", skip="there is no champion to compare with")
    with transaction(settings, context.schema) as session:
        known = PostgresShadow(session, context.model_name).versions_beside(current.version)
    candidates = [row for row in known if version is None or row.model_version == version]
    enough = [row for row in candidates if row.outcomes >= MIN_OUTCOMES]
    if not enough:
        most = max((row.outcomes for row in candidates), default=0)
        whose = "no challenger" if version is None else f"version {version}"
        reason = (
            f"{whose} scored enough rows beside version {current.version} whose outcome is known: {most:,} of"
            f" {MIN_OUTCOMES:,}"
        )
        return ReconsiderSkipped(run=context.run, step="reconsider", skip=reason)
    challenger = champion_ledger.require(
        registry.by_version(enough[0].model_version), f"version {enough[0].model_version}"
    )
    done = recorded(context, challenger.version)
    if done is not None:
        champion_ledger.align_challenger(settings, context.schema, registry)
        address = publish(context, registry, challenger, "reconsider")
        return replace(done, step="reconsider", decision_report_url=address)
    ours, theirs = (Model.from_files(registry.files(version)) for version in (challenger, current))
    with bulk_transaction(settings, context.schema) as bulk:
        rows = shadow_outcomes(bulk, contract, challenger.version, current.version)
    holdout = _holdout(context, ours, rows)
    with champions(settings, context.schema, context.model_name) as ledger:
        looks = 1 + ledger.rejections_since_last_move()
    decision = decide(
        contender(ours, _probabilities(rows, "s_", ours)),
        contender(theirs, _probabilities(rows, "c_", theirs)),
        holdout,
        contract.promotion,
        serving(contract),
        looks=looks,
        seed=context.pipeline.options.model.seed,
    )
    return carry_out(context, registry, challenger, current, decision, ours.info, who=who, step="reconsider")


def _holdout(context: StepContext, ours: Model, rows: pa.Table) -> Holdout:
    contract = context.contract
    days = rows.column(contract.timestamp).cast(pa.date32()).cast(pa.int32()).to_numpy()
    entities = rows.column(contract.entity).to_numpy(zero_copy_only=False)
    return Holdout(
        y=pc.index_in(rows.column("observed"), value_set=pa.array(contract.classes)).to_numpy(),
        prior=np.asarray(ours.info.class_shares),
        entities=entities,
        days=days,
        rows=row_keys(entities, days) if contract.has_history else None,
    )


def _probabilities(rows: pa.Table, prefix: str, model: Model) -> np.ndarray:
    """The recorded probabilities of the model's own classes."""
    names = [f"{prefix}{name}" for name in probability_columns(model.classes).values()]
    return np.column_stack([rows.column(name).to_numpy() for name in names]).astype(np.float32)
