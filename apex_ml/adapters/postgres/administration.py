"""What `apex up` asks of Postgres besides the tables of Apex: logins, the superuser, Airflow's own database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from apex_ml.adapters.postgres.connection import Connection, PsycopgSession, begin
from apex_ml.adapters.postgres.errors import is_full
from apex_ml.errors import ConfigError, TransientError
from apex_ml.settings import Settings
from apex_ml.sql.quote import identifier, literal

LoginError = psycopg2.OperationalError
"""Raised when Postgres does not answer or refuses a login."""


def connect_superuser(settings: Settings, socket: Path, role: str, database: str = "postgres") -> Connection:
    """A connection of the superuser, who enters by the socket alone. Raises LoginError."""
    return psycopg2.connect(
        host=str(socket),
        port=settings.pg_port,
        user=role,
        password=settings.pg_admin_password.get_secret_value(),
        dbname=database,
        connect_timeout=5,
    )


def password_statement(role: str, password: str) -> str:
    """The statement that sets a password, for the server's single-user mode."""
    return f"ALTER ROLE {role} PASSWORD {literal(password)};\n"


_READERS = re.compile(r' TO "?([a-z][a-z0-9_]*_reader)"?;$', re.MULTILINE)


def make_readers_of(connection: Connection, schema_text: str) -> None:
    """Make the readers of pipelines that the SQL of a dump grants something to, without a login.

    A pipeline whose file is gone has no role on a new server; its tables are restored anyway.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        for role in sorted(set(_READERS.findall(schema_text))):
            cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.fetchall():
                cursor.execute(f"CREATE ROLE {identifier(role)} NOLOGIN NOINHERIT")


def drop_databases(connection: Connection, names: Iterable[str]) -> None:
    """Drop the existing databases, even with open connections."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def can_log_in(url: str) -> bool:
    """Whether a role reaches its database; also when people hold all of its connections."""
    try:
        psycopg2.connect(url, connect_timeout=5).close()
    except psycopg2.OperationalError as error:
        return is_full(str(error))
    return True


def split_url(url: str) -> tuple[str, str]:
    """A connection string without the password, and the password; raises ConfigError when the URL cannot be read."""
    try:
        parts = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        raise ConfigError(str(error).strip()) from error
    password = str(parts.pop("password", ""))
    return make_dsn(**parts), password


@contextmanager
def airflow_database(settings: Settings) -> Iterator[Connection]:
    """Connect to Airflow's database as its owner. Raises TransientError when it does not answer."""
    url = settings.postgres_url("airflow", settings.pg_airflow_password, "airflow")
    try:
        connection = psycopg2.connect(url, connect_timeout=10)
    except psycopg2.OperationalError as error:
        raise TransientError(f"Airflow's database does not answer on port {settings.pg_port}: {error}") from error
    try:
        yield connection
    finally:
        connection.close()


def airflow_revision(connection: Connection) -> str:
    """The revision of Airflow's tables; empty before they are made."""
    with begin(connection) as session:
        if session.fetch_one("SELECT to_regclass('alembic_version') IS NOT NULL") != (True,):
            return ""
        row = session.fetch_one("SELECT version_num FROM alembic_version")
        return str(row[0]) if row else ""


def make_pools(settings: Settings, pools: Mapping[str, tuple[int, str]]) -> None:
    """Make the pools of Airflow that are missing, by name with slots and description; others stay as they are."""
    with airflow_database(settings) as connection, begin(connection) as session:
        for name, (slots, description) in pools.items():
            _make_pool(session, name, slots, description)


def _make_pool(session: PsycopgSession, name: str, slots: int, description: str) -> None:
    session.execute(
        "INSERT INTO slot_pool (pool, slots, description, include_deferred)"
        " SELECT %(name)s, %(slots)s, %(description)s, false"
        " WHERE NOT EXISTS (SELECT FROM slot_pool WHERE pool = %(name)s)",
        {"name": name, "slots": slots, "description": description},
    )
