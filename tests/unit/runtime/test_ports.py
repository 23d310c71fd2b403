"""Ports: free, the same again, never one twice."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from foundry_ray.errors import ClusterUnreachable
from foundry_ray.runtime import ports


def test_a_home_gets_the_same_distinct_ports_again(tmp_path: Path) -> None:
    first = ports.free_ports(tmp_path, 4)
    assert ports.free_ports(tmp_path, 4) == first
    assert len(set(first)) == 4
    assert all(20_000 <= port < 32_000 for port in first)


def test_a_port_that_is_taken_is_not_given_out(tmp_path: Path) -> None:
    port = ports.free_port(tmp_path)
    with socket.create_server(("127.0.0.1", port)):
        assert ports.is_listening(port)
        assert ports.free_port(tmp_path) != port
        assert ports.free_ports(tmp_path, 1, remembered=[port]) != (port,)
    assert not ports.is_listening(port)


def test_remembered_ports_stay_where_they_are_free(tmp_path: Path) -> None:
    other = ports.free_ports(tmp_path / "other", 2)
    assert ports.free_ports(tmp_path, 2, remembered=other) == other


def test_no_free_port_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    with pytest.raises(ClusterUnreachable, match="No TCP port from 20000 to 32000 is free"):
        ports.free_port(tmp_path)
