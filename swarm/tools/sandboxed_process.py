"""Commands in a sandbox: which one works here, running one to its end, and ending all that it started."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from federation.printable_text import clean_line
from federation.tasks import cancel_and_wait, finished
from swarm.tools.bounded_output import OutputEnds
from swarm.tools.plan import SandboxChoice
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.sandbox import (
    ETC_NAMES,
    NIX_PATH,
    RESOLVER,
    SYSTEM_FOLDERS,
    SYSTEM_PATH,
    CommandLimits,
    Confinement,
    KeptPath,
    Sandbox,
    StartLines,
    SystemView,
    environment_inside,
)
from swarm.tools.syscall_filter import syscall_filter
from swarm.tools.tool import TIMED_OUT_CODE, ToolFailure, ToolResult

log = logging.getLogger(__name__)

DEFAULT_LIMITS: Final = CommandLimits()
_PIECE_BYTES: Final = 1 << 18
_TRIAL_S: Final = 15.0  # for one try of a sandbox; it takes a twentieth of a second
_SET_UP_S: Final = 10.0  # until bwrap says which process it made
_TRIAL_WORD: Final = "swarm-sandbox-works"
_CHILD: Final = re.compile(rb'"child-pid":\s*(\d+)\s*[,}]')
_LOOK_S: Final = 0.25  # so often a command's memory is looked at
_NO_FILES: Final = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)
_PSS: Final = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_ON_THIS_FILE_SYSTEM: Final = ("sandbox-exec", "none")
_COUNTS_APART: Final = (5, 14)  # Linux: a limit of processes counts those of the sandbox alone
_MOST_BESIDE: Final = 4096  # before, all of the user's; so many a desktop may have
_SYSCTL: Final = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")


@dataclass(frozen=True, slots=True)
class NoSandbox:
    """Why commands cannot be sandboxed here, and what a person does about it."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


def find_sandbox(
    choice: SandboxChoice,
    *,
    unsandboxed: bool = False,
    uid: int | None = None,
    contained: bool | None = None,
    programs: str | None = None,
) -> Sandbox | NoSandbox:
    """The sandbox that `choice` names, after a command has run in it; or why there is none. Blocks for `_TRIAL_S`.

    `unsandboxed`: what `--tools-unsandboxed` asks for. `uid`: the user that commands would run as; `contained`: whether
    this machine is a container; `programs`: the folders with sandboxes' programs, as in PATH. None: as it is here.
    """
    uid = os.geteuid() if uid is None else uid
    if uid == 0 and not (in_container() if contained is None else contained):
        return NoSandbox(
            "commands do not run as root outside of a container: limits on processes do not hold for root",
            "start the node as another user",
        )
    if unsandboxed:
        bash = shutil.which("bash")
        return Sandbox("none", bash=bash) if bash else NoSandbox("there is no bash here", "install bash")
    kind = choice.kind if choice.kind != "auto" else "sandbox-exec" if sys.platform == "darwin" else "bwrap"
    if kind == "bwrap":
        return _find_bwrap(programs or f"{SYSTEM_PATH}:{NIX_PATH}")
    if kind == "sandbox-exec":
        program = shutil.which("sandbox-exec", path=programs)
        if program is None:
            return NoSandbox("there is no sandbox-exec here", "it is part of macOS; on Linux install bubblewrap")
        return _tried(Sandbox("sandbox-exec", program))
    program = shutil.which(kind, path=programs)
    if program is None:
        return NoSandbox(f"there is no {kind} here", f"install {kind}, or choose another sandbox")
    user = f"{os.getuid()}:{os.getgid()}" if kind == "docker" else None
    return _tried(Sandbox(kind, program, image=choice.image, user=user))


def in_container() -> bool:
    """Whether this machine is a container: root there is not root of the machine."""
    marks = ("/.dockerenv", "/run/.containerenv")
    if os.environ.get("container") or any(Path(mark).exists() for mark in marks):  # noqa: SIM112 (podman, systemd-nspawn)
        return True
    with suppress(OSError):
        return any(word in Path("/proc/1/cgroup").read_text() for word in ("docker", "kubepods", "lxc", "libpod"))
    return False


