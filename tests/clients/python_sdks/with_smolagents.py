"""smolagents: agents that call tools and agents that write code, and the model below them. All of it blocks."""

from __future__ import annotations

import gc
import json
from functools import partial
from typing import Any

from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool
from smolagents.models import ChatMessageStreamDelta, agglomerate_stream_deltas
from smolagents.utils import AgentGenerationError

AGENTS: Any = {
    "calls": ToolCallingAgent,
    "code": CodeAgent,
    "code-by-schema": partial(CodeAgent, use_structured_outputs_internally=True),
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "City", "schema": SCHEMA, "strict": True}}


def model(node: Any, name: str | None = None) -> OpenAIModel:
    """As users are told to make it."""
    return eval(node.written("smolagents", 0, name), {"OpenAIModel": OpenAIModel})


def agent(kind: str, node: Any, name: str | None = None, **more: Any) -> tuple[Any, list[str]]:
    cities: list[str] = []

    @tool
    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: its name
        """
        cities.append(city)
        return f"sunny in {city}"

    return AGENTS[kind](tools=[get_weather], model=model(node, name), **more), cities


def said(text: str) -> Any:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def text(kind: str, node: Any) -> Any:
    one, _ = agent(kind, node)
    answer = one.run(node.text_task)
    again = one.run("Thank you.", reset=False)
    return {"text": answer, "again": again, "output_tokens": one.monitor.total_output_token_count}


def stream(kind: str, node: Any) -> Any:
    one, _ = agent(kind, node, stream_outputs=True)
    events = list(one.run(node.text_task, stream=True))
    deltas = [event for event in events if isinstance(event, ChatMessageStreamDelta)]
    usages = [event.token_usage.output_tokens for event in deltas if event.token_usage]
    return {"streamed": len(deltas), "text": events[-1].output, "output_tokens": sum(usages)}


def tools(kind: str, node: Any) -> Any:
    one, cities = agent(kind, node)
    return {"text": one.run(node.tool_task), "cities": cities}


def streamed_tools(kind: str, node: Any) -> Any:
    one, cities = agent(kind, node, stream_outputs=True)
    return {"text": list(one.run(node.tool_task, stream=True))[-1].output, "cities": cities}


def abandoned_run(kind: str, node: Any) -> Any:
    one, _ = agent(kind, node, stream_outputs=True)
    events = one.run(node.endless_task, stream=True)
    next(event for event in events if isinstance(event, ChatMessageStreamDelta))
    node.until_busy()
    try:
        events.close()
    except RuntimeError as error:
        raised = str(error)
    del one, events
    gc.collect()  # its generator does not let itself be closed, and nothing else closes the connection
    node.until_idle()
    return raised


def unknown_model(kind: str, node: Any) -> Any:
    before = node.answered(404)
    try:
        agent(kind, node, node.unknown_model)[0].run(node.text_task)
    except AgentGenerationError as error:
        return {"error": type(error).__name__, "message": str(error), "times": node.answered(404) - before}


def busy(kind: str, node: Any) -> Any:
    before = node.answered(503)
    answer = agent(kind, node)[0].run(node.busy_task)
    return {"text": answer, "times": node.answered(503) - before}


def model_text(node: Any) -> Any:
    first = model(node).generate(said(node.text_task))
    again = model(node).generate([*said(node.text_task), first.dict(), *said("Thank you.")])
    return {"text": first.content, "again": again.content, "output_tokens": first.token_usage.output_tokens}


def model_stream(node: Any) -> Any:
    deltas = list(model(node).generate_stream(said(node.text_task)))
    whole = agglomerate_stream_deltas(deltas)
    return {"streamed": len(deltas), "text": whole.content, "output_tokens": whole.token_usage.output_tokens}


def model_structured(node: Any) -> Any:
    made = model(node).generate(said(node.object_task), response_format=FORMAT)
    return {"type": "City", "value": json.loads(made.content), "asked": node.last_asked()}


def model_cancel_stream(node: Any) -> Any:
    deltas = model(node).generate_stream(said(node.endless_task))
    next(deltas)
    node.until_busy()
    deltas.close()
    gc.collect()  # it leaves the connection to whoever collects its stream
    node.until_idle()
    return "left"


EACH = (text, stream, tools, streamed_tools, abandoned_run, unknown_model)
CELLS = {f"{kind} {cell.__name__}": partial(cell, kind) for kind in AGENTS for cell in EACH}
CELLS |= {
    "code busy": partial(busy, "code"),  # of what is voted on (calls, JSON), some voters always find a slot
    "model text": model_text,
    "model stream": model_stream,
    "model structured": model_structured,
    "model cancel_stream": model_cancel_stream,
}
