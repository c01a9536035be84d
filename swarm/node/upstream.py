"""The upstreams as the user set them: checked, their keys taken from the environment, and what the banner says of them.

Each is named by a table `[upstream.NAME]`, a row of the table of providers, or a base URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from swarm.engines.upstream.address import (
    KEY_VARIABLE,
    URL_VARIABLE,
    UpstreamAddress,
    UpstreamMode,
    parse_upstream,
    proxy_to,
)
from swarm.errors import SetupError
from swarm.node.model_settings import UpstreamSettings
from swarm.node.settings import Settings
from swarm.providers import Provider, checked_key, is_foreign, provider_named
from swarm.routing.upstream import UpstreamOffer, UpstreamPlan

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


def read_upstreams(settings: Settings) -> tuple[UpstreamPlan, ...]:
    """The plans in the order in which they are asked, none where no upstream is set. Raises SetupError."""
    names = settings.upstream or tuple(settings.upstreams)
    if not names:
        for name, given in (("model", settings.upstream_model), ("mode", settings.upstream_mode)):
            if given is not None:
                raise SetupError(f"--upstream-{name} {given} needs --upstream URL (or {URL_VARIABLE})")
        return ()
    if len(names) > 1 and settings.upstream_model is not None:
        raise SetupError(
            f"--upstream-model {settings.upstream_model} is of one upstream, and there are {len(names)}: "
            "name it in the configuration file, [upstream.NAME] model"
        )
    plans = tuple(_plan(name, settings) for name in names)
    for number, plan in enumerate(plans):
        if any(plan.address.host == other.address.host for other in plans[:number]):
            raise SetupError(f"two upstreams are at {plan.address.host}: name each address once")
    if settings.model and any(plan.mode == "only" for plan in plans):
        raise SetupError(
            f"--upstream-mode only loads no local model, and --model {settings.model[0]} asks for one: drop one of them"
        )
    return plans


def _plan(name: str, settings: Settings) -> UpstreamPlan:
    """The plan for what the user calls `name`. Raises SetupError."""
    table = settings.upstreams.get(name)
    own = table or UpstreamSettings()
    said = "--upstream" if table is None else f"[upstream.{name}] base ="
    provider = _provider(name, table)
    if own.base is not None:
        address = parse_upstream(own.base, said)
    elif provider is not None:
        address = _base_of(provider)
    else:
        address = parse_upstream(name, said)
    if own.key_variable is not None:
        variables: tuple[str, ...] = (own.key_variable,)
    elif provider is not None and not is_foreign(provider, address.bases[0]):
        variables = provider.key_variables
    else:
        variables = ()
    return UpstreamPlan(
        replace(address, proxy=proxy_to(address, os.environ)),
        mode=own.mode or settings.upstream_mode or "fallback",
        model=own.model or settings.upstream_model,
        slots=own.slots or settings.upstream_slots,
        queue=settings.queue,
        name=name,
        provider=provider,
        key_variables=variables,
        headers=own.headers,
        repair=own.repair or "safe",
    )


def _provider(name: str, table: UpstreamSettings | None) -> Provider | None:
    """The row that an upstream is of, None where it is a base URL alone. Raises SetupError."""
    if table is not None and table.provider is not None:
        try:
            return provider_named(table.provider)
        except SetupError as error:
            raise SetupError(f"[upstream.{name}] provider = {table.provider!r}: {error}") from error
    if ":" in name or "." in name:  # an address, or was meant as one
        return None
    try:
        return provider_named(name)
    except SetupError as error:
        if table is None:
            raise SetupError(f"--upstream {name}: {error}") from error
        if table.base is None:
            raise SetupError(f"[upstream.{name}] needs base = its URL, or provider =: {error}") from error
        return None


def _base_of(provider: Provider) -> UpstreamAddress:
    """Where a node asks a provider: only OpenAI's own protocol travels on as it is. Raises SetupError."""
    if (base := provider.chat_base) is None:
        raise SetupError(
            f"--upstream {provider.name}: {provider.title} has no OpenAI-compatible API, and a node speaks no other: "
            f"use `swarm agent --provider {provider.name}`, or a provider that has its models, as openrouter"
        )
    return replace(parse_upstream(base), bases=(base,))


@dataclass(frozen=True, slots=True)
class UpstreamSecrets:
    """What of an upstream came from the environment."""

    key: str | None
    headers: Mapping[str, str]


def take_secrets(plans: Sequence[UpstreamPlan], environment: MutableMapping[str, str]) -> tuple[UpstreamSecrets, ...]:
    """The key and headers of each upstream, taken out of the environment: no process started here has business with it.

    `KEY_VARIABLE` is the key of the upstream that has no variable of its own, or of the only one: a key for one service
    never reaches another because both are set. Raises SetupError where it is not clear whose it is, or one is missing.
    """
    nameless = [plan for plan in plans if not plan.key_variables]
    if environment.get(KEY_VARIABLE, "").strip() and len(nameless) > 1:
        raise SetupError(
            f"{KEY_VARIABLE} is the key of one upstream, and {len(nameless)} have no key variable of their own "
            f"({', '.join(plan.address.host for plan in nameless)}): name one for each, [upstream.NAME] key_variable"
        )
    found: list[UpstreamSecrets] = []
    for plan in plans:
        lone = (KEY_VARIABLE,) if plan in nameless or len(plans) == 1 else ()
        found.append(
            UpstreamSecrets(_key_of(plan, (*lone, *plan.key_variables), environment), _headers(plan, environment))
        )
    taken = {KEY_VARIABLE, *(name for plan in plans for name in plan.key_variables)}
    taken |= {value[1:] for plan in plans for value in plan.headers.values() if value.startswith("$")}
    for variable in taken:
        environment.pop(variable, None)
    return tuple(found)


def _key_of(plan: UpstreamPlan, variables: Sequence[str], environment: Mapping[str, str]) -> str | None:
    for variable in variables:
        if key := environment.get(variable, "").strip():
            return checked_key(key, variable)
    if plan.key_variables and (plan.provider is None or plan.provider.needs_key):
        raise SetupError(
            f"upstream {plan.name} ({plan.address.host}) needs a key: set {' or '.join(plan.key_variables)} in the "
            "environment where the node is started"
        )
    return None


def _headers(plan: UpstreamPlan, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Its headers, with what the environment has for values that are `$NAME`."""
    found: dict[str, str] = {}
    for name, value in plan.headers.items():
        if value.startswith("$"):
            variable = value[1:]
            if not (value := environment.get(variable, "").strip()):
                raise SetupError(f"[upstream.{plan.name}] headers: {name} needs {variable}, which is not set")
            value = checked_key(value, variable)
        found[name] = value
    return found


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