def _find_bwrap(programs: str) -> Sandbox | NoSandbox:
    if not sys.platform.startswith("linux"):
        return NoSandbox("bwrap runs on Linux only", "use --tools-sandbox podman:IMAGE or docker:IMAGE")
    program = shutil.which("bwrap", path=programs)
    if program is None:
        return NoSandbox("bwrap is not installed", "install the package bubblewrap (apt, dnf, pacman, zypper, apk)")
    view = system_view()
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    beside = 0 if release >= _COUNTS_APART else _MOST_BESIDE
    bash = shutil.which("bash", path=view.path)
    if bash is None:
        return NoSandbox("there is no bash in the system's folders", "install bash")
    try:
        told = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=_TRIAL_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return NoSandbox(f"bwrap does not start ({error})", "install the package bubblewrap again")
    options = frozenset(re.findall(r"--([a-z][a-z-]+)", told.stdout + told.stderr))
    made = Sandbox("bwrap", program, None, bash, view, options, processes_beside=beside)
    found = _tried(made)
    if isinstance(found, NoSandbox) and "disable-userns" in options:  # some containers forbid just that
        again = _tried(replace(made, options=options - {"disable-userns"}))
        return again if isinstance(again, Sandbox) else found
    return found


def system_view() -> SystemView:
    """What of this machine a bwrap sandbox shows. Blocks."""
    folders: list[str] = []
    links: list[tuple[str, str]] = []
    for name in SYSTEM_FOLDERS:
        path = Path(name)
        if path.is_symlink() and name.count("/") == 1:
            links.append((name, str(path.readlink())))
        elif path.is_dir():
            folders.append(name)
    etc = tuple(str(path) for name in ETC_NAMES if (path := Path("/etc", name)).exists())
    resolver = Path(RESOLVER).resolve()
    path = f"{SYSTEM_PATH}:{NIX_PATH}" if Path(NIX_PATH).is_dir() else SYSTEM_PATH
    return SystemView(tuple(folders), tuple(links), etc, str(resolver) if resolver.is_file() else None, path)


