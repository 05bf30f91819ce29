"""The role of each pipeline that reads its views alone, `<pipeline>_reader`, and its password.

The password follows from that of apex_reader, which reads every pipeline: a new pipeline needs no new secret, and who
has the password of one pipeline cannot find another's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from apex_ml.adapters.postgres.administration import split_url
from apex_ml.errors import ConfigError
from apex_ml.pipeline_settings import name_fault, settings_by_pipeline
from apex_ml.settings import Settings
from apex_ml.sql.roles import reader_role

READERS = "APEX_PG_PIPELINE_READERS"
"""The variable by which roles.sql gets them: `claims=PASSWORD,visits=PASSWORD`."""


def reader_names(settings: Settings) -> list[str]:
    """The pipelines whose name can be that of a schema and a role."""
    return [name for name in settings_by_pipeline(settings) if name_fault(name) is None]


def reader_password(settings: Settings, pipeline: str) -> str:
    """The password of a pipeline's reader; empty while apex_reader has none."""
    secret = settings.pg_reader_password.get_secret_value()
    if not secret:
        return ""
    return hmac.new(secret.encode(), f"reader of {pipeline}".encode(), hashlib.sha256).hexdigest()


def readers_variable(settings: Settings, pipelines: Iterable[str]) -> str:
    """The readers of some pipelines with their passwords, as the value of READERS."""
    return ",".join(f"{name}={reader_password(settings, name)}" for name in pipelines)


def reader_url(settings: Settings, pipeline: str) -> str:
    """The URL with which a team reads its pipeline, with the password.

    Raises :class:`~apex_ml.errors.ConfigError` on a server that another makes the roles of, and before the first start.
    """
    role = reader_role(pipeline)
    if settings.reader_database_url:
        address, _ = split_url(settings.reader_url)
        raise ConfigError(
            f"APEX_READER_DATABASE_URL names a server of yours ({address}): who administers it makes the role {role}"
            " and its password with deployment/postgres/roles.sql"
        )
    password = reader_password(settings, pipeline)
    if not password:
        raise ConfigError(f"role {role} has no password yet: `apex up` makes the roles")
    host = settings.pg_host or settings.host
    return f"postgresql://{role}:{password}@{host}:{settings.pg_port}/apex"
