"""A node of the swarm as a model for pydantic-ai: each step voted on, and the account of the vote kept.

It speaks the Chat Completions API that every node has. What a node adds to it is read here: the `swarm` object of the
last chunk (docs/swarm-object.md), which pydantic-ai would drop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import httpx2
from openai import AsyncOpenAI
from openai.resources.chat import AsyncChat, AsyncCompletions
from openai.types.chat import ChatCompletionChunk
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, ThinkingPart, repair_messages
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.settings import ModelSettings

from federation.printable_text import clean_line
from swarm.agent.history import as_taken
from swarm.agent.provider_errors import innermost_words
from swarm.agent.step_vote import StepVotes
from swarm.errors import (
    BadRequest,
    ContextExceeded,
    EngineFailed,
    Forbidden,
    LimitReached,
    SwarmError,
    Unauthorized,
    Unavailable,
)
from swarm.providers import ThinkingLevel, provider_at, thinking_fields

if TYPE_CHECKING:
    from pydantic_ai import RunContext

ACCOUNT: Final = "swarm"  # the key in the details of a response
SYSTEM: Final = "local-swarm"  # who is said to have given thoughts and ids
SILENCE_S: Final = 600.0  # between two pieces of an answer; a node's heartbeats come every ten seconds
CONNECT_S: Final = 5.0
BUSY: Final = (429, 503)
WAITS_S: Final = (1, 5, 15)  # at least, before a node that is busy is asked again; it may say more
MOST_WAIT_S: Final = 60  # who says longer is not waited for
MAX_MESSAGE_CHARS: Final = 2000  # of an error that a node answers
AGAIN_S: Final = 5  # where a node does not say when
NO_KEY: Final = "none"  # the SDK wants one; nodes without keys read none


Tell = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


class _Completions(AsyncCompletions):
    """The SDK's, but for the conversation, which is sent as it is: it has the API's own form already.

    The SDK would go through every field of every message by its types, at each step again: with two hundred messages
    that took two thirds of what the agent adds to a step (`benchmarks/agent.py --steps 100`).
    """

    async def create(  # pyright: ignore[reportIncompatibleMethodOverride] - pydantic-ai calls it by these names
        self, *, messages: Iterable[Any], extra_body: Mapping[str, Any] | None = None, **rest: Any
    ) -> Any:
        plain: dict[str, Any] = {**(extra_body or {}), "messages": list(messages)}
        return await cast("Any", super()).create(messages=(), extra_body=plain, **rest)


class _Chat(AsyncChat):
    @property
    def completions(self) -> AsyncCompletions:
        return _Completions(self._client)


class _Client(AsyncOpenAI):
    @property
    def chat(self) -> AsyncChat:
        return _Chat(self)


class SwarmStreamedResponse(OpenAIStreamedResponse):
    """A streamed answer of a node."""

    def _map_chunk_provider_details(self, chunk: ChatCompletionChunk) -> dict[str, Any] | None:
        account = (chunk.model_extra or {}).get(ACCOUNT)
        return {ACCOUNT: account} if isinstance(account, dict) and "ballot" not in account else None


class NodeProvider(OpenAICompatibleProvider):
    """A node's address. Its connections are closed when its models are left, and opened anew when they are used again.

    No proxy of the environment is asked: nodes are near. No redirect is followed: a node makes none.
    """

    def __init__(self, url: str, key: str | None) -> None:
        client = _http_client()
        made = _Client(base_url=f"{url.rstrip('/')}/v1", api_key=key or NO_KEY, max_retries=0, http_client=client)
        super().__init__(SYSTEM, openai_client=made)
        self._own_http_client = client
        self._http_client_factory = _http_client


def _http_client() -> httpx2.AsyncClient:
    timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
    return httpx2.AsyncClient(trust_env=False, timeout=timeout, follow_redirects=False)


class SwarmModel(OpenAIChatModel):
    """A model that a node serves, by its name there; `swarm` is the best that there is.

    A node that says that it is busy is asked again, a few times, when it says; `tell` is told so.
    """

    def __init__(self, name: str, provider: NodeProvider, tell: Tell | None, sleep: Sleep) -> None:
        # A node checks calls against the very schemas that the tools have.
        super().__init__(name, provider=provider, profile=ModelProfile(json_schema_transformer=None))
        self._tell, self._sleep = tell, sleep

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """A streamed answer. What other providers' models have thought is told as text, and ids of calls are fitted."""
        taken = as_taken(repair_messages(messages), SYSTEM, _is_own)
        async with AsyncExitStack() as stack:
            for wait_s in (*WAITS_S, None):
                opening = super().request_stream(taken, model_settings, model_request_parameters, run_context)
                try:
                    stream = await stack.enter_async_context(opening)
                    break
                except ModelHTTPError as error:
                    if wait_s is None or error.status_code not in BUSY or _again_s(error) > MOST_WAIT_S:
                        raise
                    wait_s = max(_again_s(error), wait_s)
                    if self._tell is not None:
                        self._tell(f"the swarm is busy ({_message_of(error)}); asking again in {wait_s} s")
                    await self._sleep(wait_s)
            else:
                raise AssertionError("the last try raises, or opens")
            yield stream

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return SwarmStreamedResponse


