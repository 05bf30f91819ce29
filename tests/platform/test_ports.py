"""A taken port is reported before anything starts."""

from __future__ import annotations

import os
import socket

import pytest

from apex_ml.errors import ConfigError
from apex_ml.platform.embedded.ports import check_ports, listener
from apex_ml.settings import Settings


def _hold(port: int) -> socket.socket:
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    held.listen(1)
    return held


def test_free_ports_pass(settings: Settings) -> None:
    check_ports(settings)


def test_all_taken_ports_are_in_one_message(settings: Settings) -> None:
    with _hold(settings.mlflow_port), _hold(settings.airflow_port), pytest.raises(ConfigError) as caught:
        check_ports(settings)
    message = str(caught.value)
    for port, name in ((settings.mlflow_port, "APEX_MLFLOW_PORT"), (settings.airflow_port, "APEX_AIRFLOW_PORT")):
        assert f"port {port}" in message and name in message
    assert f"pid {os.getpid()}" in message
    assert "APEX_PG_PORT" not in message


def test_own_processes_can_hold_a_port(settings: Settings) -> None:
    with _hold(settings.pg_port):
        check_ports(settings, ours=[os.getpid()])


def test_same_port_twice_is_refused(settings: Settings) -> None:
    twice = settings.model_copy(update={"mlflow_port": settings.airflow_port})
    with pytest.raises(ConfigError, match="APEX_AIRFLOW_PORT.* is also APEX_MLFLOW_PORT"):
        check_ports(twice)


def test_a_free_port_has_no_listener(settings: Settings) -> None:
    assert listener(settings.pg_port) is None
