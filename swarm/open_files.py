"""How many files and connections this process may have open at once: systems start programs with far too few."""

from __future__ import annotations

import sys

WANTED = 8192  # clients (at most 2,048 requests, each with a connection to its engine or a peer), peers, models


def raise_limit(wanted: int = WANTED) -> int | None:
    """Raise the soft limit towards `wanted`, as far as the hard one allows; never lowers it.

    Linux starts programs with 1,024 and macOS with 256. Returns the limit now; None where there is none to raise.
    """
    if sys.platform == "win32":
        return None
    import resource  # only where there is one

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    aim = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (aim, hard))
    except (ValueError, OSError):  # macOS has a kernel limit below its own hard one
        return soft
    return aim
