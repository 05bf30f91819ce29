"""One pipeline as data: its contract, its options and the places of its files. Callers pass it as an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from apex_ml.contract.locations import StoreOptions, is_object_store
from apex_ml.contract.options import PipelineOptions

if TYPE_CHECKING:  # Airflow reads the options of a pipeline alone, and its image has no Arrow
    from apex_ml.contract.model import Contract

DagKind = Literal["retrain", "score", "monitor", "rollback", "shadow"]
"""The DAGs that every pipeline has. Each kind is a file in ``dags/``."""
DAG_KINDS: tuple[DagKind, ...] = get_args(DagKind)
AssetKind = Literal["inbox", "champion", "scored"]
"""The assets that every pipeline has."""


def dag_id(pipeline: str, kind: DagKind) -> str:
    """The id of a pipeline's DAG, also of a pipeline whose file cannot be read.

    >>> dag_id("claims", "retrain")
    'claims_retrain'
    """
    return f"{pipeline}_{kind}"


@dataclass(frozen=True)
class Locations:
    """Folders or URLs of a pipeline's files."""

    raw: str
    """Raw files for training."""
    processed: str
    """Folders of the runs."""
    drops: str
    """Parent of the folders of drops: inbox/, done/ and quarantine/."""
    stores: Mapping[str, StoreOptions] = field(default_factory=dict)
    """Options of object stores, by URL."""
    env_file: Path | None = None
    """File that may hold the logins of object stores."""


@dataclass(frozen=True)
class PipelineSettings:
    """What Airflow needs of a pipeline: its name, its options and its places, without the contract of its data."""

    name: str
    file: Path
    """The pipeline's file."""
    options: PipelineOptions
    model_name: str
    """Name of the registered model in MLflow."""
    locations: Locations
    rows: str
    """Plural noun for the rows of its data."""

    @property
    def schema(self) -> str:
        """Name of the schema in Postgres that holds its tables and views."""
        return self.name

    @property
    def drops_are_appends(self) -> bool:
        """Whether the drops are the appends to a table, instead of files."""
        return self.options.scoring.source != "files"

    @property
    def has_inbox_folder(self) -> bool:
        """Whether drops are delivered into a folder of this machine."""
        return not self.drops_are_appends and not is_object_store(self.locations.drops)

    def command(self, words: str = "") -> str:
        """A command that concerns this pipeline, or its beginning, for a message: ``apex -p claims retrain``."""
        return f"apex -p {self.name} {words}".rstrip()

    def dag_id(self, kind: DagKind) -> str:
        """Name of one of its DAGs in Airflow."""
        return dag_id(self.name, kind)

    def asset_name(self, kind: AssetKind) -> str:
        """Name of one of its assets in Airflow."""
        return f"{self.name}_{kind}"


@dataclass(frozen=True)
class Pipeline(PipelineSettings):
    """The pipeline of a step or a service."""

    contract: Contract
