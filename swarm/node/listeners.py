"""The sockets that a node listens on: IPv4 and IPv6 side by side on one port.

Listening sockets that systemd opened and hands over (its socket activation): a restart refuses nobody.

They outlive each process; whoever connects while none runs waits in the system's queue for the next.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Final

from federation.hostport import MAX_PORT
from swarm.errors import SetupError

LISTEN_BACKLOG: Final = 1024
PORT_TRIES: Final = 8  # for --port 0: a port that is free for one family may be taken for the other
PORT_STEP: Final = 2  # to another node's: the port after a node's own is where one of 0.1 takes whoever it invites
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

    Raises SetupError for what is not a listening TCP socket, and where one listens wider than `bind_hosts`, which is
    what this node says of itself and checks its callers by.
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
        raise SetupError(f"descriptor {fd}, which LISTEN_FDS names, is not a socket ({error.strerror})") from error
    tcp = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
    if not (tcp and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        listener.close()
        raise SetupError(f"descriptor {fd}, which LISTEN_FDS names, is not a listening TCP socket")
    if listener.family == socket.AF_INET6 and not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        listener.close()
        raise SetupError("the socket handed over takes IPv4 as IPv6: set BindIPv6Only=ipv6-only in the .socket unit")
    listener.setblocking(False)
    return listener
