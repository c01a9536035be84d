"""What a command may do to this machine, as the command line of a sandbox. Pure: nothing here starts anything.

    bwrap          Linux: namespaces of its own for users, processes, IPC, host name and network; a file system made of
                   system folders (read-only), the root, and a /tmp that is gone with the call
    sandbox-exec   macOS: a profile that forbids writing outside of the root, reading the user's home, and the network
    podman, docker a container of an image with the root in it
    none           nothing: a command may do what this user may (`--tools-unsandboxed`)

Each begins with a few lines of bash that set limits, close what the sandbox's own set-up left open, and become the
command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NIX_PATH: Final = "/run/current-system/sw/bin"
HOME: Final = "/tmp"  # inside: a home of its own, empty, gone with the call
# Programs and libraries. Links such as /bin -> usr/bin are made again as links.
SYSTEM_FOLDERS: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/run/current-system")
# Of /etc only what programs need to run: the rest is this machine's own, passwords and keys of services among it.
ETC_NAMES: Final = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "group",
    "host.conf",
    "hosts",
    "java",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki",
    "protocols",
    "services",
    "ssl",
    "static",
    "terminfo",
)
RESOLVER: Final = "/etc/resolv.conf"  # where names are looked up, with the network only

_TMP_BYTES: Final = 512 << 20
_SHARED_MEMORY_BYTES: Final = 64 << 20

# $1: descriptors of folders outside, to close before anything of the model's runs. $2: a line to this node, or nothing:
# bwrap binds itself to the node's life late in its set-up, so that a node killed before would leave the command behind;
# it is told to go when it stands there, by a node that lives. $3: `ulimit` flags.
# The shell stays, as process 1 inside: when it ends, everything does.
PRELUDE: Final = """\
for fd in $1; do exec {fd}<&-; done
line=$2
if [ -n "$line" ]; then
  echo ready >&$line
  read -r -u $line || exit 125
  exec {line}<&-
fi
ulimit $3 || exit 125
shift 3
exec 9>&2 2>/dev/null
"$@" 2>&9 9>&-
exit
"""
# Around bwrap: one killed between making its process and letting it go leaves that behind, waiting for ever. All
# of them are one group until then, which is killed when the line $1 breaks off before a word came. $2: what is not for
# who watches it.
START_GUARD: Final = """\
{ for fd in $2; do exec {fd}<&-; done; read -r -u $1 || kill -9 -- -$$; } >/dev/null 2>&1 </dev/null &
fd=$1
exec {fd}<&-
shift 2
exec "$@"
"""
# Where no namespace ends everything: its standard input, on which nothing is ever sent, breaks off with this node, and
# then everything is killed: the process group, or all that there is in a container ($1).
GUARDED_PRELUDE: Final = """\
ulimit $3 || exit 125
all=$1
shift 3
exec 3<&0 </dev/null
{ read -r -u 3; kill -9 -- ${all:--$$}; } >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""
_ALL_THERE_IS: Final = "-1"

RunningKind = Literal["bwrap", "sandbox-exec", "podman", "docker", "none"]


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """Of one command: `processes` together; `cpu_s`, `file_bytes` and `open_files` of each of them.

    `memory_bytes` is what each may have as data, and what all may have together.
    """

    memory_bytes: int = 4 << 30
    cpu_s: int | None = 1200  # of all cores; None for what runs on, such as a server
    processes: int = 512
    file_bytes: int = 2 << 30
    open_files: int = 1024

    def ulimit(self, processes_count: bool) -> str:
        """The flags of bash's `ulimit`; `processes_count`: where the system counts those of this command alone."""
        flags = ["-c", "0", "-d", str(self.memory_bytes >> 10), "-f", str(self.file_bytes >> 10)]
        flags += ["-n", str(self.open_files)]
        if self.cpu_s is not None:
            flags += ["-t", str(self.cpu_s)]
        if processes_count:
            flags += ["-u", str(self.processes)]
        return " ".join(flags)


@dataclass(frozen=True, slots=True)
class KeptPath:
    """A file or folder below the root that a command may read and not change, as it was opened (`descriptor`)."""

    path: Path
    descriptor: int


@dataclass(frozen=True, slots=True)
class Confinement:
    """What one command may reach: the `root`, held open by `descriptor`, and the `network` or none.

    What is `kept` is read-only where the root is `writable`. `shown` are folders beside the root that may be read.
    """

    root: Path
    descriptor: int
    writable: bool = False
    network: bool = False
    kept: tuple[KeptPath, ...] = ()
    limits: CommandLimits = CommandLimits()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])  # beyond the few variables that all have
    temporary: Path | None = None  # its folder for temporary files, where /tmp is not its own
    calls: int | None = None  # a descriptor with the filter of system calls (`syscall_filter.py`), for bwrap
    talks: bool = False  # its standard input is a pipe from this node, as servers have it; else it is empty
    shown: tuple[Path, ...] = ()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the sandbox's set-up inherits, and the command does not."""
        others = () if self.calls is None else (self.calls,)
        return (self.descriptor, *(kept.descriptor for kept in self.kept), *others)


