"""What the scenarios of LangChain share: how a chat model is asked, and what it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

Make = Callable[..., BaseChatModel]  # of a node, and of a model's name where it is another one than the node's


class City(BaseModel):
    """A city and how warm it is there."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


WEATHER = tool(get_weather)


def text(make: Make, node: Any) -> Any:
    answer = make(node).invoke(node.text_task)
    again = make(node).invoke([("user", node.text_task), answer, ("user", "Thank you.")])
    return {"text": answer.text, "again": again.text, "output_tokens": answer.usage_metadata["output_tokens"]}


def stream(make: Make, node: Any) -> Any:
    chunks = list(make(node).stream(node.text_task))
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    pieces = [chunk.text for chunk in chunks if chunk.text]
    return {"pieces": pieces, "text": whole.text, "output_tokens": whole.usage_metadata["output_tokens"]}


def loop(make: Make, node: Any, ask: Callable[[Any, Any], Any]) -> Any:
    """Ask, call what the model calls, and tell it the result, until it answers in words."""
    bound = make(node).bind_tools([WEATHER])
    turns: list[Any] = [HumanMessage(node.tool_task)]
    cities: list[str] = []
    while True:
        turns.append(answer := ask(bound, turns))
        if not answer.tool_calls:
            return {"cities": cities, "text": answer.text}
        for call in answer.tool_calls:
            cities.append(call["args"]["city"])
            turns.append(WEATHER.invoke(call))


def tools(make: Make, node: Any) -> Any:
    return loop(make, node, lambda bound, turns: bound.invoke(turns))


def streamed_tools(make: Make, node: Any) -> Any:
    def ask(bound: Any, turns: Any) -> Any:
        chunks = list(bound.stream(turns))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole = whole + chunk
        return whole

    return loop(make, node, ask)


def structured(make: Make, method: str, node: Any) -> Any:
    made: Any = make(node).with_structured_output(City, method=method).invoke(node.object_task)
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


def cancel_stream(make: Make, node: Any) -> Any:
    llm = make(node)
    parts = llm.stream(node.endless_task)
    while not next(parts).text:
        pass
    node.until_busy()
    parts.close()
    node.until_idle()
    return "left"


async def cancel_async(make: Make, node: Any) -> Any:
    llm = make(node)
    parts = llm.astream(node.endless_task)
    while not (await anext(parts)).text:
        pass
    await asyncio.to_thread(node.until_busy)
    await parts.aclose()
    await asyncio.to_thread(node.until_idle)
    return "left"


async def cancel_whole(make: Make, node: Any) -> Any:
    llm = make(node)
    running = asyncio.ensure_future(llm.ainvoke(node.endless_task))
    await node.leaves(running)
    return "left"


def refusal(node: Any, status: int, ask: Callable[[], Any]) -> Any:
    """What `ask` raises, and how many answers with `status` the node gave to it."""
    before = node.answered(status)
    try:
        ask()
    except Exception as error:  # noqa: BLE001  of which type it is is what is asked
        kind = type(error)
        times = node.answered(status) - before
        return {"error": f"{kind.__module__}.{kind.__name__}", "message": str(error), "times": times}
    raise AssertionError("it was answered")


def unknown_model(make: Make, node: Any) -> Any:
    return refusal(node, 404, lambda: make(node, node.unknown_model).invoke(node.text_task))


def streamed_unknown_model(make: Make, node: Any) -> Any:
    return refusal(node, 404, lambda: list(make(node, node.unknown_model).stream(node.text_task)))


EVERY = (
    text,
    stream,
    tools,
    streamed_tools,
    cancel_stream,
    cancel_async,
    cancel_whole,
    unknown_model,
    streamed_unknown_model,
)
