"""What a shell exports for other tools does not reach the clients of the platform's own services.

Proxies, libpq's ``PG…`` and MLflow's variables are read by the libraries themselves, at any time, so they are taken
out of the environment of a process: by every `apex` command when it begins, and for every service when it is started.
What points outside of the platform honours them as ever: a webhook, a mail server, an MLflow or a Postgres elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from apex_ml.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")
OF_A_RUN = (
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
)
"""Variables that would make MLflow's client work in another run or on another server than the settings say."""


def own_hosts(settings: Settings) -> tuple[str, ...]:
    """Hosts on which the platform's own services are asked; in containers those of their network, names without a dot.

    >>> own_hosts(Settings.load(host="10.0.0.7"))
    ('localhost', '127.0.0.1', '::1', '10.0.0.7')
    """
    hosts = [*LOOPBACK, settings.host, settings.serving_address]
    if settings.runtime == "docker":
        urls = (settings.tracking_uri, settings.airflow, settings.docker_host, settings.serving_url)
        named = [*(urlsplit(url).hostname or "" for url in urls), settings.pg_host]
        hosts += [host for host in named if host and "." not in host]
    return tuple(dict.fromkeys(host for host in hosts if host not in EVERY_ADDRESS))


def has_own_database(settings: Settings) -> bool:
    """Whether the orders are in a Postgres of the platform, for which libpq's variables are never meant."""
    return urlsplit(settings.writer_url).hostname in {*own_hosts(settings), None}


def shielded(variables: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the variables without what would come between the platform's own clients and its services."""
    hosts = own_hosts(settings)
    dropped: list[str] = []
    if has_own_database(settings):
        dropped.append("PG")
    if urlsplit(settings.tracking_uri).hostname in hosts:
        dropped.append("MLFLOW_TRACKING_")
    kept = {n: value for n, value in variables.items() if n not in OF_A_RUN and not n.startswith(tuple(dropped))}
    # libraries read either name, and the small one wins where both are set
    given = [part.strip() for name in ("no_proxy", "NO_PROXY") for part in kept.get(name, "").split(",")]
    if "*" not in given:
        without = ",".join(dict.fromkeys([*filter(None, given), *hosts]))
        kept |= {"no_proxy": without, "NO_PROXY": without}
    return kept


def shield_process(settings: Settings) -> None:
    """Do the same to the environment of this process."""
    kept = shielded(os.environ, settings)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.environ.update(kept)
