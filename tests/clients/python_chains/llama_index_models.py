"""LlamaIndex: `OpenAILike` over chat completions, and `Ollama` and `OllamaEmbedding` over Ollama's API."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city and how warm it is there."""

    city: str
    degrees: int


def openai_like(node: Any, name: str | None = None, **more: Any) -> OpenAILike:
    return OpenAILike(
        model=name or node.model,
        api_base=node.base_url,
        api_key=node.key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=32_768,
        **more,
    )


def ollama(node: Any, name: str | None = None, **more: Any) -> Ollama:
    headers = {"Authorization": f"Bearer {node.key}"}
    return Ollama(model=name or node.model, base_url=node.url, headers=headers, **more)


MAKE: Any = {"openai_like": openai_like, "ollama": ollama}


def said_by(node: Any, *words: str) -> list[ChatMessage]:
    return [ChatMessage(role="user" if at % 2 == 0 else "assistant", content=each) for at, each in enumerate(words)]


def text(kind: str, node: Any) -> Any:
    llm = MAKE[kind](node)
    answer = llm.complete(node.text_task)
    again = llm.chat(said_by(node, node.text_task, answer.text, "Thank you."))
    usage = answer.raw["usage"] if isinstance(answer.raw, dict) else dict(answer.raw.usage)
    return {"text": answer.text, "again": again.message.content, "output_tokens": usage["completion_tokens"]}


def stream(kind: str, node: Any) -> Any:
    llm = MAKE[kind](node)
    pieces = list(llm.stream_chat(said_by(node, node.text_task)))
    whole = list(llm.stream_complete(node.text_task))[-1].text
    return {"pieces": [piece.delta for piece in pieces if piece.delta], "text": whole}


def agent(kind: str, node: Any) -> tuple[FunctionAgent, list[str]]:
    cities: list[str] = []

    def get_weather(city: str) -> str:
        """Weather of a city."""
        cities.append(city)
        return f"sunny in {city}"

    return FunctionAgent(tools=[get_weather], llm=MAKE[kind](node)), cities


async def tools(kind: str, node: Any) -> Any:
    """By its agent, which streams from the model whether or not anybody looks at it."""
    one, cities = agent(kind, node)
    answer = await one.run(node.tool_task)
    return {"cities": cities, "text": str(answer)}


async def streamed_tools(kind: str, node: Any) -> Any:
    one, cities = agent(kind, node)
    running = one.run(node.tool_task)
    pieces: list[str] = []
    results: list[str] = []
    async for event in running.stream_events():
        if isinstance(event, AgentStream) and event.delta:
            pieces.append(event.delta)
        if isinstance(event, ToolCallResult):
            results.append(str(event.tool_output))
    await running
    return {"cities": cities, "text": "".join(pieces), "results": results}


def structured_llm(kind: str, node: Any) -> Any:
    answer = MAKE[kind](node).as_structured_llm(City).complete(node.object_task)
    return {"type": type(answer.raw).__name__, "value": answer.raw.model_dump(), "asked": node.last_asked()}


def structured_predict(kind: str, node: Any) -> Any:
    made = MAKE[kind](node).structured_predict(City, PromptTemplate("{task}"), task=node.object_task)
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


def structured_by_format(node: Any) -> Any:
    """`should_use_structured_outputs`, without which an object is the arguments of a call."""
    llm = openai_like(node, should_use_structured_outputs=True)
    answer = llm.as_structured_llm(City).complete(node.object_task)
    return {"type": type(answer.raw).__name__, "value": answer.raw.model_dump(), "asked": node.last_asked()}


def cancel_stream(kind: str, node: Any) -> Any:
    """To close LlamaIndex's generator leaves the one that it wraps as it is: only when that is collected, too, is the
    connection closed."""
    llm = MAKE[kind](node)
    parts = llm.stream_chat(said_by(node, node.endless_task))
    while not next(parts).delta:
        pass
    node.until_busy()
    parts.close()
    del parts
    gc.collect()
    node.until_idle()
    return "left"


async def cancel_async(kind: str, node: Any) -> Any:
    llm = MAKE[kind](node)
    running = asyncio.Event()

    async def read() -> None:
        async for part in await llm.astream_chat(said_by(node, node.endless_task)):
            if part.delta:
                running.set()

    reading = asyncio.ensure_future(read())
    await running.wait()
    await node.leaves(reading)
    return "left"


async def cancel_whole(kind: str, node: Any) -> Any:
    llm = MAKE[kind](node)
    running = asyncio.ensure_future(llm.achat(said_by(node, node.endless_task)))
    await node.leaves(running)
    return "left"


async def cancel_agent(kind: str, node: Any) -> Any:
    running = FunctionAgent(tools=[], llm=MAKE[kind](node)).run(node.endless_task)
    async for event in running.stream_events():
        if isinstance(event, AgentStream) and event.delta:
            break
    await asyncio.to_thread(node.until_busy)
    await running.cancel_run()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.to_thread(node.until_idle)
    return "left"


def refusal(node: Any, ask: Callable[[], Any]) -> Any:
    before = node.answered(404)
    try:
        ask()
    except Exception as error:  # noqa: BLE001  of which type it is is what is asked
        kind = type(error)
        times = node.answered(404) - before
        return {"error": f"{kind.__module__}.{kind.__name__}", "message": str(error), "times": times}
    raise AssertionError("it was answered")


def unknown_model(kind: str, node: Any) -> Any:
    return refusal(node, lambda: MAKE[kind](node, node.unknown_model).complete(node.text_task))


def streamed_unknown_model(kind: str, node: Any) -> Any:
    return refusal(node, lambda: list(MAKE[kind](node, node.unknown_model).stream_complete(node.text_task)))


def shown(node: Any) -> Any:
    """How large the context is, which it asks the node for where nobody has said it."""
    return ollama(node).metadata.context_window


def embeddings(node: Any) -> Any:
    headers = {"headers": {"Authorization": f"Bearer {node.key}"}}
    made = OllamaEmbedding(model_name=node.model, base_url=node.url, client_kwargs=headers)
    several = made.get_text_embedding_batch(["one", "two"])
    return {"lengths": [len(vector) for vector in several], "same": made.get_text_embedding("one") == several[0]}


EACH = (
    text,
    stream,
    tools,
    streamed_tools,
    structured_llm,
    structured_predict,
    cancel_stream,
    cancel_async,
    cancel_whole,
    cancel_agent,
    unknown_model,
    streamed_unknown_model,
)
CELLS = {
    **{f"{kind} {cell.__name__}": partial(cell, kind) for kind in MAKE for cell in EACH},
    "openai_like structured_by_format": structured_by_format,
    "shown": shown,
    "embeddings": embeddings,
}
