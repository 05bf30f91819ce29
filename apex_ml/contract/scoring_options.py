"""How a pipeline's drops are noticed and scored: the section ``scoring`` of ``pipeline.yaml``.

Airflow reads it, so this module imports neither Arrow nor a package of machine learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from apex_ml.contract.event_queue import EventQueue
from apex_ml.contract.part import ContractPart, ContradictionError

MAX_MINUTES = 366 * 24 * 60
"""A year: longer than any time limit. Adding much more to a date would leave the calendar."""

FolderCompletion = Literal["marker", "manifest", "quiet", "never"]


@dataclass(frozen=True)
class FolderRule:
    """When a folder in an inbox is a complete drop: see the keys of the same names of :class:`Scoring`."""

    complete: FolderCompletion
    file: str = "_SUCCESS"
    quiet_seconds: float = 60.0


class Scoring(ContractPart):
    """How drops are noticed and scored."""

    poll_seconds: float = Field(
        2.0, gt=0, le=3600, description="Interval at which the inbox is checked for new drops, in seconds."
    )
    upload_minutes: float = Field(
        10,
        ge=0,
        le=MAX_MINUTES,
        description="Upload timeout, in minutes: an incomplete parquet file in the inbox that has not changed for this"
        " long is quarantined.",
    )
    deadline_minutes: int = Field(
        60, ge=1, le=MAX_MINUTES, description="Scoring deadline of a drop, in minutes after it arrived."
    )
    after: Literal["move", "keep"] = Field(
        "move",
        exclude_if=lambda after: after == "move",
        description="Whether a scored drop in an object store is moved to done/ (move), or stays where it is (keep), in"
        " a bucket that may only be read.",
    )
    ascending_keys: bool = Field(
        False,
        exclude_if=lambda ascending: not ascending,
        description="With after: keep, whether new objects get keys that sort after the older ones, as dated prefixes"
        " do. Then only those are listed, and all of them once a day.",
    )
    events: EventQueue = Field(
        "",
        exclude_if=lambda events: not events,
        description="Queue whose messages say that an object store has new drops, so that they are noticed at once:"
        " the URL of a queue in SQS, kafka://<connection>/<topic>, or google+pubsub://<project>/<subscription>. The"
        " inbox is checked every poll_seconds all the same. Needs the packages of apex-ml[events].",
    )
    source: Literal["files", "delta", "iceberg"] = Field(
        "files",
        exclude_if=lambda source: source == "files",
        description="What the drops are: files in locations.drops, or the appends to the Delta or Iceberg table that"
        " locations.drops names.",
    )
    first_version: int | None = Field(
        None,
        ge=0,
        exclude_if=lambda version: version is None,
        description="Of a table, the first version (Delta) or snapshot (Iceberg) whose appends are drops; 0: all that"
        " the table still knows. Empty: those after the version at the first look.",
    )
    folder_complete: FolderCompletion | None = Field(
        None,
        exclude_if=lambda complete: complete is None,
        description="A folder in the inbox, such as the output of Spark, is a complete drop when folder_file is in it"
        " (marker), when every file that folder_file lists is (manifest), when nothing in it has changed for"
        " folder_quiet_seconds (quiet), or never. Empty: marker, or with after: keep never, where each object is a"
        " drop.",
    )
    folder_file: str = Field(
        "_SUCCESS",
        pattern=r"^[^/]+$",
        exclude_if=lambda name: name == "_SUCCESS",
        description="Name of the marker or manifest in a folder. A manifest is a JSON list of paths, what Redshift"
        " writes, or text with one path a line.",
    )
    folder_quiet_seconds: float = Field(
        60.0,
        gt=0,
        le=MAX_MINUTES * 60,
        exclude_if=lambda seconds: seconds == 60,
        description="Time without a change after which a folder is complete with folder_complete: quiet, in seconds.",
    )
    chunk_drops: int = Field(1000, ge=1, description="Maximum number of drops in one mapped task of the scoring DAG.")
    chunk_mb: int = Field(
        256, ge=1, description="Maximum size of the drops in one mapped task of the scoring DAG, in MB."
    )

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
        if self.source == "files" and self.first_version is not None:
            raise ContradictionError([(("first_version",), "is about a table: write source: delta, or iceberg")])
        if self.source != "files" and self.ascending_keys:
            raise ContradictionError([(("ascending_keys",), f"is about files, not about source: {self.source}")])
        return self

    def folder_rule(self, *, kept: bool) -> FolderRule:
        """When a folder is a drop, in an inbox whose drops are moved, or `kept` where they are."""
        complete = self.folder_complete or ("never" if kept else "marker")
        return FolderRule(complete, self.folder_file, self.folder_quiet_seconds)
