"""Agents of pydantic-ai at a node, by each of its models that can be told an address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.ollama import OllamaModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles.anthropic import AnthropicModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider

from swarm.commands.client_settings import client_entries
from tests.doubles.clients import anthropic_client, openai_client
from tests.doubles.played_node import (
    BUSY_TASK,
    CONTEXT_TOKENS,
    ENDLESS_TASK,
    KEY,
    MODEL,
    OBJECT_TASK,
    TEXT,
    TEXT_TASK,
    TOOL_ANSWER,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)

BY_SCHEMA = AnthropicModelProfile(supports_json_schema_output=True)  # without it only of Claude's newer models
KINDS = {"chat": "pydantic-ai", "responses": "pydantic-ai", "messages": "pydantic-ai", "ollama": "pydantic-ai-ollama"}


class City(BaseModel):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node() as node:
        yield node


class Models:
    """A model of `kind` by its name, as users make it but for the connections, which end with the test."""

    def __init__(self, kind: str, gpt: Any, claude: Any) -> None:
        self._kind = kind
        self._gpt = gpt
        self._claude = claude

    def __call__(self, name: str = MODEL) -> Any:
        if self._kind == "chat":
            return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=self._gpt))
        if self._kind == "responses":
            return OpenAIResponsesModel(name, provider=OpenAIProvider(openai_client=self._gpt))
        if self._kind == "ollama":
            return OllamaModel(name, provider=OllamaProvider(openai_client=self._gpt))
        return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=self._claude), profile=BY_SCHEMA)


@pytest_asyncio.fixture
async def model(played: PlayedNode, request: pytest.FixtureRequest) -> AsyncIterator[Models]:
    async with openai_client(played.url) as gpt, anthropic_client(played.url) as claude:
        gpt.api_key = claude.api_key = KEY
        yield Models(request.param, gpt, claude)


def every_model(*cells: str) -> Any:
    cases = [pytest.param(kind, id=kind, marks=pytest.mark.client(client, *cells)) for kind, client in KINDS.items()]
    return pytest.mark.parametrize("model", cases, indirect=True)


def with_weather(model: Any) -> tuple[Agent[None, str], list[str]]:
    """An agent with a tool, and the cities that it was called with."""
    agent, cities = Agent(model), list[str]()

    @agent.tool_plain
    def get_weather(city: str) -> str:
        cities.append(city)
        return f"sunny in {city}"

    return agent, cities


@pytest.mark.parametrize(
    ("client", "line", "base"),
    [("pydantic-ai", 0, "/v1/"), ("pydantic-ai", 1, "/v1/"), ("pydantic-ai", 2, ""), ("pydantic-ai-ollama", 0, "/v1/")],
)
async def test_what_users_are_told_to_write_is_a_model_of_the_node(client: str, line: int, base: str) -> None:
    (entry,) = (entry for entry in client_entries() if entry.id == client)
    model = eval(entry.lines("http://node:17615", KEY, MODEL, CONTEXT_TOKENS)[line], globals())
    assert (model.model_name, model.base_url.removesuffix("/")) == (MODEL, f"http://node:17615{base}".removesuffix("/"))
    assert model.client.api_key == KEY


@every_model("text")
async def test_a_question_is_answered(model: Models) -> None:
    result = await Agent(model()).run(TEXT_TASK)
    assert result.output == TEXT
    assert result.usage.output_tokens > 3
    again = await Agent(model()).run("Thank you.", message_history=result.all_messages())
    assert again.output == "Hello."


@every_model("stream")
async def test_an_answer_streams(model: Models) -> None:
    async with Agent(model()).run_stream(TEXT_TASK) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 3
    assert "".join(pieces) == TEXT
    assert result.usage.output_tokens > 3


@every_model("tools")
async def test_a_tool_is_called_and_its_result_told(model: Models) -> None:
    agent, cities = with_weather(model())
    result = await agent.run(TOOL_TASK)
    assert cities == ["Paris"]
    assert result.output == f"{TOOL_ANSWER}sunny in Paris"


@every_model("tools")
async def test_a_tool_is_called_while_it_streams(model: Models) -> None:
    agent, cities = with_weather(model())
    async with agent.run_stream(TOOL_TASK) as result:
        assert await result.get_output() == f"{TOOL_ANSWER}sunny in Paris"
    assert cities == ["Paris"]


@every_model("structured")
@pytest.mark.parametrize("way", [NativeOutput, ToolOutput], ids=["schema", "tool"])
async def test_an_output_type_is_made(model: Models, played: PlayedNode, way: Any) -> None:
    result = await Agent(model(), output_type=way(City)).run(OBJECT_TASK)
    assert result.output == City(city="Paris", degrees=21)
    asked = played.asked[-1]
    assert (asked.response_format is not None, bool(asked.tools)) == (way is NativeOutput, way is ToolOutput)


@every_model("structured")
async def test_an_output_type_streams(model: Models) -> None:
    async with Agent(model(), output_type=NativeOutput(City)).run_stream(OBJECT_TASK) as result:
        made = [each async for each in result.stream_output(debounce_by=None)]
    assert made[-1] == City(city="Paris", degrees=21)


@every_model("cancel")
async def test_a_stream_that_is_left_frees_its_slot(model: Models, played: PlayedNode) -> None:
    async with Agent(model()).run_stream(ENDLESS_TASK) as result:
        async for _ in result.stream_text(delta=True, debounce_by=None):
            break
        await asyncio.to_thread(played.until_busy)
        await result.cancel()
        await asyncio.to_thread(played.until_idle)


@every_model("cancel")
async def test_a_run_that_is_no_longer_awaited_frees_its_slot(model: Models, played: PlayedNode) -> None:
    running = asyncio.create_task(Agent(model()).run(ENDLESS_TASK))
    await asyncio.to_thread(played.until_busy)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.to_thread(played.until_idle)


@every_model("errors")
async def test_an_unknown_model_is_its_own_error_and_asked_for_once(model: Models, played: PlayedNode) -> None:
    before = await asyncio.to_thread(played.answered, 404)
    with pytest.raises(ModelHTTPError, match=UNKNOWN_MODEL) as caught:
        await Agent(model(UNKNOWN_MODEL)).run(TEXT_TASK)
    assert caught.value.status_code == 404
    assert MODEL in str(caught.value), "those there are"
    assert await asyncio.to_thread(played.answered, 404) == before + 1


@every_model("errors")
async def test_a_node_without_a_free_slot_is_asked_again(model: Models, played: PlayedNode) -> None:
    before = await asyncio.to_thread(played.answered, 503)
    assert (await Agent(model()).run(BUSY_TASK)).output == "Hello."
    assert await asyncio.to_thread(played.answered, 503) == before + 1
