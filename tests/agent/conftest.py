"""Over every test of the agent: nothing is asked beyond this machine, whatever a vendor's library would like to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import pytest


def is_here(address: Any) -> bool:
    """Whether an address of a socket, or a host's name, is of this machine."""
    host = address[0] if isinstance(address, tuple) else address
    if host is None or host in ("", "localhost") or str(host).startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def nothing_is_asked_beyond_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Names that are looked up and addresses that are connected to are noted, refused, and fail the test."""
    asked: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_here(address):
            asked.append(str(address))
            raise ConnectionRefusedError(f"{address} is not on this machine")
        connect(self, address)

    def checked_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_here(host):
            asked.append(str(host))
            raise socket.gaierror(f"{host} is not on this machine")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", checked_connect)
    monkeypatch.setattr(socket, "getaddrinfo", checked_look_up)
    yield
    assert not asked
