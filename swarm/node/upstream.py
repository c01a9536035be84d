"""The upstream as the user set it: checked, its key taken from the environment, and what the banner says of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from urllib.parse import urlsplit

from swarm.engines.upstream.address import KEY_VARIABLE, URL_VARIABLE, UpstreamMode, parse_upstream, proxy_to
from swarm.errors import SetupError
from swarm.node.settings import Settings
from swarm.routing.upstream import UpstreamOffer, UpstreamPlan

MAX_KEY_CHARS = 4096  # JSON web tokens have a few hundred

WHAT_IS_SENT: Mapping[UpstreamMode, str] = {
    "fallback": "gets what no node can answer",
    "voter": "votes on `swarm`, and gets what no node can answer",
    "only": "gets every request",
}
WHERE_IT_GOES = {
    "machine": "it is on this machine",
    "network": "it is another machine on this network",
    "internet": "that LEAVES THIS NETWORK",
}


def read_upstream(settings: Settings) -> UpstreamPlan | None:
    """The plan, None where no upstream is set. Raises SetupError."""
    if not settings.upstream:
        for name, given in (("model", settings.upstream_model), ("mode", settings.upstream_mode)):
            if given is not None:
                raise SetupError(f"--upstream-{name} {given} needs --upstream URL (or {URL_VARIABLE})")
        return None
    mode = settings.upstream_mode or "fallback"
    if mode == "only" and settings.model:
        raise SetupError(
            f"--upstream-mode only loads no local model, and --model {settings.model[0]} asks for one: drop one of them"
        )
    address = parse_upstream(settings.upstream)
    address = replace(address, proxy=proxy_to(address, os.environ))
    return UpstreamPlan(address, mode, settings.upstream_model, settings.upstream_slots, settings.queue)


def take_key(environment: MutableMapping[str, str]) -> str | None:
    """The upstream's key, taken out of the environment: no process that this one starts has business with it.

    Only the variable made for it is read: a key for one service must not reach another because both are set.
    """
    key = environment.pop(KEY_VARIABLE, "").strip()
    if len(key) > MAX_KEY_CHARS or not (key.isascii() and key.isprintable()):
        raise SetupError(f"{KEY_VARIABLE} is not a key: it must be plain ASCII of at most {MAX_KEY_CHARS} characters")
    return key or None


def banner_lines(plan: UpstreamPlan, has_key: bool) -> list[str]:
    """What may leave this machine or network, and where to."""
    address = plan.address
    lines = [f"  upstream   {address.host} ({plan.mode}): {WHAT_IS_SENT[plan.mode]}; {WHERE_IT_GOES[address.reach]}"]
    if address.proxy is not None:
        lines.append(f"             through the proxy {urlsplit(address.proxy).hostname}, as the environment says")
    if has_key and not address.encrypted and address.reach != "machine":
        lines.append("             its key and your requests go there unencrypted: use https if you can")
    return lines


def ready_line(offer: UpstreamOffer) -> str:
    """What a node says that has no other engine."""
    if offer.default is None:
        return f"ready: but answering 503 for now: {offer.problem}; press Ctrl-C to stop"
    return f"ready: {offer.default} at {offer.host} answers for this node; press Ctrl-C to stop"
