"""Listening sockets that systemd opened and hands over (its socket activation): a restart refuses nobody.

They outlive each process; whoever connects while none runs waits in the system's queue for the next.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Final

from swarm.errors import SetupError

FIRST_FD: Final = 3  # sd_listen_fds(3): after standard input, output and error
MAX_FDS: Final = 16  # two are of use, one for each family
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def handed_over(environ: MutableMapping[str, str], pid: int) -> range:
    """The descriptors meant for process `pid`; none where the variables are absent or meant for another.

    Takes the variables out of `environ`: children have no business with them. Raises SetupError for nonsense.
    """
    given = {name: environ.pop(name) for name in _VARIABLES if name in environ}
    if given.get("LISTEN_PID") != str(pid):
        return range(0)
    count = given.get("LISTEN_FDS", "")
    if not (len(count) <= len(str(MAX_FDS)) and count.isascii() and count.isdecimal() and int(count) <= MAX_FDS):
        raise SetupError(f"LISTEN_FDS is {count[:20]!r}: at most {MAX_FDS} sockets can be handed over")
    return range(FIRST_FD, FIRST_FD + int(count))


def take_listeners(environ: MutableMapping[str, str], pid: int, bind_hosts: Sequence[str]) -> tuple[socket.socket, ...]:
    """The sockets handed over to this process, () for none.

    Raises SetupError for what is no listening TCP socket, and where one listens wider than `bind_hosts`, which is what
    this node says of itself and checks its callers by.
    """
    listeners = tuple(_take(fd) for fd in handed_over(environ, pid))
    ports = {int(listener.getsockname()[1]) for listener in listeners}
    if len(ports) > 1:
        raise SetupError(f"the sockets handed over listen on different ports ({sorted(ports)}): give them one")
    for listener in listeners:
        host = str(listener.getsockname()[0])
        if not covers(bind_hosts, host):
            raise SetupError(
                f"the socket handed over listens on {host}, and this node is set to {', '.join(bind_hosts)}: "
                "change ListenStream= in the .socket unit, or start the node with --federation or --host"
            )
    return listeners


def covers(bind_hosts: Sequence[str], host: str) -> bool:
    """Whether a node that is to listen on `bind_hosts` may listen on `host`."""
    wanted = {ipaddress.ip_address(bound.partition("%")[0]) for bound in bind_hosts}
    found = ipaddress.ip_address(host.partition("%")[0])
    everywhere = any(address.is_unspecified for address in wanted)
    return found in wanted or everywhere or (found.is_loopback and all(address.is_loopback for address in wanted))


def _take(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise SetupError(f"descriptor {fd}, which LISTEN_FDS names, is no socket ({error.strerror})") from error
    tcp = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
    if not (tcp and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        listener.close()
        raise SetupError(f"descriptor {fd}, which LISTEN_FDS names, is no listening TCP socket")
    if listener.family == socket.AF_INET6 and not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        listener.close()
        raise SetupError("the socket handed over takes IPv4 as IPv6: set BindIPv6Only=ipv6-only in the .socket unit")
    listener.setblocking(False)
    return listener
