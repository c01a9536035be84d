"""llama.cpp's RPC server in a sandbox, for one other node: started, connected to, watched and ended.

Its connections are made inside (`rpc_sandbox.py`) and handed out as descriptors, so that it has no port on this
machine. A server is for one guest and one lease: what it holds is free when it is ended, and nothing of one guest is
seen by another. Decisions are in `rpc_confinement.py`.
"""

from __future__ import annotations

import array
import asyncio
import logging
import os
import signal
import socket
import stat
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from federation.lending import SERVER_ENDED
from federation.printable_text import clean_line
from federation.tasks import cancel_and_wait, finished, report_crash
from swarm.engines.llama_cpp.rpc_cache import RpcCache
from swarm.engines.llama_cpp.rpc_confinement import (
    GPU_DEVICES,
    GPU_VARIABLES,
    Look,
    PythonInside,
    RpcEnd,
    RpcPlan,
    RpcProgram,
    ServerWatch,
    rpc_command,
)
from swarm.errors import EngineFailed
from swarm.tools.sandbox import SYSTEM_FOLDERS, Sandbox
from swarm.tools.sandboxed_process import killed, memory_bytes
from swarm.tools.syscall_filter import syscall_filter

PROGRAM: Final = "ggml-rpc-server"
SCRIPT: Final = Path(__file__).with_name("rpc_sandbox.py")
START_S: Final = 75.0  # a little more than the sandbox waits for its server
LOOK_S: Final = 0.5  # between two looks at what runs inside
HALT_S: Final = 0.5  # until a server that was told to stop has stopped
LAST_LINES: Final = 40  # of what it says
MAX_LINE_CHARS: Final = 300
MAX_DESCRIPTORS: Final = 4  # that come with one message, which has one
LEAVE_S: Final = 5.0  # for a sandbox that was still being made, to see that nobody wants it
_MAX_MESSAGE_BYTES: Final = 512

log = logging.getLogger(__name__)


def rpc_program(llama_server: Path, build: str, on_gpu: bool) -> RpcProgram | None:
    """The RPC server beside a build's llama-server; None where it has none. Blocks for a moment."""
    path = llama_server.resolve().with_name(PROGRAM)
    return RpcProgram(path, build, on_gpu) if os.access(path, os.X_OK) and path.is_file() else None


def python_inside() -> PythonInside:
    """The Python that this one is made of, without its environment."""
    program = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    prefix = Path(sys.base_prefix).resolve()
    folders = [folder for folder in (prefix, program.parent) if not _is_of_the_system(folder)]
    return PythonInside(program, tuple(dict.fromkeys(folders)))


def _is_of_the_system(folder: Path) -> bool:
    return any(folder.is_relative_to(one) for one in SYSTEM_FOLDERS)