def _is_own(response: ModelResponse, part: ThinkingPart) -> bool:
    return (part.provider_name or response.provider_name) == SYSTEM


def make_swarm_model(
    url: str, name: str, key: str | None = None, *, tell: Tell | None = None, sleep: Sleep = asyncio.sleep
) -> SwarmModel:
    """The model `name` at the node whose base URL is `url`; used as `async with`, it closes its connections."""
    return SwarmModel(name, NodeProvider(url, key), tell, sleep)


def swarm_settings(votes: StepVotes, thinking: ThinkingLevel | None = None) -> ModelSettings:
    """The settings of requests to a node. `thinking` None leaves it to the model.

    Models of nodes think or do not; an upstream behind a node, which gets the whole body, may know the level.
    """
    body: dict[str, Any] = {}
    if swarm := votes.body():
        body["swarm"] = swarm
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking != "off"}
        body |= thinking_fields(provider_at("http://node"), "", thinking)
    return cast("ModelSettings", {"extra_body": body} if body else {})


def _body_of(error: ModelHTTPError) -> dict[str, Any]:
    """The node's error object."""
    said: object = error.body
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _message_of(error: ModelHTTPError) -> str:
    said = _body_of(error).get("message")
    return clean_line(str(said or f"the node answered {error.status_code}")[:MAX_MESSAGE_CHARS])


def _again_s(error: ModelHTTPError) -> int:
    again = (error.headers or {}).get("retry-after", "")
    return int(again) if again.isdecimal() and len(again) < 6 else AGAIN_S


def node_error(error: Exception, url: str) -> SwarmError:
    """What went wrong at a node, as an error of the one tree, in the node's own words where it said any."""
    if isinstance(error, SwarmError):
        return error
    if not isinstance(error, ModelHTTPError):
        why = clean_line(innermost_words(error)[:MAX_MESSAGE_CHARS])
        if isinstance(error, ModelAPIError) and "onnect" in str(error.__cause__ or ""):
            return Unavailable(
                f"no node answers at {url} ({why}): start one with `swarm` (`swarm --model demo` needs no download), "
                "or name one with --url"
            )
        return EngineFailed(f"the answer of {url} broke off: {why}")
    body, message, again_s = _body_of(error), _message_of(error), _again_s(error)
    match error.status_code:
        case 400 if isinstance(counted := body.get("n_prompt_tokens"), int) and isinstance(body.get("n_ctx"), int):
            return ContextExceeded(counted, body["n_ctx"])
        case 400 | 404 | 413 | 422:
            return BadRequest(message)
        case 401:
            return Unauthorized(f"{message} (here: --api-key KEY, or SWARM_API_KEY in the environment)", False)
        case 403:
            return Forbidden(message, str(body.get("code") or "refused"))
        case 429:
            return LimitReached(message, str(body.get("code") or "requests"), again_s)
        case 503 | 504:
            return Unavailable(message, again_s)
        case _:
            return EngineFailed(message)
