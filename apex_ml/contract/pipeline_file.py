"""Read ``pipeline.yaml``: the contract of the data, and the options of training, promotion, scoring and monitoring."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from apex_ml.contract.costs import class_faults
from apex_ml.contract.model import Contract, contract_faults
from apex_ml.contract.options import SECTIONS, PipelineOptions
from apex_ml.contract.options_file import OptionValue, opened, option_faults
from apex_ml.contract.part import Place
from apex_ml.contract.reading import ContractFile
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text


class PipelineFile(Contract, PipelineOptions):
    """Everything that a pipeline's file can hold; its JSON Schema lets editors complete and check the file."""


def json_schema() -> str:
    """JSON Schema of pipeline files, for editors."""
    schema = PipelineFile.model_json_schema(mode="validation")
    schema["title"] = "A pipeline of Apex"
    return json_text(schema, indent=1, sort_keys=True) + "\n"


@lru_cache(maxsize=64)
def _parsed(path: Path, content: bytes, values: tuple[OptionValue, ...]) -> tuple[Contract, PipelineOptions]:
    file = ContractFile.read(path, content)
    schema = PipelineFile.model_json_schema
    contract, faults = contract_faults(file, _without_sections(file.data), schema)
    options, wrong = option_faults(file, values, schema)
    if contract is not None and options is not None:
        wrong = [*wrong, *class_faults(contract, options.model)]
    if contract is None or options is None or faults or wrong or file.faults or file.odd:
        raise file.refuse([*faults, *wrong])
    return contract, options


def _without_sections(data: Any) -> Any:
    return {key: value for key, value in data.items() if key not in SECTIONS} if isinstance(data, dict) else data


def refuse_in_file(path: Path, faults: Sequence[tuple[Place, str]]) -> ConfigError:
    """The error with faults of a pipeline's file that were found later, each with its line."""
    return ContractFile.read(path, opened(path)).refuse(faults)


def read_pipeline(path: Path, values: tuple[OptionValue, ...] = ()) -> tuple[Contract, PipelineOptions]:
    """Read contract and options; `values` replace values of the options.

    Raises :class:`~apex_ml.errors.ConfigError` with file, line, key and rule of every fault.
    """
    return _parsed(path, opened(path), values)


def parse_pipeline(path: Path, content: bytes) -> tuple[Contract, PipelineOptions]:
    """Read the content that a file will have. Raises as :func:`read_pipeline`."""
    return _parsed(path, content, ())


def load_contract(path: Path) -> Contract:
    """Read the contract of a pipeline's file. Raises as :func:`read_pipeline`."""
    return read_pipeline(path)[0]
