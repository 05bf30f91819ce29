"""The contract by which a model's features are computed, while the pipeline's own contract has gone on."""

from __future__ import annotations

from apex_ml.contract.changes import UNIQUE_ROLES, lost_features, other_column
from apex_ml.contract.identity import ContractIdentity
from apex_ml.contract.model import Contract
from apex_ml.core.estimator import Model
from apex_ml.core.features import feature_columns


def contract_of_model(contract: Contract, model: Model) -> Contract:
    """A contract with the features, levels and classes of the model's training, over the data of today's contract.

    For a model without a record of its contract, which an older version of Apex trained, it is today's contract with
    the classes of the model.
    """
    return (model.info.contract or _assumed(contract, model)).applied_to(contract)


def _assumed(contract: Contract, model: Model) -> ContractIdentity:
    today = ContractIdentity.of(contract)
    target = today.columns[contract.target].model_copy(update={"levels": model.classes, "values": None})
    return today.model_copy(update={"columns": today.columns | {contract.target: target}})


def faults_of_model(contract: Contract, model: Model) -> tuple[str, ...]:
    """Why a model cannot score under a contract; empty when it can.

    A class that the contract has and the model lacks is no fault: the model gives it no probability.
    """
    before = model.info.contract or _assumed(contract, model)
    names, now = model.encoder.names, contract.identity()
    faults = [other for role in UNIQUE_ROLES if (other := other_column(role, before, now))]
    if gone := [level for level in model.classes if level not in contract.classes]:
        faults.append(f"it predicts {', '.join(gone)}, and the contract has no such class")
    if faults:
        return tuple(faults)
    lost = lost_features(before, contract, names)
    known = {column.name for column in feature_columns(before.applied_to(contract))}
    faults += [f"it needs {feature}" for feature in lost]
    faults += [f"it needs the feature {name}, which the contract does not make" for name in names if name not in known]
    return tuple(faults)
