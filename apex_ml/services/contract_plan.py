"""What the contract in a pipeline's file means for the tables and the champion, before anything is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apex_ml.adapters.mlflow.registry import Registry
from apex_ml.adapters.postgres.champions import ChampionLedger, PostgresChampions
from apex_ml.adapters.postgres.connection import transaction
from apex_ml.adapters.postgres.contracts import OWN_PIPELINE, PostgresContracts
from apex_ml.adapters.postgres.foreign_model import ForeignModelError, refuse_foreign_model
from apex_ml.adapters.postgres.platform_schema import recorded_model
from apex_ml.adapters.postgres.versions import PostgresVersions
from apex_ml.contract.changes import ChangeKind, ContractChange, compare_contracts
from apex_ml.contract.identity import ContractIdentity
from apex_ml.contract.model import Contract
from apex_ml.contract.pipeline import Pipeline
from apex_ml.core.changed_options import changed_options
from apex_ml.core.estimator import Model
from apex_ml.core.model_contract import faults_of_model
from apex_ml.errors import ApexError, TransientError
from apex_ml.services.json_record import JsonRecord
from apex_ml.services.pipeline_advice import pipeline_advice
from apex_ml.settings import Settings
from apex_ml.sql.tables import ONLINE, SCORED, SHADOW, online_columns, scored_columns


@dataclass(frozen=True, kw_only=True)
class ChampionPlan(JsonRecord):
    """The champion under the contract of the file; `usable` is None when that could not be found out."""

    version: int
    usable: bool | None
    same_contract: bool | None
    reasons: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """What it keeps from its training, and the file says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ContractPlan(JsonRecord):
    """The change from the contract of the tables to that of the file; `kind` is None when the tables have none yet."""

    pipeline: str
    identity: str
    tables_identity: str | None
    kind: ChangeKind | None
    differences: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    new_columns: tuple[str, ...] = ()
    champion: ChampionPlan | None = None
    model: str = ""
    """The registered model of the file."""
    former_model: str | None = None
    """That of the last `apex up`, where it was another one."""
    unused_champions: Mapping[str, int] = field(default_factory=dict)
    """Champions that the pipeline has of other registered models, by model, while it has none of this one."""
    advice: tuple[str, ...] = ()
    """What a person should know of the file, whatever the tables have."""
    steps: tuple[str, ...] = ()
    """What happens next, and what to do, as sentences."""


def plan_contract(settings: Settings, pipeline: Pipeline, recorded: ContractIdentity | None) -> ContractPlan:
    """Compare the contract of a pipeline's file with its tables and its champion. Nothing is changed.

    `recorded` is the contract that the home has recorded, for tables that cannot be asked: without Postgres the
    champion is unknown.
    """
    contract = pipeline.contract
    unknown = ""
    state = _PlatformState()
    try:
        state = _from_database(settings, pipeline)
    except ApexError as error:
        unknown = f"The champion is unknown: {error}"
    before = state.contract or recorded
    change = None if before is None else compare_contracts(before, contract)
    plan = ContractPlan(
        pipeline=pipeline.name,
        identity=contract.identity().digest(),
        tables_identity=None if before is None else before.digest(),
        kind=None if change is None else change.kind,
        differences=(*(() if change is None else change.differences), *_model_difference(pipeline, state)),
        refused=(*(() if change is None else change.refused), *state.foreign),
        new_columns=() if before is None or change is None or change.refused else _new_columns(before, contract),
        champion=state.champion,
        model=pipeline.model_name,
        former_model=state.former_model,
        unused_champions=state.unused_champions,
        advice=pipeline_advice(pipeline),
    )
    steps = (*_steps(plan, change), *([unknown] if unknown else []))
    return replace(plan, steps=steps)


@dataclass(frozen=True)
class _PlatformState:
    """What Postgres and MLflow have of a pipeline, as in :class:`ContractPlan`."""

    contract: ContractIdentity | None = None
    champion: ChampionPlan | None = None
    former_model: str | None = None
    unused_champions: Mapping[str, int] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    """Why the registered model is refused, which is that of another pipeline."""


def _from_database(settings: Settings, pipeline: Pipeline) -> _PlatformState:
    model = pipeline.model_name
    with transaction(settings, pipeline.schema) as session:
        ledger = PostgresChampions(session, model)
        foreign = _foreign_model(ledger, pipeline)
        ledger_of_contracts = PostgresContracts(session)
        if not ledger_of_contracts.has_tables():
            return _PlatformState(foreign=foreign)
        before = ledger_of_contracts.newest()
        last_model = recorded_model(session, pipeline.schema)
        version = ledger.champion()
        others = ledger.champions_of_other_models() if version is None else {}
    champion = None if version is None else _champion(settings, pipeline, version)
    return _PlatformState(before, champion, last_model if last_model != model else None, others, foreign)


