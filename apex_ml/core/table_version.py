"""One version of a Delta or Iceberg table: what a batch was read from, or what a drop is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from apex_ml.json_text import json_text

TableFormat = Literal["delta", "iceberg"]


@dataclass(frozen=True)
class TableVersion:
    """A version of a table. `version` is the version of a Delta table, or the snapshot id of an Iceberg table.

    `name` is that of its folder, for people; the table is known by `table_id`.
    """

    format: TableFormat
    name: str
    table_id: str
    version: int
    committed_at: datetime | None = None

    def identity(self) -> str:
        """Sha256 that no other version of any table has.

        >>> TableVersion("delta", "claims", "09b6", 3).identity()[:12]
        '9f69eae346e7'
        """
        return hashlib.sha256(json_text([self.format, self.table_id, str(self.version)]).encode()).hexdigest()

    def __str__(self) -> str:
        """The version as people read it.

        >>> print(TableVersion("delta", "claims", "09b6", 3, datetime(2026, 1, 2, 3, 4, tzinfo=UTC)))
        claims: Delta version 3 of 2026-01-02 03:04 UTC, table 09b6
        """
        kind = "Delta version" if self.format == "delta" else "Iceberg snapshot"
        since = f" of {self.committed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.committed_at else ""
        return f"{self.name}: {kind} {self.version}{since}, table {self.table_id}"

    def as_dict(self) -> dict[str, Any]:
        """A form that JSON can hold. The version is text, as the ids of Iceberg exceed the numbers of JavaScript."""
        at = None if self.committed_at is None else self.committed_at.isoformat()
        values: dict[str, Any] = {"format": self.format, "name": self.name, "table_id": self.table_id}
        return values | {"version": str(self.version), "committed_at": at}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableVersion:
        """Read the form of :meth:`as_dict`. Raises KeyError or ValueError for another one."""
        at = values["committed_at"]
        return cls(
            format=values["format"],
            name=values["name"],
            table_id=values["table_id"],
            version=int(values["version"]),
            committed_at=None if at is None else datetime.fromisoformat(at),
        )


def from_ms(milliseconds: object) -> datetime | None:
    """The time of a commit, from milliseconds since 1970 in its log; None for anything else."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None
