"""openai-agents, over both of its models: text, stream, a tool, an output type, leaving, and an unknown model."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

set_tracing_disabled(True)
MODELS: Any = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}


class City(BaseModel):
    city: str
    degrees: int


def agent(kind: str, node: Any, name: str | None = None, **more: Any) -> Agent:
    """As users are told to make it, with settings and instructions of its own."""
    names: Any = {"AsyncOpenAI": openai.AsyncOpenAI, "Agent": Agent, "OpenAIResponsesModel": MODELS[kind]}
    for line in (0, 1):
        exec(node.written("openai-agents", line, name), names)
    settings = ModelSettings(include_usage=True)
    return names["agent"].clone(instructions="Be brief.", model_settings=settings, **more)


def with_weather(kind: str, node: Any) -> tuple[Agent, list[str]]:
    cities: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """Weather of a city."""
        cities.append(city)
        return f"sunny in {city}"

    return agent(kind, node, tools=[get_weather]), cities


def deltas(events: Any) -> Any:
    return (
        event.data.delta
        async for event in events
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
    )


async def text(kind: str, node: Any) -> Any:
    result = await Runner.run(agent(kind, node), node.text_task)
    again = await Runner.run(agent(kind, node), [*result.to_input_list(), {"role": "user", "content": "Thank you."}])
    usage = result.context_wrapper.usage
    return {"text": result.final_output, "again": again.final_output, "output_tokens": usage.output_tokens}


async def stream(kind: str, node: Any) -> Any:
    result = Runner.run_streamed(agent(kind, node), node.text_task)
    pieces = [piece async for piece in deltas(result.stream_events())]
    usage = result.context_wrapper.usage
    assert "".join(pieces) == result.final_output
    return {"streamed": len(pieces), "text": result.final_output, "output_tokens": usage.output_tokens}


async def tools(kind: str, node: Any) -> Any:
    one, cities = with_weather(kind, node)
    result = await Runner.run(one, node.tool_task)
    return {"cities": cities, "text": result.final_output}


async def streamed_tools(kind: str, node: Any) -> Any:
    one, cities = with_weather(kind, node)
    result = Runner.run_streamed(one, node.tool_task)
    items = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
    return {"cities": cities, "text": result.final_output, "items": items}


async def structured(kind: str, node: Any) -> Any:
    result = await Runner.run(agent(kind, node, output_type=City), node.object_task)
    made = result.final_output
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


async def cancel_stream(kind: str, node: Any) -> Any:
    result = Runner.run_streamed(agent(kind, node), node.endless_task)
    events = result.stream_events()
    async for _ in deltas(events):
        break
    await asyncio.to_thread(node.until_busy)
    result.cancel()
    async for _ in events:
        pass
    await asyncio.to_thread(node.until_idle)
    return "left"


async def cancel_whole(kind: str, node: Any) -> Any:
    running = asyncio.ensure_future(Runner.run(agent(kind, node), node.endless_task))
    return await node.leaves(running)


async def unknown_model(kind: str, node: Any) -> Any:
    before = node.answered(404)
    try:
        await Runner.run(agent(kind, node, node.unknown_model), node.text_task)
    except openai.NotFoundError as error:
        return {"error": type(error).__name__, "message": str(error), "times": node.answered(404) - before}


async def busy(kind: str, node: Any) -> Any:
    before = node.answered(503)
    result = await Runner.run(agent(kind, node), node.busy_task)
    return {"text": result.final_output, "times": node.answered(503) - before}


EACH = (text, stream, tools, streamed_tools, structured, cancel_stream, cancel_whole, unknown_model, busy)
CELLS = {f"{kind} {cell.__name__}": partial(cell, kind) for kind in MODELS for cell in EACH}
