"""What a shell exports for other tools does not reach the clients of the platform's own services.

Proxies, libpq's ``PG…`` and MLflow's variables are read by the libraries themselves, at any time, so they are taken
out of the environment of a process: by every `apex` command when it begins, and for every service when it is started.
What points outside of the platform honours them as ever: a webhook, a mail server, an MLflow or a Postgres elsewhere.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from apex_ml.settings import Settings

logger = logging.getLogger(__name__)

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


PROXIES = ("http_proxy", "https_proxy", "all_proxy")
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


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
    """Whether the rows are in a Postgres of the platform, for which libpq's variables are never meant."""
    return urlsplit(settings.writer_url).hostname in {*own_hosts(settings), None}


def shielded(variables: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the variables without what would come between the platform's own clients and its services."""
    hosts = own_hosts(settings)
    dropped: list[str] = []
    if has_own_database(settings):
        dropped.append("PG")
    if urlsplit(settings.tracking_uri).hostname in hosts:
        dropped.append("MLFLOW_TRACKING_")
    kept = {
        name: value
        for name, value in variables.items()
        if name not in OF_A_RUN and not name.startswith(tuple(dropped)) and not unusable(name, value)
    }
    # libraries read either name, and the small one wins where both are set
    given = [part.strip() for name in ("no_proxy", "NO_PROXY") for part in kept.get(name, "").split(",")]
    if "*" not in given:
        without = ",".join(dict.fromkeys([*filter(None, given), *hosts]))
        kept |= {"no_proxy": without, "NO_PROXY": without}
    return kept


def unusable(name: str, value: str) -> str:
    """Why every HTTP client would fail of a variable, even of one for other addresses; empty when none does.

    >>> unusable("ALL_PROXY", "http://proxy.example.org:3128"), unusable("http_proxy", "proxy:3128"), unusable("A", "b")
    ('', '', '')
    >>> unusable("ALL_PROXY", "quic://proxy.example.org")
    'has a scheme that is not supported; give an http:// proxy'
    """
    if name in CERTIFICATES:
        return "" if not value or os.path.exists(value) else "names no file"
    if not value or name.lower() not in PROXIES:
        return ""
    try:
        scheme = urlsplit(value).scheme if "://" in value else "http"
    except ValueError:
        return "is no URL"
    known = ("http", "https") if find_spec("socksio") is None else ("http", "https", "socks5", "socks5h")
    return "" if scheme in known else "has a scheme that is not supported; give an http:// proxy"


def shield_process(settings: Settings) -> None:
    """Do the same to the environment of this process; what no client could use is said."""
    kept = shielded(os.environ, settings)
    for name in sorted(os.environ):
        if why := unusable(name, os.environ[name]):
            logger.warning("%s of the environment %s; it is not used", name, why)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.environ.update(kept)
