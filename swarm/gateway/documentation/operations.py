"""Every route for clients, documented: one entry each. A route without an entry fails `test_every_route_is_documented`.

A route's twin without `/v1` needs none. Routes between nodes and the pages under /docs are not for clients.
"""

from __future__ import annotations

from typing import Final

from swarm.gateway.documentation.answers import (
    Alive,
    ChatCompletion,
    EmbeddingList,
    FederationView,
    ModelEntry,
    ModelListing,
    NotReady,
    OpenApiDocument,
    TextCompletion,
)
from swarm.gateway.documentation.operation import Operation
from swarm.gateway.schemas import ChatCompletionBody, CompletionBody, EmbeddingBody
from swarm.generation import JsonObject

SSE: Final = "text/event-stream"
PROMETHEUS: Final = "text/plain"
ANSWERS, MODELS, NODE = "Answers", "Models", "Node"

HELLO: JsonObject = {"model": "swarm", "messages": [{"role": "user", "content": "Calculate 12 + 7 - 3"}]}
ONCE: JsonObject = {"model": "swarm", "prompt": "Once upon a time", "max_tokens": 40}
EMBED: JsonObject = {"model": "swarm", "input": ["a text", "another text"]}

OPERATIONS: Final = (
    Operation(
        "post", "/v1/chat/completions", "Answer a conversation, by a vote where one can be right", ANSWERS,
        ChatCompletion, ChatCompletionBody, SSE, example=HELLO,
    ),
    Operation(
        "post", "/v1/completions", "Continue a text", ANSWERS, TextCompletion, CompletionBody, SSE, example=ONCE
    ),
    Operation("post", "/v1/embeddings", "A vector for each text", ANSWERS, EmbeddingList, EmbeddingBody, example=EMBED),
    Operation("get", "/v1/models", "Every model that this node or a peer serves", MODELS, ModelListing),
    Operation("get", "/v1/models/{id}", "One model", MODELS, ModelEntry),
    Operation("get", "/livez", "Does the process answer?", NODE, Alive),
    Operation("get", "/readyz", "Can a model be reached?", NODE, Alive, others={503: NotReady}),
    Operation("get", "/health", "The same as /readyz", NODE, Alive, others={503: NotReady}),
    Operation("get", "/v1/health", "The same as /readyz", NODE, Alive, others={503: NotReady}),
    Operation("get", "/v1/federation/health", "The swarm as this node sees it", NODE, FederationView),
    Operation("get", "/metrics", "Counters for Prometheus", NODE, streams=PROMETHEUS),
    Operation("get", "/openapi.json", "This document", NODE, OpenApiDocument),
)  # fmt: skip
