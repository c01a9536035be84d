"""Agno: agents over OpenAI's chat and Responses, Anthropic's Messages and Ollama's API."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.models.ollama import Ollama
from agno.models.openai import OpenAILike, OpenAIResponses
from agno.run.agent import RunContentEvent
from pydantic import BaseModel

MODELS = {each.__name__: each for each in (Claude, Ollama, OpenAILike, OpenAIResponses)}
WRITTEN = {"chat": ("agno", 0), "responses": ("agno", 1), "messages": ("agno", 2), "ollama": ("agno-ollama", 0)}


class City(BaseModel):
    city: str
    degrees: int


def agent(kind: str, node: Any, name: str | None = None, **more: Any) -> Agent:
    """As users are told to make its model."""
    client, line = WRITTEN[kind]
    model = eval(node.written(client, line, name), MODELS)
    return Agent(model=model, telemetry=False, **more)


def with_weather(kind: str, node: Any) -> tuple[Agent, list[str]]:
    cities: list[str] = []

    def get_weather(city: str) -> str:
        """Weather of a city."""
        cities.append(city)
        return f"sunny in {city}"

    return agent(kind, node, tools=[get_weather]), cities


def text(kind: str, node: Any) -> Any:
    first = agent(kind, node).run(node.text_task)
    again = agent(kind, node).run([*first.messages, {"role": "user", "content": "Thank you."}])
    return {"text": first.content, "again": again.content, "output_tokens": first.metrics.output_tokens}


def stream(kind: str, node: Any) -> Any:
    events = list(agent(kind, node).run(node.text_task, stream=True, stream_events=True))
    pieces = [event.content for event in events if isinstance(event, RunContentEvent)]
    ended = events[-1]
    assert "".join(piece for piece in pieces if piece) == ended.content
    return {"streamed": len(pieces), "text": ended.content, "output_tokens": ended.metrics.output_tokens}


def tools(kind: str, node: Any) -> Any:
    one, cities = with_weather(kind, node)
    return {"text": one.run(node.tool_task).content, "cities": cities}


def streamed_tools(kind: str, node: Any) -> Any:
    one, cities = with_weather(kind, node)
    events = one.run(node.tool_task, stream=True, stream_events=True)
    return {"text": list(events)[-1].content, "cities": cities}


def structured(kind: str, node: Any) -> Any:
    made = agent(kind, node, output_schema=City).run(node.object_task).content
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


async def cancel_stream(kind: str, node: Any) -> Any:
    said = asyncio.Event()

    async def listen() -> None:
        async for event in agent(kind, node).arun(node.endless_task, stream=True):
            if isinstance(event, RunContentEvent):
                said.set()

    listening = asyncio.ensure_future(listen())
    await said.wait()
    await node.leaves(listening)
    return "left"


async def cancel_whole(kind: str, node: Any) -> Any:
    running = asyncio.ensure_future(agent(kind, node).arun(node.endless_task))
    return await node.leaves(running)


def unknown_model(kind: str, node: Any) -> Any:
    before = node.answered(404)
    ended = agent(kind, node, node.unknown_model).run(node.text_task)
    return {"error": str(ended.status), "message": ended.content, "times": node.answered(404) - before}


def busy(kind: str, node: Any) -> Any:
    before = node.answered(503)
    ended = agent(kind, node).run(node.busy_task)
    return {"text": ended.content, "times": node.answered(503) - before}


EACH = (text, stream, tools, streamed_tools, structured, cancel_stream, cancel_whole, unknown_model, busy)
CELLS = {f"{kind} {cell.__name__}": partial(cell, kind) for kind in WRITTEN for cell in EACH}
del CELLS["ollama busy"]  # it asks once, whatever comes back