def _foreign_model(ledger: ChampionLedger, pipeline: Pipeline) -> tuple[str, ...]:
    try:
        refuse_foreign_model(ledger, pipeline.name, pipeline.model_name)
    except ForeignModelError as error:
        return (str(error),)
    return ()


def _model_difference(pipeline: Pipeline, state: _PlatformState) -> tuple[str, ...]:
    former = state.former_model
    return () if former is None else (f"the registered model, model.name, is {pipeline.model_name} and was {former}",)


def _champion(settings: Settings, pipeline: Pipeline, number: int) -> ChampionPlan:
    registry = Registry(settings, pipeline.model_name)
    try:
        version = registry.by_version(number)
        if version is None:
            reasons = ("MLflow has no such version",)
            return ChampionPlan(version=number, usable=False, same_contract=None, reasons=reasons)
        model = Model.from_files(registry.files(version))
    except ApexError as error:
        return ChampionPlan(version=number, usable=None, same_contract=None, reasons=(str(error),))
    faults = faults_of_model(pipeline.contract, model)
    trained_under = model.info.contract
    same = None if trained_under is None else trained_under.digest() == pipeline.contract.identity().digest()
    options = () if faults else changed_options(pipeline.contract, pipeline.options.model, model)
    return ChampionPlan(version=number, usable=not faults, same_contract=same, reasons=faults, options=options)


def why_champion_cannot_score(settings: Settings, pipeline: Pipeline, version: int) -> tuple[str, ...]:
    """Why a version cannot score by the contract of a pipeline's file; empty when it can.

    The model is loaded only when it was not trained under this very contract. Raises
    :class:`~apex_ml.errors.TransientError` when it cannot be found out.
    """
    with transaction(settings, pipeline.schema) as session:
        trained_under = PostgresVersions(session, pipeline.model_name).contract_identity(version)
    if trained_under == pipeline.contract.identity().digest():
        return ()
    plan = _champion(settings, pipeline, version)
    if plan.usable is None:
        raise TransientError(
            f"whether version {version} can score by the contract of {pipeline.file} is unknown:"
            f" {'; '.join(plan.reasons)}"
        )
    return () if plan.usable else plan.reasons


def _new_columns(before: ContractIdentity, contract: Contract) -> tuple[str, ...]:
    """The columns that the tables get, as table.column."""
    former = before.applied_to(contract)
    new = []
    for table, columns in ((SCORED, scored_columns), (SHADOW, scored_columns), (ONLINE, online_columns)):
        new += [f"{table}.{name}" for name in columns(contract) if name not in columns(former)]
    return tuple(new)


def _steps(plan: ContractPlan, change: ContractChange | None) -> list[str]:
    name = plan.pipeline
    if plan.refused and not (change and change.refused):
        return ["`apex up` refuses this registered model, and leaves the tables as they are."]
    if change is None:
        return ["`apex up` creates the tables of this contract."]
    if change.refused:
        return [f"`apex up` refuses this contract before it stops or changes anything: {OWN_PIPELINE}."]
    champion = plan.champion
    steps = []
    if plan.differences:
        added = f"adds the columns {', '.join(plan.new_columns)}" if plan.new_columns else "adds no column"
        steps.append(f"`apex up` {added}, and restarts what runs with the former contract.")
    if plan.unused_champions:
        listed = ", ".join(f"version {version} of {model}" for model, version in plan.unused_champions.items())
        steps.append(
            f"{plan.model} has no champion, and drops are not scored by {listed}. They wait in the inbox until a"
            f" version of {plan.model} is champion: `apex -p {name} retrain`. Or restore model.name."
        )
    if champion is None or champion.usable is None:
        return steps
    if not champion.usable:
        steps.append(f"Drops wait in the inbox until a model of this contract is champion: `apex -p {name} retrain`.")
    elif champion.same_contract is False:
        steps.append(
            f"Drops are scored by version {champion.version}, with the features of its own contract, until a challenger"
            f" of this contract is better: the next retraining trains one, or `apex -p {name} retrain` does now."
        )
    elif champion.options:
        steps.append(
            f"Drops are scored by version {champion.version} as it was trained, until a challenger with the options of"
            f" the file is better: the next retraining trains one, or `apex -p {name} retrain` does now."
        )
    return steps
