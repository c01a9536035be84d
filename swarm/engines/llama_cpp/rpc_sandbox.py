"""Run inside a sandbox, as its first process: llama.cpp's RPC server, and connections to it for whoever is outside.

    python -I -S rpc_sandbox.py LINE DATA_BYTES PROGRAM [ARGUMENT ...]

The sandbox has a network of its own with nothing in it but loopback, so that the server's port is none of the
machine's: nobody can find it, and nothing in here can reach anything. LINE is a socket to the node outside
(AF_UNIX, SOCK_SEQPACKET), on which each message is one of

    in   c            a connection is wanted
    out  +            ... here it is (the message carries its descriptor)
    out  - WORDS      ... there is none
    out  h            this process is there: the system says outside which one it is. Said first
    out  r MAJOR.MINOR.PATCH    the server listens, and speaks this version of its protocol; said once
    out  x WORDS      the server has ended, or never came; nothing follows

When the line breaks off the node is gone, and this process ends; being the first one of its process namespace, the
system ends everything else in it. Nothing but the standard library is here, and nothing of this repository.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time

PORT = 50052  # llama.cpp's own choice; nobody else is here who could have it
START_S = 60.0  # the first use of a GPU's driver takes seconds
CONNECT_S = 5.0
LOOK_S = 0.01
HELLO = 14  # RPC_CMD_HELLO of ggml-rpc.cpp, which is pinned there
CAPABILITIES = 24  # bytes of RPC_CONN_CAPS_SIZE in transport.h: none of ours, plain TCP
MAX_FILE_BYTES = 16 << 30  # of one tensor in the cache
PR_SET_DUMPABLE = 4


def connection() -> socket.socket:
    """One to the server. Raises OSError."""
    made = socket.create_connection(("127.0.0.1", PORT), timeout=CONNECT_S)
    made.setblocking(False)
    return made


def version() -> str:
    """The server's, by its own word. Raises OSError where it does not speak as agreed."""
    for request in (bytes(CAPABILITIES), b""):  # servers before version 4 expect nothing, and close on more
        with socket.create_connection(("127.0.0.1", PORT), timeout=CONNECT_S) as asked:
            asked.sendall(struct.pack("<BQ", HELLO, len(request)) + request)
            answer = b""
            while len(answer) < 11 and (piece := asked.recv(64)):
                answer += piece
        if len(answer) >= 11:
            return ".".join(map(str, answer[8:11]))
    raise OSError("it does not answer as an RPC server of llama.cpp does")


def listens(server: "subprocess.Popen[bytes]", line: socket.socket) -> bool:
    """Whether the server takes connections, which is waited for; False where it or the node is gone."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        if select.select([line], [], [], LOOK_S)[0]:
            return False  # the node says nothing yet: it is gone
        try:
            connection().close()
        except OSError:
            continue
        return True
    return False


def limits(data_bytes: int):  # type: ignore[no-untyped-def]
    """What the server does before it is one."""

    def set_them() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
        if data_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))

    return set_them


def ended(server: "subprocess.Popen[bytes]") -> bytes:
    """Why there is no server any more, in words."""
    code = server.poll()
    if code is None:
        return b"x it does not listen"
    if code < 0:
        try:
            return b"x it was ended by " + signal.Signals(-code).name.encode()
        except ValueError:
            return b"x it was ended by signal %d" % -code
    return b"x it ended with exit code %d" % code


def serve(line: socket.socket, server: "subprocess.Popen[bytes]") -> None:
    """Hand out connections until one of the two ends."""
    life = os.pidfd_open(server.pid)
    while True:
        ready, _, _ = select.select([line, life], [], [])
        if life in ready:
            server.wait()
            line.send(ended(server))
            return
        if line.recv(16) != b"c":
            return
        try:
            with connection() as made:
                socket.send_fds(line, [b"+"], [made.fileno()])
        except OSError as error:
            line.send(b"- " + str(error.strerror or error).encode()[:200])


def main(line_number: str, data_bytes: str, *command: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)  # what runs beside it may not look into it, or change it
    line = socket.socket(fileno=int(line_number))
    os.set_inheritable(line.fileno(), False)
    line.send(b"h")
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=limits(int(data_bytes)))
    try:
        if listens(server, line):
            line.send(b"r " + version().encode())
            serve(line, server)
        else:
            line.send(ended(server))
    except OSError as error:
        with contextlib.suppress(OSError):  # the node may be gone
            line.send(b"x " + str(error.strerror or error).encode()[:200])


if __name__ == "__main__":
    main(*sys.argv[1:])
