"""LangChain's `ChatOpenAI` over chat completions and over Responses, and its `OpenAIEmbeddings`."""

from __future__ import annotations

from functools import partial
from typing import Any

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from with_langchain import EVERY, structured

METHODS = {"chat": ("json_schema", "function_calling", "json_mode"), "responses": ("json_schema", "function_calling")}


def model(api: str, node: Any, name: str | None = None) -> ChatOpenAI:
    return ChatOpenAI(
        model=name or node.model,
        base_url=node.base_url,
        api_key=node.key,
        stream_usage=True,
        use_responses_api=api == "responses",
    )


def embeddings(node: Any) -> Any:
    # By default it makes tokens of the texts itself, by the vocabulary of OpenAI's models, which it fetches.
    made = OpenAIEmbeddings(
        model=node.model, base_url=node.base_url, api_key=node.key, check_embedding_ctx_length=False
    )
    several = made.embed_documents(["one", "two"])
    return {"lengths": [len(vector) for vector in several], "same": made.embed_query("one") == several[0]}


CELLS = {
    **{f"{api} {cell.__name__}": partial(cell, partial(model, api)) for api in METHODS for cell in EVERY},
    **{
        f"{api} structured {method}": partial(structured, partial(model, api), method)
        for api, methods in METHODS.items()
        for method in methods
    },
    "embeddings": embeddings,
}
