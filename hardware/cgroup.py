"""What this process's control groups leave it: memory and CPU time, for cgroup v1, v2 and both at once.

A process sits in a tree of groups, and each ancestor's limit holds too, so all levels up to the mount are read and the
tightest counts. Inside a container the mount often shows only the container's own subtree: /proc/self/mountinfo says
which part of the hierarchy each mount shows. Files: https://docs.kernel.org/admin-guide/cgroup-v2.html, and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_FILE_BYTES = 4 * 1024 * 1024  # /proc/cpuinfo of a 1024-core machine is about 1.5 MiB
MAX_LEVELS = 64  # Kubernetes nests about 6; bounds the walk whatever /proc/self/cgroup says

_V2 = ""  # the name of the unified hierarchy in /proc/self/cgroup
# In memory.stat: pages of files not used lately, those used lately, and of both those that are mapped.
_CACHE_V2 = "inactive_file", "active_file", "file_mapped"
_CACHE_V1 = "total_inactive_file", "total_active_file", "total_mapped_file"
_OCTAL = re.compile(r"\\([0-7]{3})")


def read_text(path: Path) -> str | None:
    """A file of /proc or /sys, cut at MAX_FILE_BYTES; None if it is not there or may not be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: a NUL in a path that a broken file named
        return None


def read_int(path: Path) -> int | None:
    """A file that holds one number; None if it holds something else, such as "max"."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy: `controllers` is {""} for v2; `shown` is the group that `mount_point` shows."""

    controllers: frozenset[str]
    shown: str
    mount_point: str


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The limit of one group, and what is free below it when its file cache is dropped (None: usage unknown)."""

    limit_bytes: int
    free_bytes: int | None


def parse_mounts(mountinfo: str) -> tuple[CgroupMount, ...]:
    """The cgroup mounts in /proc/self/mountinfo; other and malformed lines are skipped."""
    return tuple(mount for line in mountinfo.splitlines() if (mount := _parse_mount(line)) is not None)


def _parse_mount(line: str) -> CgroupMount | None:
    # "33 31 0:29 /docker/1f2e /sys/fs/cgroup/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
    left, _, right = line.partition(" - ")
    where, what = left.split(" "), right.split(" ")
    if len(where) < 5 or len(what) < 3 or what[0] not in ("cgroup", "cgroup2"):
        return None
    controllers = frozenset({_V2}) if what[0] == "cgroup2" else frozenset(what[2].split(","))
    return CgroupMount(controllers, _unescape(where[3]), _unescape(where[4]))


def _unescape(path: str) -> str:
    """Undo the octal escapes of mountinfo ("\\040" is a space)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path)


def parse_membership(cgroup: str) -> dict[str, str]:
    """/proc/self/cgroup as controller -> path of this process's group; "" is the v2 hierarchy."""
    groups: dict[str, str] = {}
    for line in cgroup.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            groups.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return groups


def group_directories(controller: str, mounts: tuple[CgroupMount, ...], groups: dict[str, str]) -> tuple[str, ...]:
    """This process's group and its visible ancestors, innermost first, as v2 and then as v1 of `controller`."""
    return tuple(
        directory
        for name in (_V2, controller)
        for mount in mounts
        if name in mount.controllers and name in groups
        for directory in _upwards(mount, groups[name])
    )


def _upwards(mount: CgroupMount, group: str) -> Iterator[str]:
    shown = mount.shown.rstrip("/")
    inside = PurePosixPath(group[len(shown) :].lstrip("/")) if (group + "/").startswith(shown + "/") else None
    top = PurePosixPath(mount.mount_point)
    if inside is None or ".." in inside.parts:  # the group lies outside what is mounted: only the mount itself is seen
        inside = PurePosixPath()
    parts = inside.parts[:MAX_LEVELS]
    for depth in range(len(parts), -1, -1):
        yield str(top.joinpath(*parts[:depth]))


def read_directories(root: Path, controller: str) -> tuple[Path, ...]:
    """Where `controller`'s files of this process may lie, below the filesystem `root`; () without cgroups."""
    mounts = parse_mounts(read_text(root / "proc/self/mountinfo") or "")
    groups = parse_membership(read_text(root / "proc/self/cgroup") or "")
    return tuple(root / found.lstrip("/") for found in group_directories(controller, mounts, groups))


def read_memory_limits(root: Path, directories: Sequence[Path] | None = None) -> tuple[MemoryLimit, ...]:
    """The memory limit of every group that has one. `directories` are those of `read_directories`, where known."""
    return tuple(
        limit
        for directory in (read_directories(root, "memory") if directories is None else directories)
        for limit in (
            _memory_limit(directory, "memory.max", "memory.current", _CACHE_V2),
            _memory_limit(directory, "memory.limit_in_bytes", "memory.usage_in_bytes", _CACHE_V1),
        )
        if limit is not None
    )


def _memory_limit(
    directory: Path, limit_file: str, usage_file: str, cache_keys: tuple[str, str, str]
) -> MemoryLimit | None:
    limit_bytes = read_int(directory / limit_file)
    if limit_bytes is None or limit_bytes < 0:
        return None
    used_bytes = read_int(directory / usage_file)
    if used_bytes is None:
        return MemoryLimit(limit_bytes, None)
    # Pages of files not used lately count as usage but are dropped on demand (what `docker stats` subtracts too). Those
    # that are mapped are in use, whichever list they are on: the weights of a model that runs.
    stat = parse_memory_stat(read_text(directory / "memory.stat") or "")
    inactive, active, mapped = (stat.get(key, 0) for key in cache_keys)
    free_bytes = limit_bytes - max(0, used_bytes - min(inactive, max(0, inactive + active - mapped)))
    return MemoryLimit(limit_bytes, min(limit_bytes, max(0, free_bytes)))


def parse_memory_stat(text: str) -> dict[str, int]:
    """memory.stat as name -> number; malformed lines are skipped."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and _is_number(pair[1])}


def read_cpu_quota_cores(root: Path) -> float | None:
    """CPU seconds per second that the tightest group allows; None without a quota."""
    quotas = (
        quota
        for directory in read_directories(root, "cpu")
        for quota in (
            parse_cpu_max(read_text(directory / "cpu.max") or ""),
            _quota_cores(read_int(directory / "cpu.cfs_quota_us"), read_int(directory / "cpu.cfs_period_us")),
        )
        if quota is not None
    )
    return min(quotas, default=None)


def parse_cpu_max(text: str) -> float | None:
    """ "150000 100000" -> 1.5; "max 100000" -> None."""
    parts = text.split()
    if len(parts) != 2 or not all(_is_number(part) for part in parts):
        return None
    return _quota_cores(int(parts[0]), int(parts[1]))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20  # 64 bits


def _quota_cores(quota_us: int | None, period_us: int | None) -> float | None:
    if quota_us is None or period_us is None or quota_us <= 0 or period_us <= 0:  # v1 says -1 for "no quota"
        return None
    return quota_us / period_us
