"""How much RAM this process may use: the machine's, less what its control groups forbid.

Linux counts the pages of files as free, those that programs have mapped among them: a model of 5 GB that is in use, of
this node or of another program, takes nothing of `MemAvailable`, and one more that seems to fit makes the machine read
both from the disk for every token. So what is mapped is not free here.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import psutil

from hardware.cgroup import MemoryLimit, read_memory_limits, read_text
from hardware.snapshot import GIB_BYTES, Memory

_MEMINFO_KIB = re.compile(r"^(Mapped|Shmem):\s+([0-9]{1,18}) kB$", re.MULTILINE)


def memory_within(
    host_total_bytes: int | None, host_free_bytes: int | None, limits: Sequence[MemoryLimit] = ()
) -> Memory:
    """The machine's memory cut down to the tightest of the nested `limits`.

    Limits at or above the machine's size are no limits: cgroup v1 says 2^63 rounded to pages for "none".
    """
    real = [limit for limit in limits if host_total_bytes is None or limit.limit_bytes < host_total_bytes]
    limit_bytes = min((limit.limit_bytes for limit in real), default=None)
    free = [limit.limit_bytes if limit.free_bytes is None else limit.free_bytes for limit in real]
    return Memory(
        total_bytes=host_total_bytes if limit_bytes is None else limit_bytes,
        free_bytes=min(free, default=None) if host_free_bytes is None else min([host_free_bytes, *free]),
        host_total_bytes=host_total_bytes,
        limit_bytes=limit_bytes,
    )


def mapped_file_bytes(meminfo: str) -> int:
    """Bytes of files that programs have mapped, in the text of /proc/meminfo; 0 where it does not say.

    `Mapped` has shared memory among them, which is not free anyway, mapped or not.
    """
    sizes = {name: int(number) for name, number in _MEMINFO_KIB.findall(meminfo)}
    return max(0, sizes.get("Mapped", 0) - sizes.get("Shmem", 0)) * 1024


def host_memory(root: Path) -> tuple[int, int]:
    """Bytes of RAM that the machine has in all and that are free. Some 0.1 ms. Raises OSError or RuntimeError."""
    host = psutil.virtual_memory()
    mapped_bytes = mapped_file_bytes(read_text(root / "proc/meminfo") or "")
    return host.total, max(0, host.available - mapped_bytes)


def probe_memory(root: Path) -> tuple[Memory, tuple[str, ...]]:
    """Read the machine's RAM and the limits below the filesystem `root`; never raises."""
    limits = read_memory_limits(root)
    try:
        total_bytes, free_bytes = host_memory(root)
    except (OSError, RuntimeError) as error:  # /proc hidden, or a platform that psutil cannot read
        return memory_within(None, None, limits), (f"memory: the system does not say ({error})",)
    memory = memory_within(total_bytes, free_bytes, limits)
    if memory.limit_bytes is None:
        return memory, ()
    limited = f"memory: this process's container may use {memory.limit_bytes / GIB_BYTES:.1f} GiB (cgroup limit)"
    return memory, (limited,)


def resident_bytes(pid: int | None = None) -> int | None:
    """What a process has in RAM, the files that it has mapped among it; None if it is gone or nobody may ask.

    `pid` None for this process.
    """
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except (psutil.Error, OSError):
        return None
