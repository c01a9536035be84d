"""Where an upstream is: its base URL as people write it, and who may read what is sent there. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from swarm.environment import proxy_for
from swarm.errors import SetupError

UpstreamMode = Literal["fallback", "voter", "only"]
UPSTREAM_MODES: tuple[str, ...] = get_args(UpstreamMode)
DEFAULT_SLOTS = 8  # requests at once: enough for a household, too few for a runaway script to be ruinous

URL_VARIABLE, KEY_VARIABLE = "SWARM_UPSTREAM_URL", "SWARM_UPSTREAM_KEY"
MAX_URL_CHARS = 2048
ENDPOINTS = ("/chat/completions", "/completions", "/models", "/embeddings")  # pasted along with the base
VERSION = re.compile(r"^v\d\w*$")  # the last part of most bases: v1, v4, v1beta
EXAMPLE = "http://127.0.0.1:11434/v1"


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """`bases` are the URLs that endpoints may be under, the likeliest first; `host` is all that is shown of them.

    `proxy` is the URL of the HTTP proxy on the way there, if any.
    """

    bases: tuple[str, ...]
    host: str
    reach: Literal["machine", "network", "internet"]
    encrypted: bool
    proxy: str | None = None


def parse_upstream(url: str, said: str = "--upstream") -> UpstreamAddress:
    """`url` with or without `/v1`, a slash at the end, or an endpoint's own path; `said` is where it was given.

    Raises SetupError.
    """
    if len(url) > MAX_URL_CHARS or not url.isprintable():
        raise SetupError(f"{said} is no URL: give the API's base, like {EXAMPLE}")
    try:
        parts = urlsplit(url.strip())
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise SetupError(f"{said} is no URL ({error}): give the API's base, like {EXAMPLE}") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not quoted: whatever stands there may be a key.
        raise SetupError(
            f"{said} must be a plain base URL like {EXAMPLE}, without a user, a query or a fragment: "
            f"the key belongs in the environment, {KEY_VARIABLE}"
        )
    if parts.scheme not in ("http", "https") or not name or " " in parts.netloc:
        raise SetupError(f"{said} {url!r} is no http or https URL: give the API's base, like {EXAMPLE}")
    path = re.sub(r"/+", "/", parts.path).rstrip("/")
    for endpoint in ENDPOINTS:
        path = path.removesuffix(endpoint)
    origin = f"{parts.scheme}://{parts.netloc}"
    bases = (origin + path,) if VERSION.match(path.rsplit("/", 1)[-1]) else (f"{origin}{path}/v1", origin + path)
    shown = f"[{name}]" if ":" in name else name
    return UpstreamAddress(bases, shown if port is None else f"{shown}:{port}", reach_of(name), parts.scheme == "https")


def reach_of(host: str) -> Literal["machine", "network", "internet"]:
    """How far away `host` may be: a name that says nothing of it counts as the internet."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return "machine"
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return "network" if name.endswith((".local", ".lan", ".home.arpa")) or "." not in name else "internet"
    if address.is_loopback:
        return "machine"
    return "network" if address.is_private or address.is_link_local else "internet"


def proxy_to(address: UpstreamAddress, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for `address`: for the internet only, what is nearer is asked directly.

    Raises SetupError for a proxy of another kind than HTTP.
    """
    if address.reach != "internet":
        return None
    proxy = proxy_for(address.host, address.encrypted, environment)
    if proxy is None:
        return None
    url, variable = proxy.url, proxy.variable
    if not url.startswith(("http://", "https://")):
        kind = url.partition("://")[0]
        raise SetupError(
            f"{variable} names a {kind} proxy, and upstreams are asked through HTTP proxies only: name one in "
            f"{'HTTPS_PROXY' if address.encrypted else 'HTTP_PROXY'}, or except the upstream: NO_PROXY={address.host}"
        )
    return url
