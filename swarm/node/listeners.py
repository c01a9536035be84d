"""The sockets that a node listens on: IPv4 and IPv6 side by side on one port, and on further ones (`--also-port`).

Listening sockets that systemd opened and hands over (its socket activation): a restart refuses nobody.

They outlive each process; whoever connects while none runs waits in the system's queue for the next.
"""

from __future__ import annotations

import errno
import http.client
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

import psutil

from federation.hostport import MAX_PORT
from federation.printable_text import clean_line
from swarm.errors import SetupError

LISTEN_BACKLOG: Final = 1024
PORT_TRIES: Final = 8  # for --port 0: a port that is free for one family may be taken for the other
PORT_STEP: Final = 2  # to another node's: the port after a node's own is where one of 0.1 takes whoever it invites
ASK_S: Final = 1.0  # whoever listens on a port that is wanted; a program of this machine answers within ms
MAX_GREETING_BYTES: Final = 64
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


@dataclass(frozen=True, slots=True)
class AlsoPorts:
    """Further ports of a node: `ports` are listened on by `listeners`, `problems` say why others are not."""

    ports: tuple[int, ...] = ()
    listeners: tuple[socket.socket, ...] = ()
    problems: tuple[str, ...] = ()


def open_also(
    bind_hosts: Sequence[str], ports: Iterable[int], who_listens: Callable[[int], str | None] | None = None
) -> AlsoPorts:
    """Listening sockets on further ports, each on all of the hosts or not at all: a taken one is no error.

    Blocks, for up to `ASK_S` where somebody else listens there.
    """
    who_listens = who_listens or listening_program
    opened: list[int] = []
    listeners: list[socket.socket] = []
    problems: list[str] = []
    for port in dict.fromkeys(ports):
        try:
            listeners += _open_all(bind_hosts, port)
            opened.append(port)
        except SetupError as error:
            problems.append(_also_problem(bind_hosts[0], port, error, who_listens))
    return AlsoPorts(tuple(opened), tuple(listeners), tuple(problems))


def _also_problem(host: str, port: int, error: SetupError, who_listens: Callable[[int], str | None]) -> str:
    """What the banner says of a further port that cannot be had, and why."""
    cause = error.__cause__
    if not (isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE):
        return f"not port {port}: {error}"
    who = who_listens(port) or ("Ollama" if _is_ollama(host, port) else "another program")
    return (
        f"not port {port}: {who} listens there already; stop it and start this node again, "
        f"or leave out --also-port {port}"
    )


def listening_program(port: int) -> str | None:
    """The name and number of the process that listens on `port`; None where the system does not tell this user."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    continue
                return f"{clean_line(psutil.Process(connection.pid).name())} (process {connection.pid})"
    except (psutil.Error, OSError, RuntimeError):
        return None
    return None


def _is_ollama(host: str, port: int) -> bool:
    """Whether what listens there greets as Ollama does (its `GET /` is "Ollama is running")."""
    address = ipaddress.ip_address(host.partition("%")[0])
    here = ("::1" if address.version == 6 else "127.0.0.1") if address.is_unspecified else host
    connection = http.client.HTTPConnection(here, port, timeout=ASK_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read(MAX_GREETING_BYTES).startswith(b"Ollama")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


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
