"""`swarm providers`: the table, the models of one, and whether one answers, for as little as can be asked."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from federation.printable_text import aligned, clean_line
from swarm.agent.catalogue import FRESH_S, ListedModel, ListedModels, ProviderCatalogue, client_of
from swarm.commands.members import confirmed
from swarm.commands.output import complain, say
from swarm.errors import SetupError, SwarmError, Unauthorized, UpstreamRefused
from swarm.providers import (
    FOREIGN_KEY_VARIABLE,
    PROVIDERS,
    Provider,
    is_foreign,
    key_for,
    missing_key,
    one_token_request,
    protocol_for,
    provider_named,
)

UNKNOWN: Final = "-"
MOST_NEAR: Final = 3  # names, where there is no such model
NO_TEXT: Final = ("embed", "whisper", "tts", "image", "audio", "moderation", "rerank", "dall-e", "sora", "veo", "guard")
"""In the names of models that answer no question: not taken for a check unless they are named."""


def list_providers(as_json: bool) -> int:
    """Print the table."""
    rows = list(PROVIDERS.values())
    if as_json:
        say(json.dumps({"object": "list", "data": [_row(row) for row in rows]}, indent=2))
        return 0
    table = [("name", "protocol", "base", "key")]
    table += [(row.name, "by model" if row.adaptive else row.protocol, row.base_url, _key_words(row)) for row in rows]
    say("\n".join(aligned(table)))
    say()
    say("Any base URL of an OpenAI API is one, too. `swarm providers models NAME` shows what one has.")
    return 0


def _row(row: Provider) -> dict[str, Any]:
    told = asdict(row) | {"lacks": sorted(row.lacks), "base_url": row.base_url, "has_key": _has_key(row)}
    return told | {"bases": dict(row.bases)}


def _has_key(row: Provider) -> bool:
    return any(os.environ.get(variable, "").strip() for variable in row.key_variables)


def _key_words(row: Provider) -> str:
    set_one = next((variable for variable in row.key_variables if os.environ.get(variable, "").strip()), None)
    if set_one is not None:
        return f"{set_one} is set"
    return row.key_variables[0] if row.needs_key else "needs none"


def list_models(name: str, folder: Path, base_url: str | None, *, anew: bool, as_json: bool) -> int:
    """Print the models of a provider. Raises SwarmError where it has none that can be told."""
    provider = provider_named(name)
    key = key_for(provider, None, None, os.environ, base_url)

    async def look() -> ListedModels:
        async with ProviderCatalogue(folder) as catalogue:
            return await listed(catalogue, provider, key, base_url, anew=anew)

    found = asyncio.run(look())
    if as_json:
        models = [asdict(model) for model in found.models]
        told = {"object": "list", "provider": provider.name, "asked_at": found.asked_at, "problem": found.problem}
        say(json.dumps(told | {"data": models}, indent=2))
        return 0
    say("\n".join(model_lines(provider, found, time.time())))
    return 0


async def listed(
    catalogue: ProviderCatalogue, provider: Provider, key: str | None, base_url: str | None, *, anew: bool = False
) -> ListedModels:
    """The provider's models. Raises SwarmError, with what to set where a key is what it lacks."""
    try:
        return await catalogue.models(provider, key, base_url, anew=anew)
    except UpstreamRefused as error:
        raise refusal_of(error, provider, key, base_url) from error


def refusal_of(error: UpstreamRefused, provider: Provider, key: str | None, base_url: str | None) -> SwarmError:
    """A provider's refusal as it is told here: a key by its variable, and when to come back."""
    if error.refusal.code == "upstream_unauthorized":
        if key is None:
            return SetupError(missing_key(provider, base_url))
        variables = (FOREIGN_KEY_VARIABLE,) if is_foreign(provider, base_url) else provider.key_variables
        where = next((name for name in variables if os.environ.get(name, "").strip()), variables[0])
        return Unauthorized(f"{provider.title} refuses the key in {where}: it is wrong, or has expired", given=True)
    if error.refusal.retry_after_s:
        return SwarmError(f"{error}; it says to come back in {error.refusal.retry_after_s} s")
    return error


def model_lines(provider: Provider, found: ListedModels, now: float) -> Iterator[str]:
    """The list for people; `now` is Unix seconds."""
    if found.asked_at is None:
        yield f"! {provider.title} was not asked ({clean_line(found.problem or '')}): these are known of it"
    else:
        age_s = max(now - found.asked_at, 0)
        again = "; it is asked anew now" if age_s >= FRESH_S else ""
        yield f"{provider.title}, {len(found.models)} models, as it told {_ago(age_s)}{again}"
    rows = [("model", "context", "output", "$/M in", "$/M out")]
    for model in found.models:
        counts = (_count(model.context_tokens), _count(model.output_tokens))
        rows.append((model.id, *counts, _price(model.input_dollars), _price(model.output_dollars)))
    yield from aligned(rows)