class RpcServer:
    """A server that runs; `start` makes one. `rpc` is the version of its protocol.

    `over` is done when it ended, by itself or because it had to; `aclose` returns when it has, and its memory is back.
    """

    def __init__(self, plan: RpcPlan, process: asyncio.subprocess.Process, line: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.plan = plan
        self.rpc = ""
        self.held_bytes = 0  # of memory, when it was last looked at
        self.over: asyncio.Future[RpcEnd] = loop.create_future()
        self._process = process
        self._line = line
        self._ready: asyncio.Future[str] = loop.create_future()
        self._wanting: deque[asyncio.Future[socket.socket]] = deque()  # those who wait for a connection, in order
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._inner: int | None = None  # a pidfd of the sandbox's first process, with which everything ends
        self._inner_pid = 0
        self._cache = None if plan.cache is None else RpcCache(plan.cache)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, sandbox: Sandbox, plan: RpcPlan) -> RpcServer:
        """One that takes connections. Raises EngineFailed with why there is none. A cancelled start leaves nothing."""
        starting = asyncio.ensure_future(cls._launched(sandbox, plan))
        server: RpcServer | None = None
        try:
            server = started = await asyncio.shield(starting)
            async with asyncio.timeout(START_S):
                started.rpc = await asyncio.shield(started._ready)
            return started
        except BaseException as error:
            await finished(asyncio.ensure_future(_closed(starting)))
            if isinstance(error, TimeoutError):
                raise EngineFailed(
                    f"{plan.program.path} did not serve within {START_S:.0f} s{_said(server)}"
                ) from error
            if isinstance(error, OSError):
                raise EngineFailed(f"{plan.program.path} cannot be started: {error.strerror or error}") from error
            raise

    @classmethod
    async def _launched(cls, sandbox: Sandbox, plan: RpcPlan) -> RpcServer:
        """The sandbox, being made. Raises OSError; not to be cancelled."""
        devices, variables = await asyncio.to_thread(_gpu_parts) if plan.program.on_gpu else ((), {})
        if plan.cache is not None:
            await asyncio.to_thread(RpcCache(plan.cache).opened)
        with ExitStack() as theirs:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs.enter_context(far)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # the system says which process speaks there
            calls = _filter_line()
            if calls is not None:
                theirs.callback(os.close, calls)
            try:
                near.setblocking(False)
                command = rpc_command(
                    sandbox,
                    plan,
                    python_inside(),
                    SCRIPT,
                    line=far.fileno(),
                    calls=calls,
                    devices=devices,
                    environment=variables,
                )
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(far.fileno(), *(() if calls is None else (calls,))),
                    cwd="/",
                    env={"PATH": sandbox.view.path if sandbox.view is not None else os.defpath},
                    start_new_session=True,
                )
            except BaseException:
                near.close()
                raise
        server = cls(plan, process, near)
        server._begin()
        return server

    def _begin(self) -> None:
        """Follow it: what it says, and what comes on the line."""
        asyncio.get_running_loop().add_reader(self._line, self._heard)
        for work in (self._drain(), self._watch()):
            task = asyncio.create_task(work, name=f"watching {PROGRAM}")
            report_crash(task, log, "a lease of memory is not watched any more")
            self._tasks.append(task)

    # The line to the sandbox

    def _heard(self) -> None:
        """A message came, or the line broke off."""
        try:
            message, sender_pid, descriptors = _received(self._line)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            message, sender_pid, descriptors = b"", 0, list[int]()
        words = clean_line(message[2:].decode(errors="replace"))
        if message[:1] == b"h":
            with suppress(OSError):
                self._inner = os.pidfd_open(sender_pid)
                self._inner_pid = sender_pid
        elif message[:1] == b"+" and descriptors:
            made = socket.socket(fileno=descriptors.pop(0))
            if not self._answer(lambda wanting: wanting.set_result(made)):
                made.close()
        elif message[:1] == b"-":
            failed = EngineFailed(f"{PROGRAM} takes no connection: {words}")
            self._answer(lambda wanting: wanting.set_exception(failed))
        elif message[:1] == b"r":
            if not self._ready.done():
                self._ready.set_result(words)
        else:
            self._end(RpcEnd(SERVER_ENDED, f"llama.cpp's RPC server is gone: {words or 'its sandbox ended'}"))
        for descriptor in descriptors:
            os.close(descriptor)

    def _answer(self, tell: Callable[[asyncio.Future[socket.socket]], None]) -> bool:
        """Tell the one who waits longest; False where nobody does any more."""
        wanting = self._wanting.popleft() if self._wanting else None
        if wanting is None or wanting.done():
            return False
        tell(wanting)
        return True

    async def connect(self) -> socket.socket:
        """A connection to the server, which is the caller's. Raises EngineFailed where it has ended."""
        if self.over.done():
            raise EngineFailed(self.over.result().words)
        wanting: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        try:
            self._line.send(b"c")
        except OSError as error:
            raise EngineFailed(f"{PROGRAM} is gone ({error.strerror})") from error
        self._wanting.append(wanting)
        try:
            return await wanting
        except asyncio.CancelledError:
            if wanting.done() and not wanting.cancelled() and wanting.exception() is None:
                wanting.result().close()
            raise

    def _end(self, why: RpcEnd) -> None:
        """Say why it is over; who waits for a connection has none."""
        if self.over.done():
            return
        asyncio.get_running_loop().remove_reader(self._line)
        self.over.set_result(why)
        if not self._ready.done():
            self._ready.set_exception(EngineFailed(f"{why.words}{_said(self)}"))
            self._ready.exception()  # asked for, should nobody wait any more
        while self._wanting:
            self._answer(lambda wanting: wanting.set_exception(EngineFailed(why.words)))

    # What runs inside

    @property
    def words(self) -> str:
        """The last that it said, in one line."""
        return self._lines[-1] if self._lines else ""

    async def _drain(self) -> None:
        output, rest = self._process.stdout, b""
        assert output is not None
        while piece := await output.read(1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[-MAX_LINE_CHARS:]
            self._lines.extend(clean_line(line.decode(errors="replace"))[:MAX_LINE_CHARS] for line in lines if line)
        if rest:
            self._lines.append(clean_line(rest.decode(errors="replace")))
        await self._process.wait()
        self._end(RpcEnd(SERVER_ENDED, f"llama.cpp's RPC server is gone: {self.words or 'its sandbox ended'}"))

    async def _watch(self) -> None:
        watch = ServerWatch(self.plan)
        while not self.over.done():
            await asyncio.wait({self.over}, timeout=LOOK_S)
            if not self._inner_pid:
                continue
            look = await asyncio.to_thread(look_at, self._inner_pid, self.plan.most_bytes)
            self.held_bytes = look.bytes
            end = watch.end(look)
            if end is None and self._cache is not None and self._ready.done():
                end = await asyncio.to_thread(self._cache.overfull, self.plan.bytes)
            if end is not None:
                self._end(end)
                self._closing = self._closing or asyncio.create_task(self._close())

    async def aclose(self) -> None:
        """Return when nothing of it runs any more. Whoever waits may be cancelled: it is ended all the same."""
        self._closing = self._closing or asyncio.create_task(self._close())
        await finished(self._closing)

    async def _close(self) -> None:
        self._end(RpcEnd(SERVER_ENDED, "llama.cpp's RPC server was ended by this node"))
        half: tuple[str, ...] = ()
        if self._cache is not None and self._inner_pid:
            half = await asyncio.to_thread(_half_written, self._inner_pid)
        try:
            if self._inner is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._inner, signal.SIGKILL)
                await _readable(self._inner)
            self._line.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._process.wait()
            await killed(self._process)
            await cancel_and_wait(*self._tasks)
        finally:
            self._line.close()
            if self._inner is not None:
                os.close(self._inner)
                self._inner = None
        if self._cache is not None:
            await asyncio.to_thread(self._cache.closed, half)


