"""Make the file of a new pipeline from a profile; it is written only when the contract's own reader accepts it."""

from __future__ import annotations

from pathlib import Path

from apex_ml.adapters.duckdb.file_report import repr_visible
from apex_ml.adapters.storage.atomic_writes import write_atomically
from apex_ml.contract.column_names import match_columns
from apex_ml.contract.model import contract_faults
from apex_ml.contract.options import SECTIONS
from apex_ml.contract.pipeline_file import PipelineFile, parse_pipeline
from apex_ml.contract.reading import ContractFile
from apex_ml.core.new_pipeline.choices import Choices, refuse_roles, refuse_target
from apex_ml.core.new_pipeline.proposal import Proposal, make_proposal
from apex_ml.core.new_pipeline.text import pipeline_text
from apex_ml.core.table_profile.values import TableProfile
from apex_ml.errors import ConfigError, DataError
from apex_ml.text import visible

ATTEMPTS = 3
"""Times that columns which the contract cannot have are left out: a new contract may show new faults."""


def new_pipeline(
    path: Path, name: str, profile: TableProfile, choices: Choices, raw: str | None
) -> tuple[str, Proposal]:
    """The content of the file, and what it proposes. Columns that the contract cannot have are left out.

    Raises :class:`~apex_ml.errors.DataError` when no model can learn the target, or a column cannot have its role, and
    :class:`~apex_ml.errors.ConfigError` when the contract cannot name a column that it needs.
    """
    refuse_target(profile, choices.target)
    refuse_roles(profile, choices)
    needed = {choices.target, choices.entity, choices.timestamp}
    excluded: dict[str, str] = {}
    for _ in range(ATTEMPTS):
        proposal = make_proposal(profile, choices, excluded)
        text = pipeline_text(name, profile, choices, proposal, raw)
        faulty = _faulty_columns(path, text)
        if not faulty or needed & set(faulty) or set(faulty) <= set(excluded):
            break
        excluded |= faulty
    if not any(proposal.features.get(kind) for kind in ("attributes", "calendar", "history")):
        why = "".join(f"; {visible(column.name)}: {column.why}" for column in proposal.left_out)
        why += "".join(
            f"; {visible(column.name)}: taken as known only after it; if it is known before, say --measure -"
            for column in proposal.columns
            if column.role == "measure"
        )
        why += "".join(
            f"; {visible(column.name)}: taken as the {column.role}"
            for column in proposal.columns
            if column.role in ("key", "entity", "timestamp")
        )
        raise DataError(
            f"{profile.source.name}: no column is left from which a model can learn {visible(choices.target)}{why}"
        )
    try:
        contract, _ = parse_pipeline(path, text.encode())
    except ConfigError as error:
        raise ConfigError(f"no contract can be made for this table: {error}") from error
    matched = match_columns(contract, [column.name for column in profile.columns if column.derive is None])
    for names in matched.ambiguous.values():
        listed = ", ".join(map(repr_visible, names))
        raise DataError(f"{profile.source.name}: columns have nearly the same name: {listed}; rename them")
    return text, proposal


def _faulty_columns(path: Path, text: str) -> dict[str, str]:
    """The columns with a fault, such as a name that the product needs for itself, and the faults."""
    file = ContractFile.read(path, text.encode())
    data = {key: value for key, value in file.data.items() if key not in SECTIONS}
    _, faults = contract_faults(file, data, PipelineFile.model_json_schema)
    return {str(place[1]): fault for place, fault in faults if len(place) > 1 and place[0] == "columns"}


def refuse_existing(path: Path) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` when there is a file already."""
    if path.exists():
        raise ConfigError(f"{path}: exists already; edit it, remove it, or choose another name")


def write_pipeline(path: Path, text: str) -> None:
    """Write the file. Raises :class:`~apex_ml.errors.ConfigError` when there is one already."""
    refuse_existing(path)
    write_atomically(path, text.encode())
