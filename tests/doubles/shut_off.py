"""A place for programs that call their makers: a network namespace with this computer's loopback and nothing else.

Sockets belong to the namespace that they were made in, whoever has them: a node of the tests listens on one that was
made there, and names are asked of these tests, which know none and write down which were asked.
"""

from __future__ import annotations

import array
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.network import CommandFailed, run

HEADER_BYTES = 12  # of a DNS message
NO_SUCH_NAME = b"\x81\x83"  # the flags of the answer
RESOLVERS = Path("/etc/netns")  # where ip-netns(8) looks for a namespace's own resolv.conf
# Run inside: makes both sockets there, and hands them over standard input, which is a socket itself.
MAKES_SOCKETS = """
import array, socket
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
made = array.array("i", [listener.fileno(), names.fileno()])
socket.socket(fileno=0).sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, made)])
"""


@dataclass(frozen=True, slots=True)
class ShutOff:
    """`command` is put before a program's; `listener` is for a node that it may reach; `asked` are the names of other
    computers that anything in there wanted the addresses of."""

    command: Sequence[str]
    listener: socket.socket
    asked: list[str] = field(default_factory=list[str])


def name_asked(message: bytes) -> str:
    """The name that a DNS query is about (RFC 1035, 4.1.2)."""
    labels: list[str] = []
    at = HEADER_BYTES
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels)


def refusal(message: bytes) -> bytes:
    """The answer to a DNS query that there is no such name."""
    end = message.index(0, HEADER_BYTES) + 5  # the name's end, its type and class
    counts = b"\x00\x01" + bytes(6)  # one question, nothing else
    return message[:2] + NO_SUCH_NAME + counts + message[HEADER_BYTES:end]


@contextmanager
def shut_off() -> Generator[ShutOff | None]:
    """Such a place, until the block ends; None where this machine cannot make one (no root, no Linux)."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        yield None
        return
    name = f"swarm-clients-{os.getpid()}-{threading.get_ident()}"
    try:
        run("ip", "netns", "add", name)
    except CommandFailed:
        yield None
        return
    resolver = RESOLVERS / name
    try:
        resolver.mkdir(parents=True)
        (resolver / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        run("ip", "-n", name, "link", "set", "lo", "up")
        command = ("ip", "netns", "exec", name)
        listener, names = _sockets_of(command)
        with listener, names:
            place = ShutOff(command, listener)
            ended, end = socket.socketpair()
            with ended:
                answering = threading.Thread(target=_answer, args=(names, ended, place.asked), name="names")
                answering.start()
                try:
                    with end:
                        yield place
                finally:
                    answering.join()
    finally:
        shutil.rmtree(resolver, ignore_errors=True)
        run("ip", "netns", "delete", name)


def _sockets_of(command: Sequence[str]) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([*command, sys.executable, "-c", MAKES_SOCKETS], stdin=theirs.fileno(), check=True, timeout=60)
        made = array.array("i")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(2 * made.itemsize))
    made.frombytes(ancillary[0][2])
    listener, names = made
    return socket.socket(fileno=listener), socket.socket(fileno=names)


def _answer(names: socket.socket, ended: socket.socket, asked: list[str]) -> None:
    while True:
        ready, _, _ = select.select([names, ended], [], [])
        if ended in ready:
            return
        message, asker = names.recvfrom(4096)
        asked.append(name_asked(message))
        names.sendto(refusal(message), asker)