def _tried(sandbox: Sandbox) -> Sandbox | NoSandbox:
    """The sandbox, if a command in it says what it should and sees nothing of what lies beside its root."""
    with tempfile.TemporaryDirectory(prefix="swarm-sandbox-") as scratch:
        root = Path(scratch).resolve() / "root"
        root.mkdir()
        with opened_confinement(RootedFiles(root), writable=True) as confinement:
            script = f'[ -z "$SWARM_TRIAL" ] && echo x > made && echo {_TRIAL_WORD}'
            name = container_name()
            command = sandbox.command_line(confinement, (sandbox.bash, "-c", script), name=name)
            try:
                ran = subprocess.run(
                    command,
                    stdin=subprocess.PIPE if not sandbox.ends_with_node else subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_TRIAL_S,
                    check=False,
                    pass_fds=confinement.descriptors if sandbox.kind == "bwrap" else (),
                    env=_environment_outside(sandbox, confinement) | {"SWARM_TRIAL": "1"},
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired:
                return NoSandbox(f"{sandbox.title} did not answer within {_TRIAL_S:.0f} s", _remedy(sandbox, ""))
            except OSError as error:
                return NoSandbox(f"{sandbox.title} does not start ({error.strerror})", _remedy(sandbox, ""))
        said = clean_line(ran.stderr.decode(errors="replace"))[:300]
        if _TRIAL_WORD not in ran.stdout.decode(errors="replace") or not (root / "made").exists():
            why = said or f"it ended with exit code {ran.returncode}"
            return NoSandbox(f"{sandbox.title} does not work here ({why})", _remedy(sandbox, said))
    return sandbox


def _remedy(sandbox: Sandbox, said: str) -> str:
    if sandbox.kind in ("podman", "docker"):
        return f"start {sandbox.kind}, and fetch the image with: {sandbox.kind} pull {sandbox.image}"
    if sandbox.kind == "bwrap":
        with suppress(OSError):
            if _SYSCTL.read_text().strip() == "1":
                return (
                    "AppArmor keeps programs from making user namespaces on this system (Ubuntu 24.04 and later): "
                    "give bwrap a profile, as docs/tools.md shows, or set "
                    "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
                )
        if in_container():
            return (
                "this container may not make namespaces: run the node outside of it, or give the container "
                "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"
            )
        return "user namespaces may be shut off (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)"
    return "choose another sandbox with --tools-sandbox"


def container_name() -> str:
    """A name by which a container can be ended."""
    return f"swarm-tool-{secrets.token_hex(8)}"


@contextmanager
def opened_confinement(
    files: RootedFiles,
    *,
    writable: bool,
    network: bool = False,
    limits: CommandLimits = DEFAULT_LIMITS,
    environment: dict[str, str] | None = None,
    talks: bool = False,
    by_name: bool = True,
) -> Generator[Confinement]:
    """What a command below the root of `files` may reach, held open until it runs. Raises ToolFailure.

    `by_name`: its sandbox takes names of folders, and no descriptors (`Sandbox.takes_descriptors`).
    """
    with files.opened_protected(by_name) as (root, protected):
        kept = tuple(KeptPath(files.root / path, descriptor) for path, descriptor in protected)
        calls = _filter_line()
        try:
            yield Confinement(
                files.root, root, writable, network, kept, limits, environment or {}, calls=calls, talks=talks
            )
        finally:
            if calls is not None:
                os.close(calls)


def _filter_line() -> int | None:
    """A descriptor from which the filter of system calls is read, once; None where there is none for this machine."""
    program = syscall_filter(os.uname().machine) if sys.platform.startswith("linux") else None
    if program is None:
        return None
    line, end = os.pipe()
    try:
        os.write(end, program)  # far less than a pipe holds
    finally:
        os.close(end)
    return line


@dataclass(slots=True)
class SandboxedProcess:
    """A command that runs, with everything that it starts. `end` ends all of it."""

    process: asyncio.subprocess.Process
    sandbox: Sandbox
    name: str  # of the container, where there is one
    inner: int | None = None  # a pidfd of process 1 inside bwrap, which is over when everything inside is
    inner_pid: int = 0  # the same process, as it is called outside

    async def end(self) -> None:
        """Return when no process of it runs any more. Whoever waits may be cancelled: it is ended all the same."""
        await finished(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        try:
            if self.inner is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.inner, signal.SIGKILL)
                await _readable(self.inner)
            elif self.sandbox.kind in ("podman", "docker"):
                await self._end_container()
            else:
                _kill_tree(self.process.pid)
            await killed(self.process)
        finally:
            if self.inner is not None:
                os.close(self.inner)
                self.inner = None

    async def _end_container(self) -> None:
        if self.process.returncode is not None:
            return  # --rm has removed it
        ender = await asyncio.create_subprocess_exec(
            self.sandbox.program,
            "kill",
            self.name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await ender.wait()


async def killed(process: asyncio.subprocess.Process) -> None:
    """Kill it, and return when it is gone, also where it said more than anybody has read.

    Python's `wait` waits for the ends of its pipes, too, and one that is full is not read to its end.
    """
    # Not `process.kill()`: that looks first whether the process has ended, and then takes its exit code away from
    # asyncio, which says on the terminal that it knows no such child.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    transport: asyncio.SubprocessTransport | None = getattr(process, "_transport", None)
    if transport is not None:
        for number in range(3):
            pipe = transport.get_pipe_transport(number)
            if pipe is not None:
                pipe.close()
    await process.wait()
    if transport is not None:
        transport.close()


def _kill_tree(pid: int) -> None:
    """Without namespaces: the group, and whatever is still below the process, also where it left the group."""
    below: list[psutil.Process] = []
    with suppress(psutil.Error):
        below = psutil.Process(pid).children(recursive=True)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for process in below:
        with suppress(psutil.Error):
            process.kill()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


@asynccontextmanager
async def sandboxed(
    sandbox: Sandbox, confinement: Confinement, command: tuple[str, ...]
) -> AsyncGenerator[SandboxedProcess]:
    """`command` while it runs; leaving ends it with everything that it started.

    Its output and errors are one stream, `process.stdout`; where it talks (`confinement.talks`) the errors are one of
    their own, `process.stderr`, and `process.stdin` is its input. Raises ToolFailure where it cannot be started.
    """
    async with _temporary_folder(sandbox, confinement) as confined:
        starting = asyncio.ensure_future(_started(sandbox, confined, command))
        try:
            yield await asyncio.shield(starting)
        finally:
            await finished(asyncio.ensure_future(_end_started(starting)))


@asynccontextmanager
async def _temporary_folder(sandbox: Sandbox, confinement: Confinement) -> AsyncGenerator[Confinement]:
    """Where a command sees this machine's own /tmp: a folder for its temporary files, which is gone with it."""
    if sandbox.kind not in _ON_THIS_FILE_SYSTEM:
        yield confinement
        return
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="swarm-tool-"))
    try:
        yield replace(confinement, temporary=await asyncio.to_thread(folder.resolve))
    finally:
        await finished(asyncio.ensure_future(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)))


