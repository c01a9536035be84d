"""instructor: models of pydantic, whole and in parts, by calls and by schemas. It has no loop of tools."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import anthropic
import instructor
import openai
from instructor.core import InstructorRetryException
from pydantic import BaseModel

MODES: Any = {
    "chat-tools": instructor.Mode.TOOLS,
    "chat-schema": instructor.Mode.JSON_SCHEMA,
    "responses": instructor.Mode.RESPONSES_TOOLS,
    "messages": instructor.Mode.TOOLS,
}
PACKAGES = {"instructor": instructor, "OpenAI": openai.AsyncOpenAI, "Anthropic": anthropic.AsyncAnthropic}


class City(BaseModel):
    city: str
    degrees: int


def client(kind: str, node: Any, name: str | None = None) -> Any:
    """As users are told to make it, in that mode."""
    written = node.written("instructor", 1 if kind == "messages" else 0, name)
    return eval(f"{written.removesuffix(')')}, mode=mode)", {**PACKAGES, "mode": MODES[kind]})


def said(kind: str, *turns: str) -> Any:
    """A conversation's turns, of which every other one is the model's."""
    roles = ("user", "assistant")
    messages: Any = [{"role": roles[at % 2], "content": turn} for at, turn in enumerate(turns)]
    return {"messages": messages, **({"max_tokens": 900} if kind.startswith("messages") else {})}


def words(answer: Any) -> tuple[str, int]:
    """An answer's text, and how many tokens it had."""
    if hasattr(answer, "output_text"):
        return answer.output_text, answer.usage.output_tokens
    if hasattr(answer, "choices"):
        return answer.choices[0].message.content, answer.usage.completion_tokens
    return answer.content[0].text, answer.usage.output_tokens


async def text(kind: str, node: Any) -> Any:
    answer, tokens = words(await client(kind, node).create(response_model=None, **said(kind, node.text_task)))
    turns = said(kind, node.text_task, answer, "Thank you.")
    again, _ = words(await client(kind, node).create(response_model=None, **turns))
    return {"text": answer, "again": again, "output_tokens": tokens}


async def structured(kind: str, node: Any) -> Any:
    made, whole = await client(kind, node).create_with_completion(response_model=City, **said(kind, node.object_task))
    assert whole.usage
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


async def partial_objects(kind: str, node: Any) -> Any:
    one = {"swarm": {"strategy": "single"}}  # what a vote decides comes all at once
    pieces = client(kind, node).create_partial(response_model=City, extra_body=one, **said(kind, node.object_task))
    return [piece.model_dump() async for piece in pieces]


async def cancel_stream(kind: str, node: Any) -> Any:
    pieces = client(kind, node).create_partial(response_model=City, **said(kind, node.endless_task))
    reading = asyncio.ensure_future(anext(aiter(pieces)))
    await node.leaves(reading)
    return "left"


async def cancel_whole(kind: str, node: Any) -> Any:
    asking = asyncio.ensure_future(client(kind, node).create(response_model=City, **said(kind, node.endless_task)))
    return await node.leaves(asking)


async def unknown_model(kind: str, node: Any) -> Any:
    before = node.answered(404)
    try:
        await client(kind, node, node.unknown_model).create(response_model=City, **said(kind, node.object_task))
    except InstructorRetryException as error:
        times = node.answered(404) - before
        return {"error": type(error).__name__, "message": str(error), "times": times}


EACH = (text, structured, partial_objects, cancel_stream, cancel_whole, unknown_model)
CELLS = {f"{kind} {cell.__name__}": partial(cell, kind) for kind in MODES for cell in EACH}
