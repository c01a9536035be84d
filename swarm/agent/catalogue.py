"""Which models a provider has, and how much each takes: its own list, enriched from a snapshot, kept on the disk.

A list is the provider's own; what it does not tell (contexts, prices) is filled in from `genai-prices`, where that is
installed. Lists are kept in a folder, one file a provider, and served from there while they are asked for anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from federation.small_files import TextFileError, read_text_file, write_atomically
from federation.tasks import cancel_and_wait
from swarm.engines.openai_dialect import as_object
from swarm.engines.upstream.address import parse_upstream, proxy_to
from swarm.engines.upstream.upstream_http import MAX_LIST_BYTES, MAX_MODELS, UpstreamHttp, model_entries
from swarm.errors import SetupError, SwarmError, UpstreamFailed
from swarm.providers import (
    ONE_TOKEN_PROMPT_TOKENS,
    Provider,
    ProviderRequest,
    is_foreign,
    listing_request,
)

FRESH_S: Final = 86_400.0  # a list that is younger is not asked for anew
MOST_TOKENS: Final = 2**31
FORMAT: Final = 1

log = logging.getLogger(__name__)

CONTEXT_FIELDS: Final = (
    "context_length", "context_window", "max_model_len", "inputTokenLimit", "max_context_length", "max_input_tokens",
    "context_size", "n_ctx_train",
)  # fmt: skip
"""OpenRouter's and ZenMux', Groq's, vLLM's, Google's, Mistral's, Anthropic's, Novita's, llama.cpp's."""
OUTPUT_FIELDS: Final = ("max_completion_tokens", "outputTokenLimit", "max_output_tokens", "max_tokens")
NESTED: Final = ("top_provider", "meta", "limits")  # where some of them are

SNAPSHOT_IDS: Final[Mapping[str, str]] = {
    "openai-chat": "openai", "vertex": "google", "xai": "x-ai", "ollama": "", "kimi-coding": "", "zenmux": "",
}  # fmt: skip
"""What genai-prices calls a row of the table where it is called otherwise; empty where its prices are not the row's."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """How many tokens a model takes, prompt and answer together, and answers with at most. None where unknown."""

    context_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model. Prices are US dollars for a million tokens, None where they are not known."""

    id: str
    context_tokens: int | None = None
    output_tokens: int | None = None
    input_dollars: float | None = None
    output_dollars: float | None = None

    @property
    def limits(self) -> ModelLimits:
        return ModelLimits(self.context_tokens, self.output_tokens)

    @property
    def one_token_dollars(self) -> float | None:
        """What the least question costs, one token answered; None where it is not known."""
        if self.input_dollars is None or self.output_dollars is None:
            return None
        return (ONE_TOKEN_PROMPT_TOKENS * self.input_dollars + self.output_dollars) / 1_000_000


@dataclass(frozen=True, slots=True)
class ListedModels:
    """A provider's list. `asked_at`: Unix seconds; None where the provider was never asked, and the snapshot is all.

    `base` is where it was asked. `problem` says why it is no newer.
    """

    models: tuple[ListedModel, ...]
    asked_at: float | None
    base: str = ""
    problem: str | None = None

    def called(self, name: str) -> ListedModel | None:
        """The model of that id."""
        return next((model for model in self.models if model.id == name), None)


def read_models(listing: object) -> tuple[ListedModel, ...]:
    """The models of a provider's own list, in its order, each once."""
    found: dict[str, ListedModel] = {}
    for name, said in model_entries(listing):
        if name not in found and len(found) < MAX_MODELS:
            found[name] = _listed(name, said)
    return tuple(found.values())


def _listed(name: str, said: Mapping[str, object]) -> ListedModel:
    parts = [said, *(cast("Mapping[str, object]", said[key]) for key in NESTED if isinstance(said.get(key), dict))]
    priced = as_object(said.get("pricing"))
    return ListedModel(
        name,
        _first_count(parts, CONTEXT_FIELDS),
        _first_count(parts, OUTPUT_FIELDS),
        _dollars(priced.get("prompt")),
        _dollars(priced.get("completion")),
    )


def _first_count(parts: Iterable[Mapping[str, object]], names: Sequence[str]) -> int | None:
    for part in parts:
        for name in names:
            value = part.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_TOKENS:
                return value
    return None


