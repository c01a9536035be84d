"""Environment variables that the command line reads, apart from the settings, which take long to import.

Proxies (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`) are for what is outside of this network: downloads from
the hub, upstreams on the internet. What goes to nodes, to engines and to this machine itself goes there directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

API_KEY = "SWARM_API_KEY"
TOOL_KEY = "SWARM_TOOL_KEY"  # of a node whose tools `swarm agent` uses


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


@dataclass(frozen=True, slots=True)
class EnvironmentProxy:
    """The URL of a proxy, and the variable that names it."""

    variable: str
    url: str


def proxy_for(host: str, encrypted: bool, environment: Mapping[str, str]) -> EnvironmentProxy | None:
    """The proxy that the environment names for `host` (with its port, where it has one); None where it names none.

    As elsewhere, lower-case variables count first, HTTPS_PROXY and HTTP_PROXY before ALL_PROXY, and NO_PROXY excepts
    hosts. Its kind may be any: http, where none is written.
    """
    for name in ("https_proxy" if encrypted else "http_proxy", "all_proxy"):
        variable = name if environment.get(name) else name.upper()
        if proxy := environment.get(variable, "").strip():
            break
    else:
        return None
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if any(_covers(entry.strip().lower(), host.lower()) for entry in excepted.split(",")):
        return None
    return EnvironmentProxy(variable, proxy if "://" in proxy else f"http://{proxy}")


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of NO_PROXY (a name and what is below it, with or without a port, or `*`) covers `host`."""
    name = host if ":" in entry else host.partition(":")[0]
    return entry == "*" or (bool(entry) and (name == entry.lstrip(".") or name.endswith(f".{entry.lstrip('.')}")))
