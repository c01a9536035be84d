"""The sockets that a node listens on: IPv4 and IPv6 side by side on one port."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from federation.hostport import MAX_PORT
from swarm.errors import SetupError

LISTEN_BACKLOG: Final = 1024
PORT_TRIES: Final = 8  # for --port 0: a port that is free for one family may be taken for the other
PORT_STEP: Final = 2  # to another node's: the port after a node's own is where it listens for whoever it invites
_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def open_listeners(bind_hosts: Sequence[str], port: int) -> tuple[socket.socket, ...]:
    """Listening sockets on one port: the first host must have one, the others where the system has their family.

    Two sockets, not one for both: so an IPv4 client's address is never an IPv6 one. Raises SetupError with the remedy.
    """
    for _ in range(PORT_TRIES - 1 if port == 0 else 0):
        try:
            return _open_all(bind_hosts, port)
        except SetupError:
            continue
    return _open_all(bind_hosts, port)


def another_port(port: int) -> int:
    """One to propose where `port` is taken."""
    return port + PORT_STEP if port + PORT_STEP <= MAX_PORT else port - PORT_STEP


def _open_all(bind_hosts: Sequence[str], port: int) -> tuple[socket.socket, ...]:
    first = _open(bind_hosts[0], port)
    listeners = [first]
    try:
        for host in bind_hosts[1:]:
            try:
                listeners.append(_open(host, int(first.getsockname()[1])))
            except SetupError as error:
                cause = error.__cause__
                if not (isinstance(cause, OSError) and cause.errno in _NO_SUCH_FAMILY):
                    raise
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return tuple(listeners)


def _open(host: str, port: int) -> socket.socket:
    """One listening socket. Raises SetupError naming the port and the remedy."""
    is_ipv6 = ":" in host
    try:
        listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise SetupError(f"cannot listen on {host}: {error.strerror}") from error
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"port {port} is in use on {host}: is another node running (`swarm status`)? "
                "Stop it; or, for a second node on this machine, "
                f"give it --port {another_port(port)} and a --data-dir of its own"
            ) from error
        raise SetupError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
