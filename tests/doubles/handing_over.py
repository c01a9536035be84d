"""What systemd does for a socket-activated service: hold a listening socket and start a process that is to use it."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

FIRST_FD = 3
ABOVE = 20  # where no handover overwrites a descriptor


@contextmanager
def held(opened: socket.socket) -> Iterator[socket.socket]:
    """`opened` under a descriptor that can be handed over."""
    with closing(opened):
        again = socket.socket(fileno=fcntl.fcntl(opened.fileno(), fcntl.F_DUPFD_CLOEXEC, ABOVE))
    with closing(again):
        yield again


def command_with_listeners(command: Sequence[str], listeners: Sequence[socket.socket]) -> tuple[str, ...]:
    """`command` begun by a shell that puts `listeners` where the protocol wants them and keeps its process id.

    Start it with `pass_fds` of the listeners' descriptors.
    """
    numbers = [listener.fileno() for listener in listeners]
    assert all(number >= FIRST_FD + len(numbers) for number in numbers), "they would overwrite each other"
    moves = " ".join(f"{FIRST_FD + place}<&{number}" for place, number in enumerate(numbers))
    script = f'LISTEN_PID=$$ LISTEN_FDS={len(numbers)} exec "$@" {moves}'
    return ("bash", "-c", script, "handing-over", *command)