@dataclass(frozen=True, slots=True)
class StartLines:
    """Descriptors by which a start is followed: bwrap writes which process it made to `information`, and the shell in
    it says on `going` that it is ready, and waits for the word to go on. `guard` ends it all if that never comes."""

    information: int
    going: int
    guard: int


@dataclass(frozen=True, slots=True)
class SystemView:
    """What of this machine the inside of a bwrap sandbox shows: found once, since it looks at the disk.

    `folders` are shown read-only, `links` made again, `etc` shown read-only. `resolver` is the file behind
    /etc/resolv.conf.
    """

    folders: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    etc: tuple[str, ...] = ()
    resolver: str | None = None
    path: str = SYSTEM_PATH


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that has been tried and works here. `program` is its own, `bash` the shell inside of it.

    `options` are those that this version of bwrap has beyond the oldest that is used.
    """

    kind: RunningKind
    program: str = ""
    image: str | None = None
    bash: str = "/bin/bash"
    view: SystemView | None = None
    options: frozenset[str] = frozenset()
    user: str | None = None  # "UID:GID" that docker runs commands as
    processes_beside: int = 0  # that a limit counts with those of a command

    @property
    def title(self) -> str:
        """For people: what commands run in."""
        return "no sandbox" if self.kind == "none" else self.kind if self.image is None else f"{self.kind} {self.image}"

    @property
    def takes_descriptors(self) -> bool:
        """Whether folders are given to it as they were opened: by name, each could be a link by now.

        bwrap makes a name of `/proc/self/fd/N` as well. It takes descriptors since 0.10, and where 0.8 was mended.
        """
        return self.kind == "bwrap" and "ro-bind-fd" in self.options

    @property
    def ends_with_node(self) -> bool:
        """Whether the system ends all of it when this node is gone; else a line from here does (`GUARDED_PRELUDE`)."""
        return self.kind == "bwrap"

    def command_line(
        self, confinement: Confinement, command: tuple[str, ...], *, start: StartLines | None = None, name: str = ""
    ) -> tuple[str, ...]:
        """What to execute for `command`, which begins at once where `start` is None. `name` is the container's."""
        if self.kind == "bwrap":
            return bwrap_command(self, confinement, command, start)
        if self.kind == "sandbox-exec":
            return sandbox_exec_command(self, confinement, command)
        if self.kind == "none":
            return (*_guarded(self, confinement), *command)
        return container_command(self, confinement, command, name)


