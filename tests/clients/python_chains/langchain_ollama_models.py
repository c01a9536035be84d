"""LangChain's `ChatOllama`, `OllamaLLM` and `OllamaEmbeddings` at a node's Ollama API."""

from __future__ import annotations

from functools import partial
from typing import Any

from langchain.agents import create_agent
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from with_langchain import EVERY, City, get_weather, refusal, structured


def with_key(node: Any) -> dict[str, Any]:
    return {"base_url": node.url, "client_kwargs": {"headers": {"Authorization": f"Bearer {node.key}"}}}


def model(node: Any, name: str | None = None, **more: Any) -> ChatOllama:
    return ChatOllama(model=name or node.model, **with_key(node), **more)


def agent(node: Any) -> Any:
    """LangChain's own loop, and its own way to an object: a call that it adds to the tools."""
    turns = create_agent(model(node), [get_weather]).invoke({"messages": [("user", node.tool_task)]})["messages"]
    cities = [call["args"]["city"] for turn in turns for call in getattr(turn, "tool_calls", ())]
    made = create_agent(model(node), [], response_format=City).invoke({"messages": [("user", node.object_task)]})
    return {"cities": cities, "text": turns[-1].text, "value": made["structured_response"].model_dump()}


def prompt(node: Any) -> Any:
    llm = OllamaLLM(model=node.model, **with_key(node))
    return {"text": llm.invoke(node.text_task), "pieces": list(llm.stream(node.text_task))}


def validated(node: Any) -> Any:
    """`validate_model_on_init` looks for the name in the list of models."""
    known = model(node, validate_model_on_init=True).invoke(node.text_task).text
    unknown = refusal(node, 404, lambda: model(node, node.unknown_model, validate_model_on_init=True))
    return {"text": known, "unknown": unknown}


def without_key(node: Any) -> Any:
    return refusal(node, 401, lambda: ChatOllama(model=node.model, base_url=node.url).invoke(node.text_task))


def embeddings(node: Any) -> Any:
    made = OllamaEmbeddings(model=node.model, **with_key(node))
    several = made.embed_documents(["one", "two"])
    return {"lengths": [len(vector) for vector in several], "same": made.embed_query("one") == several[0]}


METHODS = ("json_schema", "function_calling", "json_mode")
CELLS = {
    **{f"ollama {cell.__name__}": partial(cell, model) for cell in EVERY},
    **{f"ollama structured {method}": partial(structured, model, method) for method in METHODS},
    **{cell.__name__: cell for cell in (agent, prompt, validated, without_key, embeddings)},
}
