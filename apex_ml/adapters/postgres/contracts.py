"""The contract of the tables: which one they were brought to, and whether they can hold the scores of another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Protocol

from typing_extensions import override

from apex_ml.adapters.postgres.session import Session
from apex_ml.contract.changes import compare_contracts
from apex_ml.contract.encoded_names import probability_columns
from apex_ml.contract.identity import ContractIdentity
from apex_ml.contract.model import Contract
from apex_ml.errors import ConfigError
from apex_ml.json_text import json_text
from apex_ml.sql.tables import ONLINE, SCORED, online_columns, scored_columns

OWN_PIPELINE = (
    "one table never holds the rows of two such contracts. Make it a pipeline of its own: copy the file to"
    " pipelines/NAME/pipeline.yaml with `name: NAME` and another model.name, and restore this one"
)
"""What to do about a contract that the tables cannot hold."""


class ContractLedger(Protocol):
    """The contracts that the tables of a pipeline were brought to."""

    def has_tables(self) -> bool:
        """Whether the pipeline has tables."""
        ...

    def newest(self) -> ContractIdentity | None:
        """The contract of the tables; None when they were made before Apex recorded it."""
        ...

    def record(self, identity: ContractIdentity) -> None:
        """Record the contract that the tables have now, unless it is the newest recorded one."""


class PostgresContracts(ContractLedger):
    """The contracts in the table contracts."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @override
    def has_tables(self) -> bool:
        return self._session.fetch_one("SELECT to_regclass('promotions') IS NOT NULL") == (True,)

    @override
    def newest(self) -> ContractIdentity | None:
        if self._session.fetch_one("SELECT to_regclass('contracts') IS NULL") == (True,):
            return None
        row = self._session.fetch_one("SELECT content::text FROM contracts ORDER BY contract_id DESC LIMIT 1")
        return None if row is None else ContractIdentity.from_dict(json.loads(row[0]))

    @override
    def record(self, identity: ContractIdentity) -> None:
        self._session.execute(
            "INSERT INTO contracts (identity, content) SELECT %(identity)s, %(content)s::text::jsonb"
            " WHERE (SELECT identity FROM contracts ORDER BY contract_id DESC LIMIT 1) IS DISTINCT FROM %(identity)s",
            {"identity": identity.digest(), "content": json_text(identity.as_dict())},
        )


def refuse_other_contract(session: Session, contract: Contract) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` when the tables of the session's schema cannot hold this contract."""
    before = PostgresContracts(session).newest()
    refused = () if before is None else compare_contracts(before, contract).refused
    if faults := list(refused) or list(_table_faults(session, contract, is_recorded=before is not None)):
        raise ConfigError(f"pipeline {contract.name}: {'; '.join(faults)}: {OWN_PIPELINE}. Its tables are unchanged")


def refuse_missing_columns(session: Session, table: str, columns: Sequence[str]) -> None:
    """Raise :class:`~apex_ml.errors.ConfigError` when a table does not have all columns that are to be written."""
    present = {name for name, *_ in _columns(session, table)}
    if lacking := [name for name in columns if name not in present]:
        raise ConfigError(
            f"the table {table} has no column {', '.join(lacking)}: it is older than the contract. `apex up` adds what"
            " is missing; until then the drops wait in the inbox"
        )


def _table_faults(session: Session, contract: Contract, *, is_recorded: bool) -> Iterator[str]:
    """Why a table that exists cannot hold the rows of a contract; tables of before a record have its classes, too."""
    for table, expected in ((SCORED, scored_columns(contract)), (ONLINE, online_columns(contract))):
        types = {name: kind.removesuffix(" NOT NULL") for name, kind in expected.items()}
        types |= {name: "timestamp with time zone" for name, kind in types.items() if kind == "timestamptz"}
        for name, kind, is_required in _columns(session, table):
            if name in types and types[name] != kind:
                yield f"the table {table} has a column {name} of type {kind}, and the contract makes it {types[name]}"
            elif name not in types and is_required:
                yield f"the table {table} needs the column {name}, and the contract has none"
    if not is_recorded:
        yield from _lost_classes(session, contract)


def _lost_classes(session: Session, contract: Contract) -> Iterator[str]:
    known = set(probability_columns(contract.classes).values())
    for name, kind, _ in _columns(session, SCORED):
        if name.startswith("p_") and kind == "real" and name not in known:
            yield f"the table {SCORED} has the column {name} of a class that the contract does not have"


def _columns(session: Session, table: str) -> list[tuple[str, str, bool]]:
    """Name, type and whether it is required, of the columns that are written to a table; none without the table."""
    rows = session.fetch(
        "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s::text) AND attnum > 0 AND NOT attisdropped AND attidentity = ''"
        " ORDER BY attnum",
        (table,),
    )
    return [(name, kind, is_required) for name, kind, is_required in rows]
