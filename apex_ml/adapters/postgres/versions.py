"""Registered versions of the model: what each was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.session import Session
from apex_ml.core.version_reference import VersionReference
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text


@dataclass(frozen=True)
class VersionRecord:
    """What a registered version was made from; `about` is the JSON of what was recorded about it in training."""

    model_version: int
    mlflow_run_id: str
    data_sha256: str
    contract_sha256: str
    git_commit: str | None
    step_run: str
    about: Mapping[str, Any]
    contract_identity: str | None = None
    """Identity of the contract; None for a version that an older version of Apex trained."""


class VersionLedger(Protocol):
    """The registered versions of one model."""

    def record(self, version: VersionRecord) -> None:
        """Keep what a version was made from; a version that is known stays as it is.

        Raises :class:`~apex_ml.errors.ConfigError` when the version is known as another run's.
        """

    def newest(self) -> int | None:
        """The newest version that any ledger names; None when there is none."""
        ...

    def contract_identity(self, version: int) -> str | None:
        """Identity of the contract of a version's training; None for one that an older version of Apex trained."""
        ...

    def references(self) -> dict[int, VersionReference]:
        """What the scored rows of every version are compared with, as recorded in training."""
        ...

    def runs_in_use(self) -> dict[str, int]:
        """The runs of the newest version and of every version that was ever champion, each with its version."""
        ...


class PostgresVersions(VersionLedger):
    """The versions in the table model_versions."""

    def __init__(self, session: Session, model_name: str) -> None:
        self._session = session
        self._model_name = model_name

    @override
    def record(self, version: VersionRecord) -> None:
        values = asdict(version) | {"model_name": self._model_name, "about": json_text(version.about)}
        marks = ", ".join(f"%({name})s" + ("::text::jsonb" if name == "about" else "") for name in values)
        self._session.execute(
            f"INSERT INTO model_versions ({', '.join(values)}) VALUES ({marks}) ON CONFLICT DO NOTHING", values
        )
        row = self._session.fetch_one(
            "SELECT mlflow_run_id FROM model_versions WHERE model_name = %s AND model_version = %s",
            (self._model_name, version.model_version),
        )
        if row != (version.mlflow_run_id,):
            raise ConfigError(
                f"version {version.model_version} of {self._model_name} was trained before, by MLflow's run"
                f" {row and row[0]}: the registered model was deleted in MLflow and created again, which counts from 1"
                " again; start again under another model.name in the pipeline's file"
            )

    @override
    def newest(self) -> int | None:
        row = self._session.fetch_one(
            "SELECT greatest((SELECT max(model_version) FROM model_versions WHERE model_name = %(name)s),"
            " (SELECT max(to_version) FROM promotions WHERE model_name = %(name)s))",
            {"name": self._model_name},
        )
        return row[0] if row else None

    @override
    def contract_identity(self, version: int) -> str | None:
        row = self._session.fetch_one(
            "SELECT contract_identity FROM model_versions WHERE model_name = %s AND model_version = %s",
            (self._model_name, version),
        )
        return row[0] if row else None

    @override
    def references(self) -> dict[int, VersionReference]:
        rows = self._session.fetch(
            "SELECT model_version, about::text FROM model_versions WHERE model_name = %s", (self._model_name,)
        )
        return {version: VersionReference.from_dict(json.loads(about)) for version, about in rows}

    @override
    def runs_in_use(self) -> dict[str, int]:
        rows = self._session.fetch(
            "SELECT step_run, model_version FROM model_versions WHERE model_name = %(name)s AND (model_version IN"
            " (SELECT to_version FROM promotions WHERE model_name = %(name)s AND action <> 'reject')"
            " OR model_version = (SELECT max(model_version) FROM model_versions WHERE model_name = %(name)s))",
            {"name": self._model_name},
        )
        return dict(rows)