async def _started(sandbox: Sandbox, confinement: Confinement, command: tuple[str, ...]) -> SandboxedProcess:
    """The command, once it is known how to end all of it. Not to be cancelled: half of a start could not be."""
    name = container_name()
    with ExitStack() as mine, ExitStack() as theirs:
        start: StartLines | None = None
        told = here = guards = -1
        if sandbox.kind == "bwrap":
            told, tells = os.pipe()
            mine.callback(os.close, told)
            theirs.callback(os.close, tells)
            near, far = socket.socketpair()
            near.setblocking(False)
            here = mine.enter_context(near).fileno()
            watched, guards = os.pipe()
            theirs.callback(os.close, watched)
            mine.callback(os.close, guards)
            start = StartLines(tells, theirs.enter_context(far).fileno(), watched)
        inherited = () if start is None else (*confinement.descriptors, *astuple(start))
        piped = confinement.talks or not sandbox.ends_with_node
        try:
            process = await asyncio.create_subprocess_exec(
                *sandbox.command_line(confinement, command, start=start, name=name),
                stdin=asyncio.subprocess.PIPE if piped else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE if confinement.talks else asyncio.subprocess.STDOUT,
                pass_fds=inherited,
                cwd=confinement.root if sandbox.kind in _ON_THIS_FILE_SYSTEM else "/",
                env=_environment_outside(sandbox, confinement),
                start_new_session=True,
                limit=_PIECE_BYTES,
            )
        except OSError as error:
            raise ToolFailure(f"the command cannot be started ({error.strerror or error})", 126) from error
        theirs.close()
        running = SandboxedProcess(process, sandbox, name)
        if start is not None:
            with suppress(TimeoutError, OSError):  # what went wrong, the sandbox says itself
                async with asyncio.timeout(_SET_UP_S):
                    await _follow(running, told, here)
                    os.write(guards, b"\n")
        return running


async def _follow(running: SandboxedProcess, told: int, here: int) -> None:
    """Hold the process inside, with which everything ends, and let it go on when it is bound to this node's life.

    Raises OSError where the sandbox ends before that.
    """
    said = b""
    while not (match := _CHILD.search(said)):
        await _readable(told)
        said += _heard(told)
    with suppress(OSError):  # before Linux 5.3: what is inside is found among this node's descendants
        running.inner = os.pidfd_open(int(match[1]))
        running.inner_pid = int(match[1])
    await _readable(here)
    _heard(here)
    os.write(here, b"go\n")


