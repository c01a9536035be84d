"""Haystack: its generators for OpenAI's chat and Responses, for Anthropic and for Ollama, and its agent around each."""

from __future__ import annotations

import asyncio
import json
import os
from functools import partial
from typing import Annotated, Any

import anthropic
import ollama
import openai
from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from haystack_integrations.components.generators.anthropic import AnthropicChatGenerator
from haystack_integrations.components.generators.ollama import OllamaChatGenerator
from pydantic import BaseModel, ConfigDict


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: str
    degrees: int


SCHEMA = City.model_json_schema()
BOUND: Any = {
    "chat": {"response_format": City},
    "responses": {"text_format": City},
    "messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}
GENERATORS = {
    each.__name__: each
    for each in (AnthropicChatGenerator, OllamaChatGenerator, OpenAIChatGenerator, OpenAIResponsesChatGenerator, Secret)
}
WRITTEN = {
    "chat": ("haystack", 0),
    "responses": ("haystack", 1),
    "messages": ("haystack", 3),
    "ollama": ("haystack-ollama", 1),
}
VARIABLES = {"messages": ("haystack", 2), "ollama": ("haystack-ollama", 0)}
ERRORS = (openai.NotFoundError, anthropic.NotFoundError, ollama.ResponseError)


def generator(kind: str, node: Any, name: str | None = None, bound: bool = False) -> Any:
    """As users are told to make it."""
    if kind in VARIABLES:  # of an address, or a key, that it takes from its environment alone
        variable, _, value = node.written(*VARIABLES[kind]).partition("=")
        os.environ[variable] = value
    made = eval(node.written(*WRITTEN[kind], name), GENERATORS)
    if kind == "ollama":
        made.max_retries = 1
        made.response_format = SCHEMA if bound else None
    elif bound:
        made.generation_kwargs = BOUND[kind]
    return made


def with_weather(kind: str, node: Any) -> tuple[Agent, list[str]]:
    cities: list[str] = []

    def get_weather(city: Annotated[str, "its name"]) -> str:
        """Weather of a city"""
        cities.append(city)
        return f"sunny in {city}"

    return Agent(chat_generator=generator(kind, node), tools=[create_tool_from_function(get_weather)]), cities


def asked(text: str) -> list[ChatMessage]:
    return [ChatMessage.from_user(text)]


def tokens(reply: ChatMessage) -> int:
    usage = reply.meta["usage"]
    return usage.get("completion_tokens") or usage.get("output_tokens")


def text(kind: str, node: Any) -> Any:
    pipeline = Pipeline()
    pipeline.add_component("llm", generator(kind, node))
    (reply,) = pipeline.run({"llm": {"messages": asked(node.text_task)}})["llm"]["replies"]
    turns = [*asked(node.text_task), reply, *asked("Thank you.")]
    (again,) = pipeline.run({"llm": {"messages": turns}})["llm"]["replies"]
    return {"text": reply.text, "again": again.text, "output_tokens": tokens(reply)}


def stream(kind: str, node: Any) -> Any:
    pieces: list[str] = []
    more = {"generation_kwargs": {"stream_options": {"include_usage": True}}} if kind == "chat" else {}
    (reply,) = generator(kind, node).run(
        asked(node.text_task), streaming_callback=lambda chunk: pieces.append(chunk.content), **more
    )["replies"]
    assert "".join(pieces) == reply.text
    return {"streamed": len(pieces), "text": reply.text, "output_tokens": tokens(reply)}


def tools(kind: str, node: Any) -> Any:
    agent, cities = with_weather(kind, node)
    return {"text": agent.run(asked(node.tool_task))["last_message"].text, "cities": cities}


def streamed_tools(kind: str, node: Any) -> Any:
    agent, cities = with_weather(kind, node)
    ended = agent.run(asked(node.tool_task), streaming_callback=lambda chunk: None)
    return {"text": ended["last_message"].text, "cities": cities}


def structured(kind: str, node: Any) -> Any:
    (reply,) = generator(kind, node, bound=True).run(asked(node.object_task))["replies"]
    made = City(**json.loads(reply.text))
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


async def cancel_stream(kind: str, node: Any) -> Any:
    said = asyncio.Event()

    async def hear(chunk: Any) -> None:
        said.set()

    running = asyncio.ensure_future(generator(kind, node).run_async(asked(node.endless_task), streaming_callback=hear))
    await said.wait()
    await node.leaves(running)
    return "left"


async def cancel_whole(kind: str, node: Any) -> Any:
    running = asyncio.ensure_future(generator(kind, node).run_async(asked(node.endless_task)))
    return await node.leaves(running)


def unknown_model(kind: str, node: Any) -> Any:
    before = node.answered(404)
    try:
        generator(kind, node, node.unknown_model).run(asked(node.text_task))
    except ERRORS as error:
        return {"error": type(error).__name__, "message": str(error), "times": node.answered(404) - before}


def busy(kind: str, node: Any) -> Any:
    before = node.answered(503)
    (reply,) = generator(kind, node).run(asked(node.busy_task))["replies"]
    return {"text": reply.text, "times": node.answered(503) - before}


EACH = (text, stream, tools, streamed_tools, structured, cancel_stream, cancel_whole, unknown_model, busy)
CELLS = {f"{kind} {cell.__name__}": partial(cell, kind) for kind in WRITTEN for cell in EACH}