async def _closed(starting: asyncio.Future[RpcServer]) -> None:
    await asyncio.wait({starting})
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().aclose()


def _said(server: RpcServer | None) -> str:
    """What it said last, as the end of a sentence."""
    return "" if server is None or not server.words else f" (it said: {server.words})"


def _filter_line() -> int | None:
    """A descriptor from which bwrap reads the filter of system calls; None where there is none for this machine."""
    program = syscall_filter(os.uname().machine)
    if program is None:
        return None
    line, end = os.pipe()
    try:
        os.write(end, program)  # far less than a pipe holds
    finally:
        os.close(end)
    return line


def _gpu_parts() -> tuple[tuple[Path, ...], dict[str, str]]:
    """The devices of GPUs in /dev, and the variables that choose among them."""
    devices = tuple(sorted(one for one in Path("/dev").iterdir() if GPU_DEVICES.fullmatch(one.name)))
    return devices, {name: os.environ[name] for name in GPU_VARIABLES if name in os.environ}


def _received(line: socket.socket) -> tuple[bytes, int, list[int]]:
    """A message, the process that sent it as it is called here, and the descriptors that came along."""
    credentials = struct.Struct("3i")  # `struct ucred`: process, user, group
    room = socket.CMSG_SPACE(credentials.size) + socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
    message, parts, _, _ = line.recvmsg(_MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    sender_pid, descriptors = 0, array.array("i")
    for level, kind, data in parts:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            sender_pid = credentials.unpack(data[: credentials.size])[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, sender_pid, list(descriptors)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


# /proc, which blocks


def look_at(inner_pid: int, enough_bytes: int, proc: Path = Path("/proc")) -> Look:
    """What the processes of a sandbox are now; `inner_pid` is its first one, as it is called outside."""
    at = time.monotonic()
    tree = below(inner_pid, proc)
    held = memory_bytes(inner_pid, enough_bytes, proc)
    states = [_state(pid, proc) for pid in tree]
    return Look(
        at,
        held,
        processes=len(tree),
        threads=sum(threads for _, threads in states),
        stopped=any(state in "Tt" for state, _ in states),
    )


def below(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """The process and all below it."""
    found: list[int] = []
    todo = [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with suppress(OSError, ValueError):
            for thread in (proc / str(one) / "task").iterdir():
                todo += map(int, (thread / "children").read_text().split())
    return found


def _state(pid: int, proc: Path) -> tuple[str, int]:
    """Its state, one letter of `ps` ("X" where it is gone), and how many threads it has."""
    try:
        words = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return words[0], int(words[17])


def _half_written(inner_pid: int) -> tuple[str, ...]:
    """Names of files of the cache that the server is writing at this moment, and will never end: it is stopped here."""
    names: list[str] = []
    for pid in below(inner_pid)[1:]:
        with suppress(OSError):
            os.kill(pid, signal.SIGSTOP)
            deadline = time.monotonic() + HALT_S
            while _state(pid, Path("/proc"))[0] not in "TtXZ" and time.monotonic() < deadline:
                time.sleep(0.005)
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if stat.S_ISREG(link.stat().st_mode):
                        names.append(link.readlink().name)
    return tuple(names)