def _dollars(a_token: object) -> float | None:
    """OpenRouter's prices are texts, of one token; a negative one is of a router that chooses."""
    try:
        price = float(cast("str", a_token)) * 1_000_000
    except (TypeError, ValueError):
        return None
    return round(price, 6) if 0 <= price < 1_000_000 else None


def enriched(models: Iterable[ListedModel], known: Callable[[str], ListedModel | None]) -> tuple[ListedModel, ...]:
    """The models with what the list does not tell of them, as far as it is `known`. What it tells stands."""
    made: list[ListedModel] = []
    for model in models:
        if (other := known(model.id)) is not None:
            unsaid = {name: value for name, value in asdict(other).items() if getattr(model, name) is None}
            model = replace(model, **unsaid)
        made.append(model)
    return tuple(made)


class Snapshot:
    """What `genai-prices` knows, as it was installed: nothing is asked. Empty where it is not installed."""

    def __init__(self) -> None:
        self._providers: list[Any] = []
        with suppress(ImportError):
            from genai_prices.data_snapshot import get_snapshot  # heavy, and of the extra

            self._providers = list(get_snapshot().providers)

    def model(self, provider: Provider, name: str) -> ListedModel | None:
        """What is known of a provider's model."""
        known = self._of(provider)
        found = None if known is None else known.find_model(name)
        return None if found is None else _known(name, found)

    def models(self, provider: Provider) -> tuple[ListedModel, ...]:
        """All of a provider's models that are known; of those whose names have a slash it has them so."""
        known = self._of(provider)
        return () if known is None else tuple(_known(found.id, found) for found in known.models if not found.deprecated)

    def _of(self, provider: Provider) -> Any:
        wanted = SNAPSHOT_IDS.get(provider.name, provider.name)
        return next((known for known in self._providers if known.id == wanted), None)


def _known(name: str, found: Any) -> ListedModel:
    prices = found.prices if not isinstance(found.prices, list) else None  # a list: they changed, or will
    return ListedModel(
        name,
        found.context_window,
        None,
        _plain_price(getattr(prices, "input_mtok", None)),
        _plain_price(getattr(prices, "output_mtok", None)),
    )


def _plain_price(price: Any) -> float | None:
    """A price that does not depend on how much is asked; of tiers the first."""
    base = getattr(price, "base", price)
    try:
        return None if base is None else float(base)
    except (TypeError, ValueError):
        return None


async def ask_provider(provider: Provider, key: str | None, base_url: str | None) -> object:
    """A provider's list as it comes. Raises SwarmError where it cannot be had."""
    if (request := listing_request(provider, key, base_url)) is None:
        raise SetupError(f"{provider.title} has no list of models that can be asked for")
    http = client_of(provider, key, request.url, request)
    try:
        return await http.listing()
    finally:
        await http.aclose()


def client_of(provider: Provider, key: str | None, url: str, listing: ProviderRequest | None = None) -> UpstreamHttp:
    """A client of the provider at `url`, through the proxy that the environment names. Raises SetupError."""
    address = parse_upstream(url.partition("?")[0], "the base URL")
    address = replace(address, proxy=proxy_to(address, os.environ))
    return UpstreamHttp(address, key, listing=listing, key_variable=provider.key_variables[0])


AskModels = Callable[[Provider, str | None, str | None], Any]


