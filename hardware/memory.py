"""How much RAM this process may use: the machine's, less what its control groups forbid."""

from collections.abc import Sequence
from pathlib import Path

import psutil

from hardware.cgroup import MemoryLimit, read_memory_limits
from hardware.snapshot import GIB_BYTES, Memory


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


def probe_memory(root: Path) -> tuple[Memory, tuple[str, ...]]:
    """Read the machine's RAM and the limits below the filesystem `root`; never raises."""
    limits = read_memory_limits(root)
    try:
        host = psutil.virtual_memory()
    except (OSError, RuntimeError) as error:  # /proc hidden, or a platform that psutil cannot read
        return memory_within(None, None, limits), (f"memory: the system does not say ({error})",)
    memory = memory_within(host.total, host.available, limits)
    if memory.limit_bytes is None:
        return memory, ()
    limited = f"memory: this process's container may use {memory.limit_bytes / GIB_BYTES:.1f} GiB (cgroup limit)"
    return memory, (limited,)
