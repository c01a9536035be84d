"""Sockets that systemd opened: taken where they are meant for this process, refused with a reason where wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.node.listeners import covers, handed_over, take_listeners
from tests.doubles.handing_over import command_with_listeners, held

OWN = 4242
ROOT = Path(__file__).resolve().parents[2]
TAKE = """
import os, sys
from swarm.errors import SetupError
from swarm.node.listeners import take_listeners
try:
    taken = take_listeners(os.environ, os.getpid(), sys.argv[1:])
except SetupError as error:
    sys.exit(str(error))
print(*(listener.getsockname()[1] for listener in taken), *(name for name in os.environ if name.startswith("LISTEN_")))
"""


@pytest.mark.parametrize(
    ("environ", "fds"),
    [
        ({}, []),
        ({"LISTEN_PID": "4242", "LISTEN_FDS": "1"}, [3]),
        ({"LISTEN_PID": "4242", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, [3, 4]),
        ({"LISTEN_PID": "4242", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, []),
        ({"LISTEN_FDS": "1"}, []),
    ],
    ids=["none", "one", "two", "zero", "another process's", "nobody's"],
)
def test_the_descriptors_for_this_process_are_told_and_the_variables_go(
    environ: dict[str, str], fds: list[int]
) -> None:
    environ = {**environ, "HOME": "/home/me"}
    assert list(handed_over(environ, OWN)) == fds
    assert environ == {"HOME": "/home/me"}


@pytest.mark.parametrize("count", ["", "-1", "x", "17", "1e3", "9" * 5000])
def test_a_count_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(SetupError, match="LISTEN_FDS"):
        handed_over({"LISTEN_PID": str(OWN), "LISTEN_FDS": count}, OWN)


@pytest.mark.parametrize(
    ("bound", "host", "may"),
    [
        (["0.0.0.0", "::"], "0.0.0.0", True),
        (["0.0.0.0", "::"], "::", True),
        (["0.0.0.0", "::"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "::1", True),
        (["127.0.0.1"], "0.0.0.0", False),
        (["192.168.1.5"], "192.168.1.5", True),
        (["192.168.1.5"], "192.168.1.6", False),
        (["192.168.1.5"], "127.0.0.1", False),
    ],
)
def test_a_socket_may_not_be_wider_than_what_the_node_says_of_itself(bound: list[str], host: str, may: bool) -> None:
    assert covers(bound, host) is may


def taken_by_a_process(*listeners: socket.socket, bound: str = "127.0.0.1") -> subprocess.CompletedProcess[str]:
    """What a process that is handed `listeners` makes of them."""
    return subprocess.run(
        command_with_listeners([sys.executable, "-c", TAKE, bound], listeners),
        pass_fds=[listener.fileno() for listener in listeners],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_real_descriptors_are_taken() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(held(socket.create_server(("127.0.0.1", 0))))
        ran = taken_by_a_process(listener)
        assert (ran.returncode, ran.stdout.split()) == (0, [str(listener.getsockname()[1])]), ran.stderr


@pytest.mark.parametrize("wrong", ["no socket there", "not listening", "too wide", "other ports", "both families"])
def test_what_cannot_be_listened_on_is_refused_with_the_reason(wrong: str) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(held(socket.create_server(("127.0.0.1", 0))))]
        bound, told = "127.0.0.1", ""
        match wrong:
            case "no socket there":
                pipe = os.pipe()
                stack.callback(os.close, pipe[1])
                os.dup2(pipe[0], listeners[0].fileno())
                os.close(pipe[0])
                told = "is not a socket"
            case "not listening":
                listeners = [stack.enter_context(held(socket.socket()))]
                told = "is not a listening TCP socket"
            case "too wide":
                listeners = [stack.enter_context(held(socket.create_server(("0.0.0.0", 0))))]
                told = "change ListenStream="
            case "other ports":
                listeners.append(stack.enter_context(held(socket.create_server(("127.0.0.1", 0)))))
                told = "different ports"
            case _:
                listeners = [
                    stack.enter_context(
                        held(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
                    )
                ]
                bound, told = "0.0.0.0", "BindIPv6Only=ipv6-only"
        ran = taken_by_a_process(*listeners, bound=bound)
        assert ran.returncode == 1
        assert told in ran.stderr, ran.stderr
        assert "Traceback" not in ran.stderr


def test_nobody_handed_anything_over() -> None:
    assert take_listeners({}, OWN, ["127.0.0.1"]) == ()
