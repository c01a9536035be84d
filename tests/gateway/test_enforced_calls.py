"""`tool_choice` required and named through the official package: a call is made, whatever the model prefers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL_TALK = [{"role": "user", "content": "Hello, how are you?"}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
WAYS = ("single", "vote")


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, **({} if parameters is None else {"parameters": parameters})},
    }


SIZE = tool("set_size", {
    "type": "object",
    "properties": {"size": {"$ref": "#/$defs/Size"}, "really": {"type": "boolean"}},
    "required": ["size", "really"],
    "additionalProperties": False,
    "$defs": {"Size": {"enum": ["small", "large"]}},
})  # fmt: skip
BARE: tuple[Any, ...] = (
    None,
    {"type": "object"},
    {"type": "object", "properties": {}},
    {"description": "takes nothing"},
)
CITY = tool("get_weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@dataclass(frozen=True, slots=True)
class Call:
    """One answer's only call, and how the answer ended."""

    name: str
    arguments: str
    ended: str


class Asker:
    """Asks one node."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def chat(self, way: str, messages: Any = SMALL_TALK, **fields: Any) -> Any:
        """The response; a streamed one as a list of its chunks."""
        swarm = {"strategy": "majority", "votes": 3} if "vote" in way else {"strategy": "single"}
        reply: Any = await self._client.chat.completions.create(
            model="demo", messages=messages, extra_body={"swarm": swarm}, seed=5, **fields
        )
        return [chunk async for chunk in reply] if fields.get("stream") else reply

    async def whole(self, way: str, messages: Any = SMALL_TALK, **fields: Any) -> Call:
        choice = (await self.chat(way, messages, **fields)).choices[0]
        (call,) = choice.message.tool_calls
        assert not choice.message.content
        assert call.id
        return Call(call.function.name, call.function.arguments, choice.finish_reason)

    async def streamed(self, way: str, messages: Any = SMALL_TALK, **fields: Any) -> Call:
        chunks = await self.chat(way, messages, stream=True, **fields)
        assert not any(chunk.choices[0].delta.content for chunk in chunks)
        first, *later = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
        assert first.id
        assert all((call.index, call.id, call.function.name) == (0, None, None) for call in later)
        arguments = "".join(call.function.arguments for call in (first, *later))
        return Call(first.function.name, arguments, chunks[-1].choices[0].finish_reason)


@pytest_asyncio.fixture(loop_scope="module")
async def asker(ai: AsyncOpenAI) -> Asker:
    return Asker(ai)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_required_call_is_made_even_in_small_talk(asker: Asker, way: str, stream: bool) -> None:
    ask = asker.streamed if stream else asker.whole
    call = await ask(way, tools=[SIZE], tool_choice="required", temperature=0.8)
    arguments = json.loads(call.arguments)
    assert (call.name, call.ended) == ("set_size", "tool_calls")
    assert arguments["size"] in ("small", "large")
    assert isinstance(arguments["really"], bool)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_named_function_is_called_and_no_other(asker: Asker, way: str, stream: bool) -> None:
    ask = asker.streamed if stream else asker.whole
    call = await ask(way, WEATHER, tools=[CITY, SIZE], tool_choice=named("set_size"), temperature=0)
    assert (call.name, call.ended) == ("set_size", "tool_calls")
    assert json.loads(call.arguments)["size"] in ("small", "large")


@pytest.mark.parametrize("bare", BARE, ids=["nothing", "a type", "no properties", "a description"])
async def test_functions_whose_parameters_say_nothing_are_called_with_nothing(asker: Asker, bare: Any) -> None:
    call = await asker.whole("single", tools=[tool("now", bare)], tool_choice="required", temperature=1)
    assert call == Call("now", "{}", "tool_calls")


async def test_of_several_functions_one_is_called_with_its_own_arguments(asker: Asker) -> None:
    call = await asker.whole("single", WEATHER, tools=[CITY, SIZE], tool_choice="required", temperature=0)
    assert call.name in ("get_weather", "set_size")
    assert json.loads(call.arguments).keys() == ({"city"} if call.name == "get_weather" else {"size", "really"})


async def test_the_call_that_the_model_would_make_anyway_is_the_same(asker: Asker) -> None:
    call = await asker.whole("single", WEATHER, tools=[CITY], tool_choice="required", temperature=0)
    assert json.loads(call.arguments) == {"city": "Paris"}


async def test_arguments_stream_as_they_are_made(asker: Asker) -> None:
    chunks = await asker.chat("single", WEATHER, tools=[CITY], tool_choice="required", temperature=0, stream=True)
    assert sum(bool(chunk.choices[0].delta.tool_calls) for chunk in chunks) > 3


async def test_every_choice_makes_its_call_with_an_id_of_its_own(asker: Asker) -> None:
    reply = await asker.chat("single", tools=[SIZE], tool_choice="required", temperature=0.9, n=3)
    calls = [call for choice in reply.choices for call in choice.message.tool_calls]
    assert [choice.finish_reason for choice in reply.choices] == ["tool_calls"] * 3
    assert len({call.id for call in calls}) == 3
    assert all(json.loads(call.function.arguments)["size"] in ("small", "large") for call in calls)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_call_cut_by_max_tokens_does_not_claim_to_be_whole(asker: Asker, stream: bool) -> None:
    ask = asker.streamed if stream else asker.whole
    call = await ask("single", WEATHER, tools=[CITY], tool_choice="required", temperature=0, max_tokens=20)
    assert call.ended == "length"
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(call.arguments)


async def test_a_call_cut_in_its_name_is_no_call_and_no_text(asker: Asker) -> None:
    reply = await asker.chat("single", tools=[CITY], tool_choice="required", temperature=0, max_tokens=3)
    choice = reply.choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("", None, "length")


@pytest.mark.parametrize("parallel", [True, False])
async def test_parallel_calls_are_allowed_and_not_demanded(asker: Asker, parallel: bool) -> None:
    fields = {"tools": [CITY], "tool_choice": "required", "parallel_tool_calls": parallel, "temperature": 0}
    assert (await asker.whole("single", WEATHER, **fields)).name == "get_weather"


@pytest.mark.parametrize("way", WAYS)
async def test_with_tools_and_a_schema_the_answer_is_a_call_or_that_json(asker: Asker, way: str) -> None:
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
    for messages in (WEATHER, SMALL_TALK):
        reply = await asker.chat(way, messages, tools=[SIZE], response_format=wanted, temperature=0)
        choice = reply.choices[0]
        if choice.message.tool_calls:
            assert choice.finish_reason == "tool_calls"
            assert json.loads(choice.message.tool_calls[0].function.arguments)["size"] in ("small", "large")
        else:
            assert choice.finish_reason == "stop"
            assert isinstance(json.loads(choice.message.content)["sure"], bool)