def environment_inside(sandbox: Sandbox, confinement: Confinement) -> dict[str, str]:
    """All variables of a command: none of this node's own, keys and tokens least of all."""
    path = sandbox.view.path if sandbox.view is not None else SYSTEM_PATH
    if sandbox.kind in ("sandbox-exec", "none"):
        path = f"/opt/homebrew/bin:{path}"
    home = HOME if confinement.temporary is None else str(confinement.temporary)
    plain = {"PATH": path, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    return plain | dict(confinement.environment)


def bwrap_command(
    sandbox: Sandbox, confinement: Confinement, command: tuple[str, ...], start: StartLines | None
) -> tuple[str, ...]:
    """bwrap's command line. Folders below the root are given by descriptors, where it takes any."""
    view = sandbox.view or SystemView(())
    line = [sandbox.program]
    line += ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if not confinement.network:
        line.append("--unshare-net")
    if "disable-userns" in sandbox.options:
        line.append("--disable-userns")
    line += ["--hostname", "sandbox", "--die-with-parent", "--new-session"]
    if "clearenv" in sandbox.options:  # an older one inherits what this node gives it, which is no more
        line.append("--clearenv")
    for variable, value in environment_inside(sandbox, confinement).items():
        line += ["--setenv", variable, value]
    for folder in view.folders:
        line += ["--ro-bind", folder, folder]
    for link, target in view.links:
        line += ["--symlink", target, link]
    for path in view.etc:
        line += ["--ro-bind", path, path]
    if confinement.network and view.resolver is not None:
        line += ["--ro-bind", view.resolver, RESOLVER]
    line += ["--proc", "/proc", "--dev", "/dev"]
    line += [*_sized(sandbox, _SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    line += [*_sized(sandbox, _TMP_BYTES), "--tmpfs", "/tmp"]
    for folder in confinement.shown:
        line += ["--ro-bind", str(folder), str(folder)]
    bind = "--bind" if confinement.writable else "--ro-bind"
    line += _bound(sandbox, bind, confinement.root, confinement.descriptor)
    for kept in confinement.kept if confinement.writable else ():
        line += _bound(sandbox, "--ro-bind", kept.path, kept.descriptor)
    line += ["--remount-ro", "/", "--chdir", str(confinement.root)]
    if confinement.calls is not None:
        line += ["--seccomp", str(confinement.calls)]
    if start is not None:
        line += ["--info-fd", str(start.information)]
    closing = " ".join(map(str, confinement.descriptors))
    bounds = confinement.limits
    limits = replace(bounds, processes=bounds.processes + sandbox.processes_beside).ulimit(processes_count=True)
    inside = ("--as-pid-1", "--", sandbox.bash, "-c", PRELUDE, "bash", closing)
    if start is None:
        return (*line, *inside, "", limits, *command)
    others = f"{start.information} {start.going} {closing}"
    guarded = (sandbox.bash, "-c", START_GUARD, "bash", str(start.guard), others)
    return (*guarded, *line, *inside, str(start.going), limits, *command)


def _bound(sandbox: Sandbox, option: str, path: Path, descriptor: int) -> tuple[str, ...]:
    if sandbox.takes_descriptors:
        return (f"{option}-fd", str(descriptor), str(path))
    return (option, str(path), str(path))


def _sized(sandbox: Sandbox, size_bytes: int) -> tuple[str, ...]:
    return ("--size", str(size_bytes)) if "size" in sandbox.options else ()


def sandbox_exec_command(sandbox: Sandbox, confinement: Confinement, command: tuple[str, ...]) -> tuple[str, ...]:
    """macOS: the profile holds for the command and all that it starts."""
    return (sandbox.program, "-p", sandbox_profile(confinement), *_guarded(sandbox, confinement), *command)


def _guarded(sandbox: Sandbox, confinement: Confinement, all_there_is: str = "") -> tuple[str, ...]:
    """The shell that sets limits, and has everything killed when this node is gone; a server sees its input end."""
    prelude = PRELUDE if confinement.talks else GUARDED_PRELUDE
    argument = "" if confinement.talks else all_there_is
    return (sandbox.bash, "-c", prelude, "bash", argument, "", confinement.limits.ulimit(processes_count=False))


def sandbox_profile(confinement: Confinement) -> str:
    """The profile of `sandbox-exec`, in its language: later rules win. Paths are quoted as its strings are."""
    root = _quoted(confinement.root)
    lines = [
        "(version 1)",
        "(allow default)",
        "(deny file-write*)",
        '(deny file-read* (subpath "/Users") (subpath "/private/var/root") (subpath "/Volumes"))',
        "(deny process-info* (target others))",
        "(deny mach-lookup)",
        "(deny appleevent-send)",
        "(deny iokit-open)",
        f"(allow file-read* (subpath {root}))",
        '(allow file-read-metadata (subpath "/Users"))',
        '(allow file-write* (literal "/dev/null") (literal "/dev/zero") (literal "/dev/dtracehelper"))',
    ]
    lines += [f"(allow file-read* (subpath {_quoted(folder)}))" for folder in confinement.shown]
    if confinement.temporary is not None:
        lines.append(f"(allow file-read* file-write* (subpath {_quoted(confinement.temporary)}))")
    if confinement.writable:
        lines.append(f"(allow file-write* (subpath {root}))")
        lines += [f"(deny file-write* (subpath {_quoted(kept.path)}))" for kept in confinement.kept]
    if confinement.network:
        lines.append('(allow mach-lookup (global-name "com.apple.dnssd.service"))')
    else:
        lines.append("(deny network*)")
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def container_command(
    sandbox: Sandbox, confinement: Confinement, command: tuple[str, ...], name: str
) -> tuple[str, ...]:
    """podman's or docker's command line: nothing but the root is shared, and the container is gone with its command."""
    limits = confinement.limits
    line = [sandbox.program, "run", "--rm", "--interactive", "--init", "--name", name, "--pull", "never"]
    line += ["--read-only", "--tmpfs", f"/tmp:rw,exec,size={_TMP_BYTES}", "--hostname", "sandbox"]
    line += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    line += ["--pids-limit", str(limits.processes), "--memory", str(limits.memory_bytes)]
    line += ["--memory-swap", str(limits.memory_bytes), "--shm-size", str(_SHARED_MEMORY_BYTES)]
    if not confinement.network:
        line += ["--network", "none"]
    if sandbox.kind == "podman":
        line += ["--userns", "keep-id"]
    elif sandbox.user is not None:
        line += ["--user", sandbox.user]
    for folder in confinement.shown:
        line += ["--mount", _mount(folder, writable=False)]
    line += ["--mount", _mount(confinement.root, confinement.writable)]
    for kept in confinement.kept if confinement.writable else ():
        line += ["--mount", _mount(kept.path, writable=False)]
    for variable, value in environment_inside(sandbox, confinement).items():
        line += ["--env", f"{variable}={value}"]
    line += ["--workdir", str(confinement.root), "--entrypoint", sandbox.bash, str(sandbox.image)]
    return (*line, *_guarded(sandbox, confinement, _ALL_THERE_IS)[1:], *command)


def _mount(path: Path, writable: bool) -> str:
    """One mount, as the line of comma-separated values that it is."""
    quoted = str(path).replace('"', '""')
    fields = ["type=bind", f'"source={quoted}"', f'"target={quoted}"', *([] if writable else ["readonly"])]
    return ",".join(fields)
