"""Environment variables that the command line reads, apart from the settings, which take long to import.

Proxies (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) are for what is outside of this network: downloads from
the hub, upstreams on the internet. What goes to nodes, to engines and to this machine itself goes there directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

API_KEY = "SWARM_API_KEY"


def texts(environment: Mapping[str, str], variable: str) -> list[str]:
    """The texts in a variable that lists several, separated by commas or white space; none where it is unset."""
    return [text for text in re.split(r"[,\s]+", environment.get(variable, "")) if text]


THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def keep_this_machine_direct(environment: MutableMapping[str, str]) -> None:
    """Let no library of this process and its children ask this machine itself through a proxy."""
    if not any(variable.lower().endswith("_proxy") for variable in environment):
        return
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if "*" not in names:
        names += [name for name in THIS_MACHINE if name not in names]
        environment["no_proxy"] = environment["NO_PROXY"] = ",".join(names)
