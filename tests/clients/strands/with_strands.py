"""Strands: its agent over OpenAI's chat and Responses, Anthropic's Messages and Ollama's API."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import anthropic
import ollama
import openai
from pydantic import BaseModel
from strands import Agent, tool
from strands.models.anthropic import AnthropicModel
from strands.models.ollama import OllamaModel
from strands.models.openai import OpenAIModel
from strands.models.openai_responses import OpenAIResponsesModel

MODELS = {each.__name__: each for each in (AnthropicModel, OllamaModel, OpenAIModel, OpenAIResponsesModel)}
WRITTEN = {
    "chat": ("strands", 0),
    "responses": ("strands", 1),
    "messages": ("strands", 2),
    "ollama": ("strands-ollama", 1),
}
ERRORS = (openai.NotFoundError, anthropic.NotFoundError, ollama.ResponseError)


class City(BaseModel):
    """A city."""

    city: str
    degrees: int


def agent(kind: str, node: Any, name: str | None = None, **more: Any) -> Agent:
    """As users are told to make its model."""
    names = dict(MODELS)
    if kind == "ollama":
        exec(node.written("strands-ollama", 0), names)
    client, line = WRITTEN[kind]
    return Agent(model=eval(node.written(client, line, name), names), callback_handler=None, **more)


def with_weather(kind: str, node: Any) -> tuple[Agent, list[str]]:
    cities: list[str] = []

    @tool
    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: its name
        """
        cities.append(city)
        return f"sunny in {city}"

    return agent(kind, node, tools=[get_weather]), cities


def words(result: Any) -> str:
    return str(result).removesuffix("\n")


def text(kind: str, node: Any) -> Any:
    one = agent(kind, node)
    if kind == "chat":
        one.model.update_config(stream=False)  # the others stream whatever they ask
    first = one(node.text_task)
    tokens = first.metrics.accumulated_usage["outputTokens"]
    return {"text": words(first), "again": words(one("Thank you.")), "output_tokens": tokens}


async def stream(kind: str, node: Any) -> Any:
    events = [event async for event in agent(kind, node).stream_async(node.text_task)]
    pieces = [event["data"] for event in events if "data" in event]
    result = events[-1]["result"]
    assert "".join(pieces) == words(result)
    tokens = result.metrics.accumulated_usage["outputTokens"]
    return {"streamed": len(pieces), "text": words(result), "output_tokens": tokens}


def tools(kind: str, node: Any) -> Any:
    one, cities = with_weather(kind, node)
    return {"text": words(one(node.tool_task)), "cities": cities}


async def streamed_tools(kind: str, node: Any) -> Any:
    one, cities = with_weather(kind, node)
    events = [event async for event in one.stream_async(node.tool_task)]
    return {"text": words(events[-1]["result"]), "cities": cities}


def structured(kind: str, node: Any) -> Any:
    made = agent(kind, node)(node.object_task, structured_output_model=City).structured_output
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


async def cancel_stream(kind: str, node: Any) -> Any:
    said = asyncio.Event()

    async def listen() -> None:
        async for event in agent(kind, node).stream_async(node.endless_task):
            if "data" in event:
                said.set()

    listening = asyncio.ensure_future(listen())
    await said.wait()
    await node.leaves(listening)
    return "left"


async def cancel_whole(kind: str, node: Any) -> Any:
    running = asyncio.ensure_future(agent(kind, node).invoke_async(node.endless_task))
    return await node.leaves(running)


def unknown_model(kind: str, node: Any) -> Any:
    before = node.answered(404)
    try:
        agent(kind, node, node.unknown_model)(node.text_task)
    except ERRORS as error:
        return {"error": type(error).__name__, "message": str(error), "times": node.answered(404) - before}


def busy(kind: str, node: Any) -> Any:
    before = node.answered(503)
    answer = words(agent(kind, node)(node.busy_task))
    return {"text": answer, "times": node.answered(503) - before}


EACH = (text, stream, tools, streamed_tools, structured, cancel_stream, cancel_whole, unknown_model, busy)
CELLS = {f"{kind} {cell.__name__}": partial(cell, kind) for kind in WRITTEN for cell in EACH}
del CELLS["ollama busy"]  # it asks once, whatever comes back