class ProviderCatalogue:
    """The lists of all providers, kept in `folder`. Used as `async with`: what is being asked is done when it is left.

    `ask` gets a provider's list, `clock` tells Unix seconds.
    """

    def __init__(
        self,
        folder: Path,
        ask: AskModels = ask_provider,
        clock: Callable[[], float] = time.time,
        snapshot: Callable[[], Snapshot] = Snapshot,
    ) -> None:
        self._folder = folder
        self._ask = ask
        self._clock = clock
        self._make_snapshot = snapshot
        self._snapshot: Snapshot | None = None
        self._asking: dict[str, asyncio.Task[ListedModels]] = {}

    async def __aenter__(self) -> ProviderCatalogue:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for task in self._asking.values():
            if kind is not None:
                await cancel_and_wait(task)
            else:
                await asyncio.wait([task])

    async def models(
        self, provider: Provider, key: str | None, base_url: str | None = None, *, anew: bool = False
    ) -> ListedModels:
        """The provider's models. A list that is kept is given at once, and asked for anew behind it once it is old.

        `anew` waits for the new list. Where there is none at all, what the snapshot knows. Raises SwarmError where the
        provider refuses and nothing is known, and with `anew` always then.
        """
        kept = await asyncio.to_thread(self.kept, provider, base_url)
        if kept is not None and not anew:
            if not self._is_fresh(kept):
                self._refresh(provider, key, base_url).add_done_callback(_noted)
            return self._enriched(provider, kept)
        try:
            return self._enriched(provider, await self._refresh(provider, key, base_url))
        except SwarmError as error:
            known = () if is_foreign(provider, base_url) else self.snapshot.models(provider)
            if anew or not known:
                raise
            return ListedModels(known, None, problem=str(error))

    async def learn(self, provider: Provider, key: str | None, base_url: str | None = None) -> None:
        """Ask for the provider's list where none is kept. Never raises for the provider: an answer will tell it."""
        if await asyncio.to_thread(self.kept, provider, base_url) is None:
            with suppress(SwarmError):
                await self._refresh(provider, key, base_url)

    def limits(self, provider: Provider, model: str, base_url: str | None = None) -> ModelLimits:
        """How much a model takes, by the kept list and the snapshot. Asks nobody; blocks for a small file."""
        kept = self.kept(provider, base_url)
        listed = None if kept is None else kept.called(model)
        known = None if is_foreign(provider, base_url) else self.snapshot.model(provider, model)
        if listed is None:
            return ModelLimits() if known is None else known.limits
        return enriched((listed,), lambda _: known)[0].limits

    def names(self, provider: Provider, base_url: str | None = None) -> tuple[str, ...]:
        """The models that are known of it, by the kept list, else by the snapshot. Asks nobody; blocks likewise."""
        if (kept := self.kept(provider, base_url)) is not None:
            return tuple(model.id for model in kept.models)
        return () if is_foreign(provider, base_url) else tuple(model.id for model in self.snapshot.models(provider))

    @property
    def snapshot(self) -> Snapshot:
        """Loaded when it is first needed."""
        if self._snapshot is None:
            self._snapshot = self._make_snapshot()
        return self._snapshot

    def kept(self, provider: Provider, base_url: str | None = None) -> ListedModels | None:
        """The list that is kept of that address, as it came; None where there is none, or it cannot be read."""
        try:
            text = read_text_file(self._file(provider, base_url), "", MAX_LIST_BYTES)
            stored = json.loads(text)
            if stored["format"] != FORMAT or stored["base"] != _base(provider, base_url):
                return None
            models = tuple(ListedModel(**model) for model in stored["models"])
            return ListedModels(models, float(stored["asked_at"]), stored["base"])
        except (TextFileError, ValueError, LookupError, TypeError, RecursionError):
            return None  # it is asked for anew

    def _enriched(self, provider: Provider, listed: ListedModels) -> ListedModels:
        return replace(listed, models=enriched(listed.models, lambda name: self.snapshot.model(provider, name)))

    def _is_fresh(self, listed: ListedModels) -> bool:
        return listed.asked_at is not None and 0 <= self._clock() - listed.asked_at < FRESH_S

    def _refresh(self, provider: Provider, key: str | None, base_url: str | None) -> asyncio.Task[ListedModels]:
        place = str(self._file(provider, base_url))
        task = self._asking.get(place)
        if task is None or task.done():
            task = asyncio.create_task(self._asked(provider, key, base_url), name=f"models of {provider.name}")
            self._asking[place] = task
        return task

    async def _asked(self, provider: Provider, key: str | None, base_url: str | None) -> ListedModels:
        models = read_models(await self._ask(provider, key, base_url))
        if not models:
            raise UpstreamFailed(provider.title, "it lists no models: is the base URL its API's?")
        listed = ListedModels(models, self._clock(), _base(provider, base_url))
        content = {
            "format": FORMAT,
            "base": listed.base,
            "asked_at": listed.asked_at,
            "models": list(map(asdict, models)),
        }
        try:
            file = self._file(provider, base_url)
            await asyncio.to_thread(write_atomically, file, json.dumps(content).encode())
        except OSError as error:
            log.warning("the list of models of %s is not kept: %s", provider.name, error.strerror)
        return listed

    def _file(self, provider: Provider, base_url: str | None) -> Path:
        name = provider.name if base_url is None else f"{provider.name}-{base_url.partition('://')[2]}"
        return self._folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:120]}.json"


def _base(provider: Provider, base_url: str | None) -> str:
    return (base_url or provider.base_url).rstrip("/")


def _noted(task: asyncio.Task[ListedModels]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("the list of models is no newer: %s", error)
