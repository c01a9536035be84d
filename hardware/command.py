"""Run one vendor tool and come back in time, whatever it does: the only place here that starts processes.

A driver in trouble makes its tool hang, often inside the kernel where even SIGKILL has to wait. So nothing here waits
without a limit: a tool that is late, or that floods, is killed with all its children and given up.
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hardware.tool_text import one_line

TOOL_TIMEOUT_S = 3.0  # a healthy nvidia-smi or system_profiler answers well within a second
MAX_OUTPUT_BYTES = 4 * 1024 * 1024  # the XML of 16 GPUs is below 2 MiB
_EXIT_CHECK_S = 0.05  # how soon an exit is seen when a grandchild keeps the output open
_KILL_GRACE_S = 0.2  # a killed process that lives longer than this is stuck in the kernel
_CHUNK_BYTES = 65536  # the size of a pipe on Linux

# Installed by the drivers but missing from the PATH of services, sudo and containers.
_VENDOR_DIRECTORIES = (
    "/opt/rocm/bin",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/bin",
    "/usr/bin",
    "/usr/sbin",
)

_End = Literal["complete", "late", "flood"]


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """The tool succeeded and printed `stdout`, and `stderr` beside it."""

    stdout: str
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such tool on this machine."""

    tool: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The tool was killed because it had not finished after `limit_s`."""

    tool: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The tool could not start (`exit_code` None), was stopped for flooding, or exited with an error code."""

    tool: str
    exit_code: int | None
    stdout: str
    stderr: str


ToolOutcome = ToolOutput | Missing | TimedOut | Failed


class RunTool(Protocol):
    """Runs `argv` for at most `timeout_s`, blocking; never raises for what the tool does."""

    def __call__(self, argv: Sequence[str], timeout_s: float, /) -> ToolOutcome: ...


def default_search_path() -> str:
    """PATH, then the places where GPU drivers put their tools."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *_VENDOR_DIRECTORIES))


def run_tool(argv: Sequence[str], timeout_s: float = TOOL_TIMEOUT_S, search_path: str | None = None) -> ToolOutcome:
    """Run `argv[0]` (looked up on `search_path`), waiting at most `timeout_s`. Blocks: keep it off the event loop."""
    tool = argv[0]
    executable = shutil.which(tool, path=default_search_path() if search_path is None else search_path)
    if executable is None:
        return Missing(tool)
    deadline_s = time.monotonic() + timeout_s
    try:
        process = _start((executable, *argv[1:]))
    except OSError as error:
        return Failed(tool, None, "", f"cannot be started: {error}")
    try:
        end, stdout, stderr = _collect(process, deadline_s)
    finally:
        _leave(process)
    if end == "late":
        return TimedOut(tool, timeout_s)
    if end == "flood":
        return Failed(tool, None, "", f"stopped: it printed more than {MAX_OUTPUT_BYTES} bytes")
    if process.returncode != 0:
        return Failed(tool, process.returncode, _text(stdout), _text(stderr))
    return ToolOutput(_text(stdout), _text(stderr))


def explain(outcome: Missing | TimedOut | Failed) -> str:
    """One line for a person: which tool, and why it gave nothing."""
    match outcome:
        case Missing(tool):
            return f"{tool}: not installed"
        case TimedOut(tool, limit_s):
            return f"{tool}: gave up after {round(limit_s, 2):g} s"
        case Failed(tool, exit_code, stdout, stderr):
            # nvidia-smi reports driver errors on stdout.
            reason = one_line(stderr) or one_line(stdout) or "said nothing"
            return f"{tool}: {reason}" if exit_code is None else f"{tool}: failed (exit code {exit_code}): {reason}"


def _start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    no_window: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # exists on Windows only
    environment: Mapping[str, str] = {**os.environ, "LC_ALL": "C"}  # parsers read English
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # its own process group, so that its children die with it
        creationflags=no_window,
    )


def _collect(process: subprocess.Popen[bytes], deadline_s: float) -> tuple[_End, bytes, bytes]:
    """Both outputs until the tool has exited, the deadline has passed or there is too much of them."""
    if os.name == "nt":  # select() does not take pipes there
        return _collect_with_threads(process, deadline_s)
    return _collect_with_select(process, deadline_s)


def _collect_with_select(process: subprocess.Popen[bytes], deadline_s: float) -> tuple[_End, bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, buffer in ((process.stdout, stdout), (process.stderr, stderr)):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, buffer)
        while selector.get_map():
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                return "late", bytes(stdout), bytes(stderr)
            exited = process.poll() is not None
            ready = selector.select(0 if exited else min(remaining_s, _EXIT_CHECK_S))
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK_BYTES)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
            if len(stdout) + len(stderr) > MAX_OUTPUT_BYTES:
                return "flood", bytes(stdout), bytes(stderr)
            if exited and not ready:  # a grandchild holds the pipes; all that the tool itself wrote is read
                break
    return ("complete" if _ends_by(process, deadline_s) else "late"), bytes(stdout), bytes(stderr)


def _collect_with_threads(process: subprocess.Popen[bytes], deadline_s: float) -> tuple[_End, bytes, bytes]:
    try:
        stdout, stderr = process.communicate(timeout=max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "late", b"", b""
    flooded = len(stdout) + len(stderr) > MAX_OUTPUT_BYTES
    return ("flood" if flooded else "complete"), stdout, stderr


def _ends_by(process: subprocess.Popen[bytes], deadline_s: float) -> bool:
    try:
        process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _leave(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes; if the tool still runs, kill it with its children and see that it is reaped."""
    if process.returncode is None:
        _kill(process)
        if not _ends_by(process, time.monotonic() + _KILL_GRACE_S):
            # Stuck in the kernel: it dies when the driver lets go, and then somebody has to reap it.
            threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already, or changed its user
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
