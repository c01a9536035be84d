"""The model of any provider, over whichever of five protocols it speaks, as pydantic-ai has models.

`make_model` is all that is needed. What it makes sends the key to the provider's own host and nowhere else, and no
header that is not listed here: the SDKs take keys, organisations and headers from the environment, and say much of the
machine. It brings conversations to the form that the provider takes (`history.py`), raises errors of the one tree
(`provider_errors.py`), and waits once where it is told how long.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import httpx2
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelRateLimitError,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.messages import ModelMessage, ModelResponse, ThinkingPart, ToolCallPart, repair_messages
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.profiles import ModelProfile, merge_profile
from pydantic_ai.settings import ModelSettings

from swarm import VERSION
from swarm.agent.agent import ModelChoice
from swarm.agent.history import as_taken
from swarm.agent.provider_errors import AskedProvider, translated, wait_before_again
from swarm.agent.swarm_model import Sleep, Tell
from swarm.engines.upstream.address import parse_upstream, proxy_to
from swarm.errors import SetupError, SwarmError, UpstreamFailed
from swarm.providers import (
    PROVIDERS,
    ApiProtocol,
    Provider,
    ThinkingLevel,
    base_for,
    checked_key,
    is_foreign,
    key_for,
    key_variables_at,
    missing_key,
    protocol_for,
    provider_named,
    thinking_fields,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from pydantic_ai import RunContext

SILENCE_S: Final = 600.0  # between two pieces of an answer: reasoning models are silent for minutes
CONNECT_S: Final = 10.0
NO_KEY: Final = "none"  # the SDKs want one; it is never sent
ANSWER_TOKENS: Final = 16_384  # left for the answer beside a budget of thoughts
LEAST_BUDGET: Final = 1024  # tokens of thought: Anthropic takes no fewer
MAX_ANSWER_BYTES: Final = 64 << 20  # with the events around each token: far above what any model says at once
MAX_HEADERS: Final = 32  # custom ones

SENT_HEADERS: Final = frozenset(
    {
        "accept", "anthropic-beta", "anthropic-version", "connection", "content-length",
        "content-type", "host", "transfer-encoding", "user-agent",
    }
)  # fmt: skip
"""What is sent beside the key and custom headers."""
ENDPOINTS: Final = ("/chat/completions", "/responses", "/v1/messages", "/models")  # pasted along with a base
NOT_CUSTOM: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110's token

_Result = TypeVar("_Result")
_opened: ContextVar[list[httpx2.Response] | None] = ContextVar("opened", default=None)  # by the stream that is read
Http = Callable[[], httpx2.AsyncClient]


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """Where a model is and how it is asked: everything that `make_model` decides before it loads an SDK."""

    provider: Provider
    model: str
    protocol: ApiProtocol
    base: str
    system: str  # who is said to have given thoughts and ids: they go back to this alone
    key: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def host(self) -> str:
        """Host and port, for people."""
        return urlsplit(self.base).netloc


def make_model(
    provider: Provider,
    model: str,
    key: str | None = None,
    *,
    base_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    thinking: ThinkingLevel | None = None,
    max_output_tokens: int | None = None,
    sees_images: bool | None = None,
    known: Callable[[], Collection[str]] = tuple,
    tell: Tell | None = None,
    sleep: Sleep = asyncio.sleep,
) -> ProviderModel:
    """`model` at `provider`, ready to be given to an agent; used as `async with`, it closes its connections.

    `key` is the one that `key_for` found. `base_url` is another address of the provider, `headers` go along with every
    request. `thinking` None leaves it to the model. `max_output_tokens` is the model's limit where it is known (of its
    answer and thoughts), `sees_images` whether it can (None: what the provider's row says). `known` is asked for names
    of its models when there is none of this one. `tell` is told, in a sentence, when a request is to be repeated.

    Nothing is asked over the network here. Blocks: the first time, the library of the protocol is loaded, which takes a
    second or two: do it before an event loop runs, or in a thread. Raises SetupError for a missing key and for headers
    that cannot be sent.
    """
    place = place_of(provider, model, key, base_url=base_url, headers=headers)
    asked = AskedProvider(
        provider.name if provider.name in PROVIDERS else place.base,
        provider.title,
        place.host,
        model,
        key_variables_at(provider, base_url),
        place.key,
        tuple(place.headers.values()),
    )
    sees = "images" not in provider.lacks if sees_images is None else sees_images
    settings = settings_for(place, thinking, max_output_tokens)
    profile = ModelProfile(supports_image_input=sees)
    http = http_for(place, os.environ)
    match place.protocol:
        case "chat":
            made = _chat(place, http, settings, profile)
        case "responses":
            made = _responses(place, http, settings, profile)
        case "anthropic":
            made = _anthropic(place, http, settings, profile)
        case "google" | "vertex":
            made = _google(place, http, settings, profile)
    return ProviderModel(made, place, asked, sees, known, tell, sleep)


def provider_choice(
    provider: Provider | str,
    model: str,
    *,
    key: str | None = None,
    configured_key: str | None = None,
    environment: Mapping[str, str] = os.environ,
    base_url: str | None = None,
    **options: Any,
) -> ModelChoice:
    """A provider's model for an `Agent`: `Agent(provider_choice("groq", "llama-3.3-70b-versatile"))`.

    `provider` is a row's name or any base URL. The key is `key`, else `configured_key`, else that of the environment;
    further `options` are those of `make_model`. Raises SetupError.
    """
    row = provider_named(provider) if isinstance(provider, str) else provider
    found = key_for(row, key, configured_key, environment, base_url)
    made = make_model(row, model, found, base_url=base_url, **options)
    return ModelChoice(made, f"{row.name}/{model}", urlsplit(made.place.base).hostname)


def place_of(
    provider: Provider,
    model: str,
    key: str | None,
    *,
    base_url: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> ModelAddress:
    """Where `model` is asked, and as whom. Raises SetupError."""
    if not model.strip() or not model.isprintable() or len(model) > 256:
        raise SetupError(f"{model[:80]!r} is no name of a model: `swarm providers models {provider.name}` lists them")
    protocol = protocol_for(provider, model, base_url)
    if key is None and provider.needs_key and not _has_key(headers):
        raise SetupError(missing_key(provider, base_url))
    system = provider.name if protocol == provider.protocol and not provider.adaptive else f"{provider.name}-{protocol}"
    base = base_for(provider, base_url, protocol=protocol)
    if base_url is not None or provider.name not in PROVIDERS:
        base = base_as_given(base, protocol)
    usable = None if key is None else checked_key(key, "the key")
    return ModelAddress(provider, model, protocol, base, system, usable, checked_headers(headers or {}))


def base_as_given(base: str, protocol: ApiProtocol) -> str:
    """A base URL that somebody typed, as the SDKs want it: without an endpoint, with a version or without."""
    for endpoint in ENDPOINTS:
        base = base.removesuffix(endpoint)
    match protocol:
        case "anthropic":
            return base.removesuffix("/v1")
        case "google" | "vertex":
            return base if "/projects/" in base else base.removesuffix("/v1beta").removesuffix("/v1")
        case "chat" | "responses":
            return base if urlsplit(base).path.strip("/") else f"{base.rstrip('/')}/v1"


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Custom headers by their names in lower case. Raises SetupError; no message quotes a value, which may be a key."""
    if len(headers) > MAX_HEADERS:
        raise SetupError(f"{len(headers)} custom headers are too many: at most {MAX_HEADERS}")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in NOT_CUSTOM:
            raise SetupError(f"{name[:80]!r} cannot be a custom header: leave it out")
        if not (value.isascii() and value.isprintable()):
            raise SetupError(f"the value of the header {name} must be plain ASCII in one line")
    return {name.lower(): value for name, value in headers.items()}


def _has_key(headers: Mapping[str, str] | None) -> bool:
    return any(name.lower() in ("authorization", "x-api-key", "x-goog-api-key") for name in headers or ())


def key_headers(place: ModelAddress) -> dict[str, str]:
    """The headers that carry the key where this protocol has it. Access tokens of Google's accounts are no API keys."""
    if place.key is None:
        return {}
    match place.protocol:
        case "anthropic":
            return {"x-api-key": place.key}
        case "google" | "vertex" if not place.key.startswith("ya29."):
            return {"x-goog-api-key": place.key}
        case _:
            return {"authorization": f"Bearer {place.key}"}


def settings_for(place: ModelAddress, thinking: ThinkingLevel | None, max_output_tokens: int | None) -> ModelSettings:
    """The settings of every request: how it is to think, in this protocol's own fields, and no retries by an SDK."""
    settings: dict[str, Any] = {"max_retries": 0}
    if place.protocol == "responses":
        settings["openai_store"] = False  # OpenAI keeps responses for a month otherwise
    if max_output_tokens is not None and place.protocol == "anthropic":
        settings["max_tokens"] = max_output_tokens  # there alone it must be said
    if thinking is None:
        return cast("ModelSettings", settings)
    base = None if place.base in place.provider.bases.values() else place.base
    fields = cast("dict[str, Any]", thinking_fields(place.provider, place.model, thinking, base))
    match place.protocol:
        case "chat":
            if fields:
                settings["extra_body"] = fields
        case "responses":
            settings["openai_reasoning_effort"] = fields["reasoning"]["effort"]
            if (summary := fields["reasoning"].get("summary")) is not None:
                settings["openai_reasoning_summary"] = summary
        case "anthropic":
            settings |= _anthropic_settings(fields, max_output_tokens)
        case "google" | "vertex":
            settings["google_thinking_config"] = fields["thinkingConfig"]  # goes out as it is
    return cast("ModelSettings", settings)


def _anthropic_settings(fields: Mapping[str, Any], max_output_tokens: int | None) -> dict[str, Any]:
    """A budget leaves room for the answer below the limit of both."""
    thinking: dict[str, Any] = dict(fields["thinking"])
    settings: dict[str, Any] = {"anthropic_thinking": thinking}
    if (effort := fields.get("output_config", {}).get("effort")) is not None:
        settings["anthropic_effort"] = effort
    if (budget := thinking.get("budget_tokens")) is None:
        return settings
    if max_output_tokens is None:
        return {**settings, "max_tokens": budget + ANSWER_TOKENS}
    most = max(LEAST_BUDGET, max_output_tokens - min(ANSWER_TOKENS, max_output_tokens // 2))
    thinking["budget_tokens"] = min(budget, most)
    return {**settings, "max_tokens": max_output_tokens}


def http_for(place: ModelAddress, environment: Mapping[str, str]) -> Http:
    """What makes HTTP clients that send to this place alone, and only what is listed in this file.

    No redirect is followed. Proxies of the environment are asked for the internet, and certificates that it names are
    trusted in place of the system's, as everywhere here.
    """
    proxy = proxy_to(parse_upstream(place.base, "the base URL"), environment)
    ours = {"user-agent": f"local-swarm/{VERSION}", **key_headers(place), **place.headers}
    origin = httpx2.URL(place.base)

    async def only_ours(request: httpx2.Request) -> None:
        url = request.url
        if (url.scheme, url.host, url.port) != (origin.scheme, origin.host, origin.port):
            raise SetupError(f"a request was on its way to {url.host}, and this model is at {place.host}")
        kept = {name: value for name, value in request.headers.items() if name.lower() in SENT_HEADERS}
        request.headers = httpx2.Headers({**kept, "accept-encoding": "identity", **ours})

    async def bounded(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":  # it could unpack to any size
            raise UpstreamFailed(place.host, "it answers in a coding that was not asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = BoundedStream(response.stream, place.host)
        if (opened := _opened.get()) is not None:
            opened.append(response)

    cafile, capath = (environment.get(name) or None for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    trusted = ssl.create_default_context(cafile=cafile, capath=capath) if cafile or capath else True

    def made() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            verify=trusted,
            proxy=proxy,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(SILENCE_S, connect=CONNECT_S),
            event_hooks={"request": [only_ours], "response": [bounded]},
        )

    return made


class BoundedStream(httpx2.AsyncByteStream):
    """The body of an answer as it comes, up to `MAX_ANSWER_BYTES`."""

    def __init__(self, inner: httpx2.AsyncByteStream, host: str) -> None:
        self._inner, self._host = inner, host

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        async for piece in self._inner:
            total += len(piece)
            if total > MAX_ANSWER_BYTES:
                raise UpstreamFailed(self._host, f"its answer is larger than {MAX_ANSWER_BYTES >> 20} MiB")
            yield piece

    async def aclose(self) -> None:
        """Close the connection, if there is more to come."""
        await self._inner.aclose()


def _openai_client(place: ModelAddress, http: httpx2.AsyncClient) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=place.base, api_key=place.key or NO_KEY, max_retries=0, http_client=http)


def _chat(place: ModelAddress, http: Http, settings: ModelSettings, profile: ModelProfile) -> Model[Any]:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.models.openrouter import OpenRouterModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    client = http()

    class ChatProvider(OpenAICompatibleProvider):
        """Closes its connections, and opens others when it is used again."""

        def __init__(self) -> None:
            super().__init__(place.system, openai_client=_openai_client(place, client), profile=_chat_profile(place))
            self._own_http_client = client
            self._http_client_factory = http

    overrides = profile
    if not _is_openai(place):
        compatible = OpenAIModelProfile(
            openai_chat_supports_max_completion_tokens=False, openai_supports_strict_tool_definition=False
        )
        overrides = merge_profile(compatible, profile)
    # It keeps what OpenRouter's models sign of their thoughts.
    at_openrouter = place.provider.name == "openrouter" and not is_foreign(place.provider, place.base)
    chosen = OpenRouterModel if at_openrouter else OpenAIChatModel
    return chosen(place.model, provider=ChatProvider(), profile=overrides, settings=settings)


def _is_openai(place: ModelAddress) -> bool:
    return place.provider.name in ("openai", "openai-chat") and not is_foreign(place.provider, place.base)


def _chat_profile(place: ModelAddress) -> Callable[[str], ModelProfile | None] | None:
    """What pydantic-ai knows of a vendor's models; None for what it knows of any compatible server's."""
    if is_foreign(place.provider, place.base):
        return None
    match place.provider.name:
        case "openai-chat" | "openai":
            from pydantic_ai.providers.openai import OpenAIProvider

            return OpenAIProvider.model_profile
        case "openrouter":
            from pydantic_ai.providers.openrouter import OpenRouterProvider

            return OpenRouterProvider.model_profile
        case "deepseek":
            from pydantic_ai.providers.deepseek import DeepSeekProvider

            return DeepSeekProvider.model_profile
        case "zai":
            from pydantic_ai.providers.zai import ZaiProvider

            return ZaiProvider.model_profile
        case "ollama":
            from pydantic_ai.providers.ollama import OllamaProvider

            return OllamaProvider.model_profile
        case "xai":
            from pydantic_ai.profiles.grok import grok_model_profile

            return grok_model_profile
        case "groq":
            from pydantic_ai.profiles.groq import groq_model_profile

            return groq_model_profile
        case _:
            return None


def _responses(place: ModelAddress, http: Http, settings: ModelSettings, profile: ModelProfile) -> Model[Any]:
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = http()

    class ResponsesProvider(OpenAIProvider):
        """OpenAI's own, or another under its own name: what one sealed, the other cannot open."""

        def __init__(self) -> None:
            super().__init__(openai_client=_openai_client(place, client))
            self._own_http_client = client
            self._http_client_factory = http

        @property
        def name(self) -> str:
            return place.system

        @property
        def canonical_system(self) -> str:
            return place.system

    return OpenAIResponsesModel(place.model, provider=ResponsesProvider(), profile=profile, settings=settings)


def _anthropic(place: ModelAddress, http: Http, settings: ModelSettings, profile: ModelProfile) -> Model[Any]:
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = http()

    class MessagesProvider(AnthropicProvider):
        """Anthropic's own, or another under its own name: signatures of one mean nothing to the other."""

        def __init__(self) -> None:
            made = AsyncAnthropic(base_url=place.base, api_key=place.key or NO_KEY, max_retries=0, http_client=client)
            super().__init__(anthropic_client=made)
            self._own_http_client = client
            self._http_client_factory = http

        @property
        def name(self) -> str:
            return place.system

        @property
        def canonical_system(self) -> str:
            return place.system

    return AnthropicModel(place.model, provider=MessagesProvider(), profile=profile, settings=settings)


def _google(place: ModelAddress, http: Http, settings: ModelSettings, profile: ModelProfile) -> Model[Any]:
    from google.genai.client import Client
    from google.genai.types import HttpOptions, ResourceScope
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    client = http()
    vertex = place.protocol == "vertex"
    own = (urlsplit(place.base).hostname or "").endswith("googleapis.com")
    whole = "/projects/" in place.base  # a project's own address: only what is published stands behind it
    options = HttpOptions(
        base_url=place.base,
        base_url_resource_scope=ResourceScope.COLLECTION if whole else None,
        api_version=None if whole else "v1beta" if not vertex else "v1beta1" if own else "v1",
        httpx_async_client=client,
        timeout=int(SILENCE_S * 1000),
    )

    class GenAiProvider(GoogleProvider):
        """Google's own at either of its addresses, or another under its own name."""

        def __init__(self) -> None:
            super().__init__(client=Client(vertexai=vertex, api_key=place.key or NO_KEY, http_options=options))
            self._own_http_client = client
            self._http_client_factory = http

        @property
        def name(self) -> str:
            return place.system

        @property
        def canonical_system(self) -> str:
            return place.system

    return GoogleModel(place.model, provider=GenAiProvider(), profile=profile, settings=settings)


class ProviderModel(WrapperModel):
    """A provider's model with this product's manners: its histories, its errors, its patience."""

    def __init__(
        self,
        made: Model[Any],
        place: ModelAddress,
        asked: AskedProvider,
        sees_images: bool,
        known: Callable[[], Collection[str]],
        tell: Tell | None,
        sleep: Sleep,
    ) -> None:
        super().__init__(made)
        self.place = place
        self._asked = asked
        self._sees_images = sees_images
        self._known = known
        self._tell = tell
        self._sleep = sleep

    def prepare_messages(
        self, messages: list[ModelMessage], model_request_parameters: ModelRequestParameters | None = None
    ) -> list[ModelMessage]:
        """The conversation as it is: it is brought to this model's form when it is asked, by whomever."""
        return list(messages)

    def _taken(self, messages: list[ModelMessage], parameters: ModelRequestParameters) -> list[ModelMessage]:
        """The conversation as this model takes it: whole, then in our form of it, then in pydantic-ai's."""
        blind = None if self._sees_images else self.place.model
        taken = as_taken(repair_messages(messages), self.place.system, self._keeps, blind)
        return self.wrapped.prepare_messages(taken, parameters)

    def _settings_now(self, taken: list[ModelMessage], settings: ModelSettings | None) -> ModelSettings | None:
        """The settings of this request: without thinking, where others made the calls whose results it brings.

        With a budget of thoughts, Anthropic has the last turn begin with a thought of its own, if results of its calls
        follow.
        """
        own, asked = (cast("dict[str, Any]", part or {}) for part in (self.wrapped.settings, settings))
        thinking = asked.get("anthropic_thinking", own.get("anthropic_thinking"))
        if thinking is None or thinking["type"] != "enabled":
            return settings
        last = next((message for message in reversed(taken) if isinstance(message, ModelResponse)), None)
        if last is None or not any(isinstance(part, ToolCallPart) for part in last.parts):
            return settings
        if isinstance(last.parts[0], ThinkingPart):  # those that it could not read are texts by now
            return settings
        return cast("ModelSettings", {**asked, "anthropic_thinking": {"type": "disabled"}})

    def _keeps(self, response: ModelResponse, part: ThinkingPart) -> bool:
        """Whether it can read a thought as one: its provider sent it, over this protocol, signed if it signs."""
        if (part.provider_name or response.provider_name) != self.place.system:
            return False
        if vendor_of(response.model_name or "") not in ("", vendor_of(self.place.model)):
            return False
        match self.place.protocol:
            case "chat" | "google" | "vertex":
                return True
            case "responses" | "anthropic":
                return bool(part.signature)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """A whole answer. Raises errors of the one tree."""

        taken = self._taken(messages, model_request_parameters)
        model_settings = self._settings_now(taken, model_settings)

        async def ask() -> ModelResponse:
            return await self.wrapped.request(taken, model_settings, model_request_parameters)

        return self._something(await self._patiently(ask))

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """A streamed answer. Raises errors of the one tree, from the stream as well."""
        taken = self._taken(messages, model_request_parameters)
        model_settings = self._settings_now(taken, model_settings)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_closing_what_opens())

            async def ask() -> StreamedResponse:
                opening = self.wrapped.request_stream(taken, model_settings, model_request_parameters, run_context)
                return await stack.enter_async_context(opening)

            stream = await self._patiently(ask)
            try:
                yield stream
                self._something(stream.get())
            except (ModelAPIError, UnexpectedModelBehavior) as error:  # what has been shown cannot be begun anew
                raise self._translated(error) from error

    async def _patiently(self, ask: Callable[[], Awaitable[_Result]]) -> _Result:
        """The answer, asked for twice where that is worth it. What an SDK trips over is a broken protocol."""
        try:
            return await ask()
        except (SwarmError, UserError):
            raise
        except Exception as error:
            if not await self._waited_for(error):
                raise self._translated(error) from error
        try:
            return await ask()
        except (SwarmError, UserError):
            raise
        except Exception as error:
            raise self._translated(error) from error

    def _something(self, response: ModelResponse) -> ModelResponse:
        """The response, if it is one: Google's SDK takes any object for one without content."""
        if not response.parts and response.finish_reason is None:
            raise UpstreamFailed(self.place.host, "what it sent cannot be read: it has no answer in it")
        return response

    def _translated(self, error: Exception) -> SwarmError:
        return translated(error, self._asked, self._known)

    async def _waited_for(self, error: Exception) -> bool:
        """Whether the request is worth repeating; then it is time for it."""
        if (wait_s := wait_before_again(error)) is None:
            return False
        if self._tell is not None:
            title = self.place.provider.title
            why = "takes no more requests now" if isinstance(error, ModelRateLimitError) else "could not answer"
            self._tell(f"{title} {why}; it is asked once more in {wait_s} s")
        await self._sleep(wait_s)
        return True


@asynccontextmanager
async def _closing_what_opens() -> AsyncGenerator[None]:
    """Close the answers that were opened inside, when it is left.

    Google's SDK gives a generator that nobody closes: one that is left between two pieces goes on at the provider, who
    is paid by the token, until Python's garbage is looked at.
    """
    opened: list[httpx2.Response] = []
    _opened.set(opened)
    try:
        yield
    finally:
        for response in opened:
            await response.aclose()


def vendor_of(model: str) -> str:
    """Who made a model, as routers write it in front of a slash; empty where nobody is named."""
    front, slash, _ = model.partition("/")
    return front.lower() if slash else ""
