"""Inspect: evaluations and its model, over OpenAI's chat and Anthropic's Messages."""

from __future__ import annotations

import asyncio
import json
import os
from functools import partial
from typing import Any

from inspect_ai import Task, eval_async
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig, Model, ResponseSchema, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool
from inspect_ai.util import json_schema
from pydantic import BaseModel

WRITTEN = {"chat": (0, 1, 2), "messages": (3, 4, 5)}  # which lines of what users are told to write


class City(BaseModel):
    city: str
    degrees: int


def model(kind: str, node: Any, name: str | None = None) -> Model:
    """As users are told: two variables, and a name for --model."""
    *variables, option = (node.written("inspect-ai", line, name) for line in WRITTEN[kind])
    os.environ.update(variable.split("=", 1) for variable in variables)
    return get_model(option.removeprefix("--model "), memoize=False)


async def evaluated(one: Model, task: str, target: str, *solvers: Any) -> Any:
    samples = [Sample(input=task, target=target)]
    whole = Task(dataset=samples, solver=[*solvers, generate()], scorer=includes())
    (log,) = await eval_async(whole, model=one, log_dir="logs")
    return log


async def text(kind: str, node: Any) -> Any:
    log = await evaluated(model(kind, node), node.text_task, "Paris")
    (sample,) = log.samples
    again = await model(kind, node).generate([*sample.messages, ChatMessageUser(content="Thank you.")])
    (usage,) = log.stats.model_usage.values()
    assert sample.scores["includes"].value == "C", "correct"
    return {"text": sample.output.completion, "again": again.completion, "output_tokens": usage.output_tokens}


async def stream(kind: str, node: Any) -> Any:
    pieces: list[Any] = []

    async def hear(event: Any) -> None:
        pieces.append(event)

    answer = await model(kind, node).generate(node.text_task, on_stream=hear)
    return {"streamed": len(pieces), "text": answer.completion, "output_tokens": answer.usage.output_tokens}


async def tools(kind: str, node: Any) -> Any:
    cities: list[str] = []

    @tool
    def get_weather() -> Any:
        async def execute(city: str) -> str:
            """Weather of a city.

            Args:
                city: its name
            """
            cities.append(city)
            return f"sunny in {city}"

        return execute

    log = await evaluated(model(kind, node), node.tool_task, "sunny", use_tools(get_weather()))
    (sample,) = log.samples
    return {"text": sample.output.completion, "cities": cities}


async def structured(kind: str, node: Any) -> Any:
    schema = ResponseSchema(name="City", json_schema=json_schema(City))
    answer = await model(kind, node).generate(node.object_task, config=GenerateConfig(response_schema=schema))
    made = City(**json.loads(answer.completion))
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


async def cancel_whole(kind: str, node: Any) -> Any:
    running = asyncio.ensure_future(model(kind, node).generate(node.endless_task))
    return await node.leaves(running)


async def cancel_stream(kind: str, node: Any) -> Any:
    said = asyncio.Event()

    async def hear(event: Any) -> None:
        said.set()

    running = asyncio.ensure_future(model(kind, node).generate(node.endless_task, on_stream=hear))
    await said.wait()
    await node.leaves(running)
    return "left"


async def unknown_model(kind: str, node: Any) -> Any:
    before = node.answered(404)
    log = await evaluated(model(kind, node, node.unknown_model), node.text_task, "Paris")
    return {"error": log.status, "message": log.error.message, "times": node.answered(404) - before}


async def busy(kind: str, node: Any) -> Any:
    before = node.answered(503)
    log = await evaluated(model(kind, node), node.busy_task, "Hello")
    (sample,) = log.samples
    return {"text": sample.output.completion, "times": node.answered(503) - before}


EACH = (text, stream, tools, structured, cancel_stream, cancel_whole, unknown_model, busy)
CELLS = {f"{kind} {cell.__name__}": partial(cell, kind) for kind in WRITTEN for cell in EACH}