def _heard(line: int) -> bytes:
    said = os.read(line, 4096)
    if not said:
        raise BrokenPipeError
    return said


async def _end_started(starting: asyncio.Future[SandboxedProcess]) -> None:
    await asyncio.wait({starting})
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().end()


def _environment_outside(sandbox: Sandbox, confinement: Confinement) -> dict[str, str]:
    """For the sandbox's own program. bwrap clears it, containers get theirs by options."""
    if sandbox.kind in ("podman", "docker"):
        kept = ("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DOCKER_HOST", "DOCKER_CONTEXT")
        return {name: os.environ[name] for name in kept if name in os.environ}
    if sandbox.kind == "none":  # it finds the user's own programs
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return environment_inside(sandbox, confinement) | own
    return environment_inside(sandbox, confinement)


async def run_command(
    sandbox: Sandbox, confinement: Confinement, command: tuple[str, ...], limit_s: float
) -> ToolResult:
    """`command` to its end, at most `limit_s`: what it said, both ends of it. Cancelling ends its whole tree first."""
    ends = OutputEnds()
    note = ""
    code = TIMED_OUT_CODE
    timed_out = False
    async with sandboxed(sandbox, confinement, command) as running:
        reading = asyncio.ensure_future(_drain(running.process, ends))
        watching = asyncio.ensure_future(_watch(running, confinement.limits.memory_bytes))
        try:
            await asyncio.wait({reading, watching}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                code = await running.process.wait()
            elif watching.done():
                code = 128 + signal.SIGKILL
                limit_mib = confinement.limits.memory_bytes >> 20
                note = f"[… ended: its processes together took more than {limit_mib} MiB of memory …]"
            else:
                timed_out = True
                note = f"[… ended after {limit_s:g} s; a longer time can be asked for with timeout_s …]"
        finally:
            await cancel_and_wait(reading, watching)
    output, truncated = ends.text()
    output = "\n".join(part for part in (output, note) if part) or "(no output)"
    return ToolResult(output, code, truncated, timed_out)


async def _drain(process: asyncio.subprocess.Process, ends: OutputEnds) -> None:
    """Take what the command says until nobody is left who could say more."""
    output = process.stdout
    while output is not None and (piece := await output.read(_PIECE_BYTES)):
        ends.feed(piece)


async def _watch(running: SandboxedProcess, most_bytes: int) -> None:
    """Return when the command's processes take too much memory together; each alone is held by its limit.

    Where no namespace does, what a command left behind is ended with it: its output would never end.
    """
    while True:
        await asyncio.sleep(_LOOK_S)
        if running.inner is None:
            if running.process.returncode is not None:
                _kill_tree(running.process.pid)
        elif await asyncio.to_thread(memory_bytes, running.inner_pid, most_bytes) > most_bytes:
            return


def memory_bytes(pid: int, enough: int, proc: Path = Path("/proc")) -> int:
    """What a process and all below it hold in memory that is no file's; shared pages count by shares where it matters.

    Shared memory counts where a process has it mapped; what none has (a memfd, System V) is seen nowhere. Above
    `enough` each process is asked for its shares, which takes longer. Of Linux; blocks.
    """
    tree = _tree(pid, proc)
    total = 0
    for one in tree:
        with suppress(OSError, ValueError):
            status = (proc / str(one) / "status").read_text()
            total += sum(int(kb) << 10 for kb in _NO_FILES.findall(status))
    if total <= enough:
        return total
    total = 0
    for one in tree:
        with suppress(OSError, ValueError, AttributeError):
            found = _PSS.search((proc / str(one) / "smaps_rollup").read_text())
            total += int(found[1]) << 10 if found else 0
    return total


def _tree(pid: int, proc: Path) -> list[int]:
    found: list[int] = []
    todo = [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with suppress(OSError, ValueError):
            for thread in (proc / str(one) / "task").iterdir():
                todo += map(int, (thread / "children").read_text().split())
    return found