def _ago(age_s: float) -> str:
    if age_s < 60:
        return "just now"
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if age_s >= seconds:
            return f"{int(age_s // seconds)} {unit} ago"
    return "just now"


def _count(tokens: int | None) -> str:
    return UNKNOWN if tokens is None else f"{tokens:,}"


def _price(dollars: float | None) -> str:
    return UNKNOWN if dollars is None else f"{dollars:g}"


# Checking one


def check_provider(
    name: str, folder: Path, base_url: str | None, model: str | None, *, yes: bool, as_json: bool
) -> int:
    """Ask one token, after saying what it costs. Raises SwarmError where it cannot be asked or does not answer."""
    provider = provider_named(name)
    key = key_for(provider, None, None, os.environ, base_url)
    if key is None and provider.needs_key and not is_foreign(provider, base_url):
        raise SetupError(missing_key(provider, base_url))
    return asyncio.run(check(provider, key, folder, base_url, model, yes=yes, as_json=as_json))


async def check(
    provider: Provider,
    key: str | None,
    folder: Path,
    base_url: str | None,
    model: str | None,
    *,
    yes: bool,
    as_json: bool,
) -> int:
    """Ask `provider` for one token, after saying what it costs; the exit code. Raises as `check_provider` does."""
    found: tuple[ListedModel, ...] = ()
    async with ProviderCatalogue(folder) as catalogue:
        try:
            found = (await listed(catalogue, provider, key, base_url)).models
        except SwarmError as error:  # a provider without a list may answer all the same
            if isinstance(error, Unauthorized) and model is None:
                raise
    if model is None:
        if (cheapest := least_costly(found)) is None:
            raise SetupError(f"which model of {provider.title} is to be asked? Name one: --model NAME")
        model = cheapest.id
    known = next((each for each in found if each.id == model), None)
    cost = cost_words(None if known is None else known.one_token_dollars)
    protocol, host = protocol_for(provider, model, base_url), _host_of(provider, base_url)
    question = f"{model} of {provider.title} ({host}, {protocol}) is asked for one token: {cost}"
    if as_json and not yes:
        raise SetupError("with --json nobody is asked: add --yes")
    if not as_json:
        complain(f"{clean_line(question)}")
    if not confirmed("Ask it?", yes):
        return 1
    request = one_token_request(provider, model, key, base_url)
    client = client_of(provider, key, request.url)
    begun = time.perf_counter()
    try:
        await client.ask(request)
    except UpstreamRefused as error:
        raise said_of(refusal_of(error, provider, key, base_url), error.refusal.status, model, found) from error
    finally:
        await client.aclose()
    ms = round((time.perf_counter() - begun) * 1000)
    if as_json:
        dollars = None if known is None else known.one_token_dollars
        told = {"provider": provider.name, "model": model, "protocol": protocol, "ms": ms, "dollars": dollars}
        say(json.dumps(told, indent=2))
    else:
        say(f"it works: {clean_line(model)} answered in {ms} ms")
    return 0


def least_costly(models: Sequence[ListedModel]) -> ListedModel | None:
    """The model that costs the least of those that answer questions; the first where no price is known."""
    fit = [model for model in models if not any(word in model.id.lower() for word in NO_TEXT)]
    priced = [model for model in fit if model.one_token_dollars is not None]
    return min(priced, key=lambda model: model.one_token_dollars or 0.0, default=fit[0] if fit else None)


def cost_words(dollars: float | None) -> str:
    """What a question costs, for people."""
    if dollars is None:
        return "what that costs is not known; a token or two"
    return "that costs nothing" if dollars == 0 else f"that costs about ${dollars:.7f}".rstrip("0")


def said_of(error: SwarmError, status: int, model: str, known: Sequence[ListedModel]) -> SwarmError:
    """A refusal, with the nearest names where there is no such model."""
    if status not in (400, 404) or any(each.id == model for each in known):
        return error
    near = get_close_matches(model, [each.id for each in known], n=MOST_NEAR, cutoff=0.5)
    if not near:
        return error
    return SwarmError(f"{error}; it has no model {model!r}: did you mean {' or '.join(near)}?")


def _host_of(provider: Provider, base_url: str | None) -> str:
    return (base_url or provider.base_url).partition("://")[2].partition("/")[0]
