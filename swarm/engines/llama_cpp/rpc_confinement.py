"""What llama.cpp's RPC server may reach while it computes for another node, and when it has to end. Pure.

Whoever has a lease sends it bytes that a C++ program of a million lines parses, so that the sandbox is made as if the
server were its guest's already: no network but a loopback of its own, none of this machine's files but system folders
and the program, no variables, nothing to write but the cache of this one guest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.lending import FROZEN, MEMORY_ENDED, SERVER_ENDED
from swarm.registry.model_memory import MIB, size_text
from swarm.tools.sandbox import SYSTEM_FOLDERS, Sandbox, SystemView

CACHE_INSIDE: Final = "/cache"  # LLAMA_CACHE; the server makes `rpc` in it
SCRIPT_INSIDE: Final = "/rpc_sandbox.py"
PROGRAM_BYTES: Final = 256 * MIB  # of the server and this sandbox beside what was lent: code, stacks, buffers of graphs
SLACK_SHARE: Final = 16  # a sixteenth of what was lent: allocators round up
STOPPED_S: Final = 2.0  # that a process may be stopped (SIGSTOP, a debugger) before it is taken to be frozen
OVER_S: Final = 2.0  # that it may hold more than it was lent: a tensor that arrives is there twice for a moment
MOST_THREADS: Final = 1024  # of all processes inside; a server has one for each core, GPUs' libraries a few dozen
MOST_PROCESSES: Final = 4  # bwrap's, ours and the server
GPU_DEVICES: Final = re.compile(r"nvidia.*|dri|kfd|dxg")  # names in /dev
GPU_VARIABLES: Final = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
)


@dataclass(frozen=True, slots=True)
class RpcProgram:
    """The server's `path`, the number of its `build`, and whether it computes `on_gpu`, for which it needs devices."""

    path: Path
    build: str
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class PythonInside:
    """What runs inside first: the `program`, and the folders that it needs where they are no system folders."""

    program: Path
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RpcPlan:
    """One server for one guest. `cache` keeps large tensors of that guest between leases; None: nothing is kept."""

    program: RpcProgram
    bytes: int
    threads: int
    cache: Path | None = None

    @property
    def most_bytes(self) -> int:
        """What all processes inside may hold for longer than a moment."""
        return self.bytes + self.bytes // SLACK_SHARE + PROGRAM_BYTES

    @property
    def data_bytes(self) -> int:
        """What the server may ask the system for: each tensor is there twice while it arrives. 0: not bounded so.

        GPUs' libraries reserve far more than they use.
        """
        return 0 if self.program.on_gpu else self.most_bytes + max(self.bytes // 4, PROGRAM_BYTES)


def rpc_command(
    sandbox: Sandbox,
    plan: RpcPlan,
    python: PythonInside,
    script: Path,
    *,
    line: int,
    calls: int | None,
    devices: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """bwrap's command line. `line` and `calls` are descriptors that it inherits.

    `devices` of a GPU are shown where the program needs one, with the `environment` that chooses among them.
    """
    view = sandbox.view or SystemView(())
    # Neither `--die-with-parent` nor `--info-fd`: bwrap would end with a node that is killed while it still sets up,
    # and leave the process that it has made waiting for ever. `rpc_sandbox.py` sees the line break off at any time.
    words = [sandbox.program, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--unshare-net"]
    words += ["--disable-userns"] if "disable-userns" in sandbox.options else []
    words += ["--cap-drop", "ALL"] if "cap-drop" in sandbox.options else []
    words += ["--hostname", "sandbox", "--new-session"]
    words += ["--clearenv"] if "clearenv" in sandbox.options else []
    told = {"PATH": view.path, "HOME": "/tmp", "LANG": "C.UTF-8", "LLAMA_CACHE": CACHE_INSIDE}
    for variable, value in {**told, **(environment or {})}.items():
        words += ["--setenv", variable, value]
    for folder in view.folders:
        words += ["--ro-bind", folder, folder]
    for name, target in view.links:
        words += ["--symlink", target, name]
    words += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc", "--dev", "/dev"]
    for device in devices:
        words += ["--dev-bind", str(device), str(device)]
    if plan.program.on_gpu:
        words += ["--ro-bind-try", "/sys", "/sys"]
    words += ["--remount-ro", "/dev", *(["--size", str(16 * MIB)] if "size" in sandbox.options else [])]
    words += ["--tmpfs", "/tmp"]
    for folder in shown_folders(plan.program.path, python):
        words += ["--ro-bind", str(folder), str(folder)]
    words += ["--ro-bind", str(script), SCRIPT_INSIDE]
    if plan.cache is not None:
        words += ["--bind", str(plan.cache), f"{CACHE_INSIDE}/rpc"]
    words += [] if plan.program.on_gpu else ["--remount-ro", "/tmp"]  # GPUs' libraries keep what they compile there
    words += ["--remount-ro", "/", "--chdir", "/"]
    words += [] if calls is None else ["--seccomp", str(calls)]
    words += ["--as-pid-1", "--"]
    words += [str(python.program), "-I", "-S", SCRIPT_INSIDE, str(line), str(plan.data_bytes)]
    return (*words, str(plan.program.path), "-t", str(plan.threads), *(["-c"] if plan.cache is not None else []))


def shown_folders(program: Path, python: PythonInside) -> tuple[Path, ...]:
    """What beside the system's folders has to be seen: the program's, its libraries', Python's; each once."""
    libraries = (program.parent.parent / name for name in ("lib", "lib64"))
    wanted = [program.parent, *(folder for folder in libraries if folder.is_dir()), *python.folders]
    shown: list[Path] = []
    for folder in sorted(dict.fromkeys(wanted), key=lambda folder: len(folder.parts)):
        seen = (*map(Path, SYSTEM_FOLDERS), *shown)
        if not any(folder.is_relative_to(one) for one in seen):
            shown.append(folder)
    return tuple(shown)


@dataclass(frozen=True, slots=True)
class Look:
    """What the processes inside were at an instant (monotonic seconds): how many, with how many `threads`.

    `bytes` is what they hold in memory that is no file's; `stopped`: the server does not run, and was not told to wait.
    """

    at: float
    bytes: int
    processes: int
    threads: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class RpcEnd:
    """Why a server was ended, or ended by itself: a `code` of `federation/lending.py`, and `words` for people."""

    code: str
    words: str


@dataclass(slots=True)
class ServerWatch:
    """Looks at one server in turn, and says when it has to end."""

    plan: RpcPlan
    _stopped_since: float | None = None
    _over_since: float | None = None

    def end(self, look: Look) -> RpcEnd | None:
        """Why it has to end now; None while it may go on."""
        self._stopped_since = (self._stopped_since or look.at) if look.stopped else None
        over = look.bytes > self.plan.most_bytes
        self._over_since = (self._over_since or look.at) if over else None
        if look.processes > MOST_PROCESSES or look.threads > MOST_THREADS:
            what = f"{look.processes} processes" if look.processes > MOST_PROCESSES else f"{look.threads} threads"
            return RpcEnd(SERVER_ENDED, f"llama.cpp's RPC server had {what}, which it never has")
        far_over = look.bytes > self.plan.most_bytes + max(self.plan.bytes, PROGRAM_BYTES)
        if far_over or (self._over_since is not None and look.at - self._over_since >= OVER_S):
            held, lent = size_text(look.bytes), size_text(self.plan.bytes)
            return RpcEnd(MEMORY_ENDED, f"it took {held} of memory where {lent} were lent")
        if self._stopped_since is not None and look.at - self._stopped_since >= STOPPED_S:
            return RpcEnd(FROZEN, f"llama.cpp's RPC server has been stopped for {STOPPED_S:.0f} s")
        return None
