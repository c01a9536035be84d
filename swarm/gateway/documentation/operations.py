"""Every route for clients, documented: one entry each. A route without an entry fails `test_every_route_is_documented`.

A route's twin without `/v1` needs none. Routes between nodes and the pages under /docs are not for clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from swarm.control_messages import (
    InviteBody,
    JoinBody,
    Joined,
    KnownNodes,
    RevokeBody,
    Revoked,
    WithdrawBody,
    Withdrawn,
)
from swarm.gateway.anthropic.bodies import MessagesBody, PromptBody
from swarm.gateway.documentation.answer_bodies import (
    Alive,
    AnthropicErrorBody,
    AnthropicMessage,
    AppliedTemplate,
    Cancelled,
    ChatCompletion,
    ChatInputTokens,
    DetokenizedText,
    EmbeddingList,
    ErrorBody,
    ExecutedTool,
    InputTokens,
    McpAnswers,
    McpRefusal,
    ModelEntry,
    ModelListing,
    ModelManaged,
    ModelProperties,
    NotReady,
    OpenApiDocument,
    PlainAnswer,
    PlainVectors,
    Reranking,
    Response,
    SlotList,
    Start,
    TextCompletion,
    TokenList,
    ToolListing,
)
from swarm.gateway.documentation.document import SSE, Operation
from swarm.gateway.documentation.ollama_answers import (
    OllamaChanged,
    OllamaChatAnswer,
    OllamaErrorBody,
    OllamaPulled,
    OllamaShown,
    OllamaTags,
    OllamaText,
    OllamaVector,
    OllamaVectors,
    OllamaVersion,
)
from swarm.gateway.http.access import (
    LOGS_PATH,
    MCP_PATH,
    PAGE_PATH,
    PERFORMANCE_PATH,
    PULLS_PATH,
    REQUESTS_PATH,
    STORED_PATH,
    TOOLS_PATH,
    TRUST_PATH,
    USAGE_PATH,
    VOTES_PATH,
)
from swarm.gateway.llama.endpoints import PlainEmbeddingBody
from swarm.gateway.llama.plain_form import PlainCompletionBody
from swarm.gateway.observing.log_lines import LogListing
from swarm.gateway.observing.performance import PerformanceView
from swarm.gateway.observing.usage import UsageListing
from swarm.gateway.observing.view import FederationView, RequestListing
from swarm.gateway.observing.vote_history import VoteInFull, VoteListing
from swarm.gateway.ollama.bodies import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaNamedBody,
)
from swarm.gateway.ollama.modelfiles import OllamaCreateBody
from swarm.gateway.openai.bodies import ChatCompletionBody, CompletionBody, EmbeddingBody
from swarm.gateway.openai.utility_calls import DetokenizeBody, InfillBody, RerankBody, TemplateBody, TokenizeBody
from swarm.gateway.page.models import StoredListing
from swarm.gateway.page.ollama_management import OllamaCopyBody, OllamaPullBody
from swarm.gateway.page.pulls import PullBody, PullEntry, PullListing
from swarm.gateway.page.rights import EndBody, EndedBody, InvitedWithQr, OwnerBody, OwnerSessionBody, PageRights
from swarm.gateway.peers.management import LoadBody, PinBody, UnloadBody
from swarm.gateway.responses.bodies import ResponsesBody
from swarm.gateway.tools.endpoints import ExecuteBody, McpMessage
from swarm.generation import JsonObject

PROMETHEUS: Final = "text/plain"
PAGE: Final = "text/html"
ANSWERS, TEXTS, MODELS, NODE = "Answers", "Texts and tokens", "Models", "Node"
MANAGEMENT, OWNER, TOOLS, OLLAMA = "Management", "For the owner", "Tools", "Ollama's API"
NDJSON: Final = "application/x-ndjson"

HELLO: JsonObject = {"model": "swarm", "messages": [{"role": "user", "content": "Calculate 12 + 7 - 3"}]}
ONCE: JsonObject = {"model": "swarm", "prompt": "Once upon a time", "max_tokens": 40}
EMBED: JsonObject = {"model": "swarm", "input": ["a text", "another text"]}
RESPOND: JsonObject = {"model": "swarm", "input": "Calculate 12 + 7 - 3"}
MESSAGES: JsonObject = {**HELLO, "max_tokens": 40}
CONTINUE: JsonObject = {"prompt": "Once upon a time", "n_predict": 40}
MIDDLE: JsonObject = {"input_prefix": "def add(a, b):\n    ", "input_suffix": "\n", "n_predict": 40}
RANK: JsonObject = {"query": "a pet", "documents": ["a cat", "a car"]}
INITIALIZE: JsonObject = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25"},
}
# What a call without a body may be refused with, where it asks a model.
OF_ASKING: Mapping[int, type[BaseModel]] = dict.fromkeys((404, 500, 502, 503, 504), ErrorBody)

OPERATIONS: Final = (
    Operation(
        "post", "/v1/chat/completions", "Answer a conversation, by a vote where one can be right", ANSWERS,
        ChatCompletion, ChatCompletionBody, SSE, example=HELLO,
    ),
    Operation(
        "post", "/v1/completions", "Continue a text", ANSWERS, TextCompletion, CompletionBody, SSE, example=ONCE
    ),
    Operation(
        "post", "/v1/responses", "Answer in OpenAI's Responses form; nothing is kept", ANSWERS,
        Response, ResponsesBody, SSE, example=RESPOND,
    ),
    Operation(
        "post", "/v1/messages", "Answer in Anthropic's form; claude-... is `swarm` where no node has it", ANSWERS,
        AnthropicMessage, MessagesBody, SSE, errors=AnthropicErrorBody, example=MESSAGES,
    ),
    Operation(
        "post", "/v1/messages/count_tokens", "The tokens of a prompt in Anthropic's form", TEXTS,
        InputTokens, PromptBody, errors=AnthropicErrorBody, example=HELLO,
    ),
    Operation(
        "post", "/v1/infill", "Fill in the middle, where the model can", ANSWERS,
        PlainAnswer, InfillBody, SSE, example=MIDDLE,
    ),
    Operation(
        "post", "/v1/completion", "Continue a text, in llama.cpp's own form", ANSWERS,
        PlainAnswer, PlainCompletionBody, SSE, example=CONTINUE,
    ),
    Operation(
        "post", "/v1/embedding", "A vector for each text, in llama.cpp's own form", TEXTS,
        PlainVectors, PlainEmbeddingBody, example={"content": "a text"},
    ),
    Operation(
        "post", "/v1/chat/completions/input_tokens", "The tokens of a conversation", TEXTS,
        ChatInputTokens, TemplateBody, example=HELLO,
    ),
    Operation("post", "/v1/tokenize", "A text's tokens", TEXTS, TokenList, TokenizeBody, example={"content": "a text"}),
    Operation(
        "post", "/v1/detokenize", "The text of tokens", TEXTS, DetokenizedText, DetokenizeBody,
        example={"tokens": [1, 2]},
    ),
    Operation(
        "post", "/v1/apply-template", "A chat as the text that the model sees", TEXTS,
        AppliedTemplate, TemplateBody, example=HELLO,
    ),
    Operation(
        "post", "/v1/rerank", "Documents by how well they answer a query, where the model can", TEXTS,
        Reranking, RerankBody, example=RANK,
    ),
    Operation("post", "/v1/reranking", "The same as /v1/rerank", TEXTS, Reranking, RerankBody, example=RANK),
    Operation("post", "/v1/embeddings", "A vector for each text", ANSWERS, EmbeddingList, EmbeddingBody, example=EMBED),
    Operation(
        "get", "/v1/models",
        "Every model of this node and its peers, loaded or not; with `anthropic-version` in Anthropic's form",
        MODELS, ModelListing,
    ),
    Operation("get", "/v1/models/{id}", "One model, by any of its names", MODELS, ModelEntry),
    Operation(
        "get", "/v1/props", "Facts of the model that ?model= names, else of `swarm`", MODELS, ModelProperties,
        others=OF_ASKING,
    ),
    Operation("post", "/v1/props", "Always refused: settings are given where the node is started", MODELS),
    Operation(
        "post", "/api/chat", "A conversation's next turn, in Ollama's form", OLLAMA,
        OllamaChatAnswer, OllamaChatBody, NDJSON, errors=OllamaErrorBody, example={**HELLO, "stream": False},
    ),
    Operation(
        "post", "/api/generate", "Answer a prompt, or continue a text, in Ollama's form", OLLAMA,
        OllamaText, OllamaGenerateBody, NDJSON, errors=OllamaErrorBody,
        example={"model": "swarm", "prompt": "Once upon a time", "stream": False},
    ),
    Operation(
        "post", "/api/embed", "A vector for each text, in Ollama's form", OLLAMA,
        OllamaVectors, OllamaEmbedBody, errors=OllamaErrorBody, example=EMBED,
    ),
    Operation(
        "post", "/api/embeddings", "A vector for one text, in Ollama's older form", OLLAMA,
        OllamaVector, OllamaEmbeddingsBody, errors=OllamaErrorBody, example={"model": "swarm", "prompt": "a text"},
    ),
    Operation("get", "/api/tags", "Every model, in Ollama's form", OLLAMA, OllamaTags, errors=OllamaErrorBody),
    Operation(
        "post", "/api/show", "One model, by any of its names, in Ollama's form", OLLAMA,
        OllamaShown, OllamaNamedBody, errors=OllamaErrorBody, example={"model": "swarm"},
    ),
    Operation("get", "/api/ps", "The loaded models, in Ollama's form", OLLAMA, OllamaTags, errors=OllamaErrorBody),
    Operation("get", "/api/version", "The version of Ollama's API", OLLAMA, OllamaVersion, errors=OllamaErrorBody),
    Operation(
        "post", "/api/pull", "Bring a model to this node's disk, in Ollama's form", MANAGEMENT,
        OllamaPulled, OllamaPullBody, NDJSON, errors=OllamaErrorBody, example={"model": "qwen3:4b"},
    ),
    Operation(
        "post", "/api/copy", "Call a model by a second name, in Ollama's form", MANAGEMENT,
        OllamaChanged, OllamaCopyBody, errors=OllamaErrorBody,
        example={"source": "qwen3:4b", "destination": "gpt-4o-mini"},
    ),
    Operation(
        "delete", "/api/delete", "Remove a model from this node's disk, or a second name, in Ollama's form", MANAGEMENT,
        OllamaChanged, OllamaNamedBody, errors=OllamaErrorBody, example={"model": "qwen3:4b"},
    ),
    Operation(
        "post", "/api/create", "Always refused, with where a node has what is asked for", OLLAMA,
        None, OllamaCreateBody, errors=OllamaErrorBody, example={"model": "mario", "from": "qwen3:4b"},
    ),
    Operation(
        "get", "/api/blobs/{digest}", "Always refused: no file is there by its hash", OLLAMA, errors=OllamaErrorBody,
        others={404: OllamaErrorBody},
    ),
    Operation(
        "post", "/api/blobs/{digest}", "Always refused: files are not sent to a node", OLLAMA, errors=OllamaErrorBody
    ),
    Operation("post", "/api/push", "Always refused: models are not published here", OLLAMA, errors=OllamaErrorBody),
    Operation(
        "get", "/v1/slots", "This node's slots, or those of ?model=, as llama-server tells its own", NODE, SlotList,
        others={404: ErrorBody, 503: ErrorBody},
    ),
    Operation("post", "/v1/slots/{slot}", "Always refused: a node keeps what its slots have read itself", TEXTS),
    Operation("get", "/v1/lora-adapters", "Always refused: there are no adapters", TEXTS, others={404: ErrorBody}),
    Operation("post", "/v1/lora-adapters", "Always refused: there are no adapters", TEXTS, others={404: ErrorBody}),
    Operation("get", "/api/v0/{path}", "Always refused: LM Studio's API is not built", TEXTS, errors=OllamaErrorBody),
    Operation("post", "/api/v0/{path}", "Always refused: LM Studio's API is not built", TEXTS, errors=OllamaErrorBody),
    Operation("post", "/v1/audio/{path}", "Always refused: no model hears or speaks", TEXTS),
    Operation("post", "/v1/images/{path}", "Always refused: no model draws", TEXTS),
    Operation(
        "get", TOOLS_PATH, "The tools that this node executes, where it was started with some", TOOLS, ToolListing,
        others={404: ErrorBody},
    ),
    Operation(
        "post", TOOLS_PATH + "/execute", "Execute a tool; one that fails is a 200 with its exit code", TOOLS,
        ExecutedTool, ExecuteBody, example={"tool": "read", "arguments": {"path": "README.md"}},
    ),
    Operation(
        "post", MCP_PATH, "The same tools by the Model Context Protocol, 2026-07-28 and the older ones", TOOLS,
        McpAnswers, McpMessage, others={400: McpRefusal, 404: McpRefusal}, example=INITIALIZE, accepts=True,
    ),
    Operation("get", "/", "What this is and where to go: a page for browsers, else JSON", NODE, Start, streams=PAGE),
    Operation("get", "/livez", "Does the process answer?", NODE, Alive),
    Operation("get", "/readyz", "Is this node ready to be asked?", NODE, Alive, others={503: NotReady}),
    Operation("get", "/health", "The same as /readyz", NODE, Alive, others={503: NotReady}),
    Operation("get", "/v1/health", "The same as /readyz", NODE, Alive, others={503: NotReady}),
    Operation("get", "/v1/federation/health", "The swarm as this node sees it", NODE, FederationView),
    Operation(
        "get", "/v1/events", "What changes here and in the swarm: a snapshot, then changes, of ?parts=view,node", NODE,
        streams=SSE,
    ),
    Operation("get", "/metrics", "Counters for Prometheus", NODE, streams=PROMETHEUS),
    Operation("get", "/openapi.json", "This document", NODE, OpenApiDocument),
    Operation(
        "get", VOTES_PATH, "The last votes that this node coordinated, without their words, the newest first", NODE,
        VoteListing,
    ),
    Operation(
        "get", VOTES_PATH + "/{id}", "One vote; the words of its answers for those who manage the node", NODE,
        VoteInFull,
    ),
    Operation(
        "get", PERFORMANCE_PATH, "How quickly answers came in the last hour, by minute, node and model", NODE,
        PerformanceView,
    ),
    Operation(
        "get", USAGE_PATH, "What each API key used of this node, by UTC day, and its limits", MANAGEMENT, UsageListing
    ),
    Operation(
        "get", LOGS_PATH, "The last 1,000 log lines; ?level=, text=, after= and limit= pick some", MANAGEMENT,
        LogListing,
    ),
    Operation("get", REQUESTS_PATH, "The requests in progress", MANAGEMENT, RequestListing),
    Operation("post", REQUESTS_PATH + "/{id}/cancel", "End a request in progress", MANAGEMENT, Cancelled),
    Operation(
        "post", "/v1/models/load", "Load a model, here or on the node that is named; answered when it is ready",
        MANAGEMENT, ModelManaged, LoadBody, example={"model": "demo:b"},
    ),
    Operation(
        "post", "/v1/models/unload", "Unload a model, when it has finished what it runs", MANAGEMENT,
        ModelManaged, UnloadBody, example={"model": "demo:b"},
    ),
    Operation(
        "post", "/v1/models/pin", "Load a model and keep it loaded, or let it make room again", MANAGEMENT,
        ModelManaged, PinBody, example={"model": "demo:b", "pinned": True},
    ),
    Operation(
        "get", STORED_PATH,
        "What lies on this node's disk, or on that of ?node=, and which models of the catalogue would fit",
        MANAGEMENT, StoredListing,
    ),
    Operation("get", PULLS_PATH, "The models on their way to a disk", MANAGEMENT, PullListing),
    Operation(
        "post", PULLS_PATH, "Bring a model to this node's disk, or to another's; answered at once", MANAGEMENT,
        PullEntry, PullBody, example={"model": "qwen3:4b"},
    ),
    Operation("post", PULLS_PATH + "/{id}/cancel", "End a pull; what has arrived is kept", MANAGEMENT, PullEntry),
    Operation("get", PAGE_PATH, "What its caller may do here, and how to get more", OWNER, PageRights),
    Operation(
        "post", PAGE_PATH + "/owner", "The session that a link of `swarm page` opens, once", OWNER,
        OwnerSessionBody, OwnerBody, example={"token": "what stands behind #owner="},
    ),
    Operation(
        "post", PAGE_PATH + "/owner/end", "End this session, or all of them", OWNER,
        EndedBody, EndBody, example={"all": False},
    ),
    Operation("get", TRUST_PATH + "/peers", "The members of the swarm, and the codes that are good", OWNER, KnownNodes),
    Operation(
        "post", TRUST_PATH + "/invite", "A code with which other nodes may join", OWNER,
        InvitedWithQr, InviteBody, example={"uses": 1},
    ),
    Operation(
        "post", TRUST_PATH + "/join", "Have this node join the swarm that gave a code", OWNER,
        Joined, JoinBody, example={"code": "swarm1..."},
    ),
    Operation(
        "post", TRUST_PATH + "/revoke", "Put a node out; its own id makes this one leave", OWNER,
        Revoked, RevokeBody, example={"who": "study"},
    ),
    Operation(
        "post", TRUST_PATH + "/withdraw", "End a code: by its text, its id, or `all`", OWNER,
        Withdrawn, WithdrawBody, example={"code": "all"},
    ),
)  # fmt: skip
