"""A node of the swarm as a model for pydantic-ai: each step voted on, and the account of the vote kept.

It speaks the Chat Completions API that every node has. What a node adds to it is read here: the `swarm` object of the
last chunk (docs/swarm-object.md), which pydantic-ai would drop.
"""

from __future__ import annotations

from typing import Any, Final, cast

import httpx2
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.settings import ModelSettings

from swarm.agent.step_vote import StepVotes

ACCOUNT: Final = "swarm"  # the key in the details of a response
SILENCE_S: Final = 600.0  # between two pieces of an answer; a node's heartbeats come every ten seconds
CONNECT_S: Final = 5.0
RETRIES: Final = 2  # of the SDK, where a node says that it is busy and when to come back
NO_KEY: Final = "none"  # the SDK wants one; nodes without keys read none


class SwarmStreamedResponse(OpenAIStreamedResponse):
    """A streamed answer of a node."""

    def _map_chunk_provider_details(self, chunk: ChatCompletionChunk) -> dict[str, Any] | None:
        account = (chunk.model_extra or {}).get(ACCOUNT)
        return {ACCOUNT: account} if isinstance(account, dict) and "ballot" not in account else None


class SwarmModel(OpenAIChatModel):
    """A model that a node serves, by its name there; `swarm` is the best that there is."""

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return SwarmStreamedResponse


def make_swarm_model(url: str, name: str, key: str | None = None) -> SwarmModel:
    """The model `name` at the node whose base URL is `url`. No proxy of the environment is asked: nodes are near."""
    client = AsyncOpenAI(
        base_url=f"{url.rstrip('/')}/v1",
        api_key=key or NO_KEY,
        max_retries=RETRIES,
        http_client=httpx2.AsyncClient(
            trust_env=False, timeout=httpx2.Timeout(SILENCE_S, connect=CONNECT_S), follow_redirects=False
        ),
    )
    # A node checks calls against the very schemas that the tools have.
    profile = ModelProfile(json_schema_transformer=None)
    return SwarmModel(name, provider=OpenAICompatibleProvider("local-swarm", openai_client=client), profile=profile)


def swarm_settings(votes: StepVotes, thinking: bool | None = None) -> ModelSettings:
    """The settings of requests to a node. `thinking` None leaves it to the model."""
    body: dict[str, Any] = {}
    if swarm := votes.body():
        body["swarm"] = swarm
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    return cast("ModelSettings", {"extra_body": body} if body else {})
