"""Every port of the platform is free, or says who holds it, before anything starts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

import psutil

from apex_ml.errors import ConfigError
from apex_ml.setting_sources import variable_of
from apex_ml.settings import Settings

PORTS = {
    "pg_port": "Postgres",
    "mlflow_port": "MLflow",
    "airflow_port": "Airflow",
    "serving_port": "the online service",
}
ADDRESSES = {
    "pg_port": "APEX_PG_HOST",
    "mlflow_port": "APEX_MLFLOW_TRACKING_URI",
    "airflow_port": "APEX_AIRFLOW_URL",
}
"""The settings that say where such a service runs elsewhere."""


def check_ports(settings: Settings, names: Collection[str] = tuple(PORTS), ours: Collection[int] = ()) -> None:
    """Return when the named ports can be bound, or are held by one of the process ids in ``ours``.

    Otherwise raises one ConfigError that names every taken port, its holder if known, and the setting to change;
    also when two settings name the same port.
    """
    problems: list[str] = []
    names_by_port: dict[int, str] = {}
    for name in names:
        port: int = getattr(settings, name)
        label = f"port {port} for {PORTS[name]} ({variable_of(name)})"
        if port in names_by_port:
            problems.append(f"{label} is also {variable_of(names_by_port[port])}")
            continue
        names_by_port[port] = name
        reason = _refusal(settings.serving_address if name == "serving_port" else settings.host, port)
        if reason is None:
            continue
        holder = listener(port)
        if holder is not None and holder.pid in ours:
            continue
        problems.append(f"{label} {reason}" + (f" by {_describe(holder)}" if reason == "is taken" else ""))
    if problems:
        raise ConfigError("; ".join(problems) + "; set other ports in the environment or in " + str(settings.env_file))


def stranger(settings: Settings, name: str, url: str = "") -> str:
    """Name the setting of a service that something else answers for, who that is if known, and the remedy.

    ``name`` is a key of PORTS; ``url`` is set when the settings name an address instead of the port.
    """
    port: int = getattr(settings, name)
    if url:
        return f"{ADDRESSES[name]}={url} is not the address of {PORTS[name]}: correct it in {settings.env_file}"
    holder = listener(port)
    held = f"held by {_describe(holder)}" if holder else "held by a process of another user"
    return (
        f"port {port} ({variable_of(name)}) is {held}: stop that, or set another port in {settings.env_file};"
        " then: make up"
    )


def _refusal(host: str, port: int) -> str | None:
    """Why nothing can listen there; None when it can. A port in TIME_WAIT counts as free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
    return None


def listener(port: int) -> psutil.Process | None:
    """The process that listens on a TCP port, when this user may know it."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # some systems show sockets to root only
        return None
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            try:
                return psutil.Process(connection.pid) if connection.pid else None
            except psutil.NoSuchProcess:
                return None
    return None


def _describe(process: psutil.Process | None) -> str:
    if process is None:
        return "another user's process"
    try:
        command = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        command = "?"
    return f"pid {process.pid} ({command[:120]})"
