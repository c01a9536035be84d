"""The bodies of answers, for the document alone: the gateway writes them without pydantic, tests hold both together.

A field with a default may be missing; fields that are not named here may come along.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue

from swarm.gateway.documentation.swarm_report import SwarmReport
from swarm.gateway.http.access import PeersAccess
from swarm.generation import FinishReason


class ErrorDetail(BaseModel):
    """`param` names the field to blame. A prompt that is too long also gets its size and that of the context.

    A request over which an engine ended is told so by `died`, and for how long it is refused by `refused_for_s`.
    """

    message: str
    type: str
    code: str
    param: str | None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None
    died: bool | None = None
    refused_for_s: int | None = None


class ErrorBody(BaseModel):
    """Every refusal and failure, in OpenAI's form."""

    error: ErrorDetail


class CachedTokens(BaseModel):
    cached_tokens: int


class UsageCount(BaseModel):
    """Tokens of the prompt, counted once, and of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CalledFunction(BaseModel):
    """`arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str


class CalledTool(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    """The assistant's turn; `content` is null where there are only tool calls."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: JsonValue
    finish_reason: FinishReason


class TextChoice(BaseModel):
    """`swarm` is here, and not beside the choices, where one request had several prompts."""

    index: int
    text: str
    logprobs: JsonValue
    finish_reason: FinishReason
    swarm: SwarmReport | None = None


class ChatCompletion(BaseModel):
    """A whole answer. With `stream: true` it comes as events instead, `chat.completion.chunk` each."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageCount
    swarm: SwarmReport | None = None


class TextCompletion(BaseModel):
    """A whole continuation. With `stream: true` it comes as events instead."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageCount
    swarm: SwarmReport | None = None


class EmbeddingVector(BaseModel):
    """`embedding` is base64 of little-endian float32 where the request says so."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingVector]
    model: str
    usage: EmbeddingUsage


class ModelEntry(BaseModel):
    """A model that this node or a peer serves. `nodes` are those that do."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    nodes: list[str]


class ModelListing(BaseModel):
    object: Literal["list"]
    data: list[ModelEntry]


class RequestEntry(BaseModel):
    """A request in progress. `id` is its X-Request-Id; `from`: whether a client or another node asked."""

    id: str
    path: str
    from_: Annotated[Literal["client", "node"], Field(alias="from")]
    running_s: float


class RequestListing(BaseModel):
    object: Literal["list"]
    data: list[RequestEntry]


class Cancelled(BaseModel):
    """How many requests with this id were ended: more than one where clients give the same."""

    id: str
    cancelled: int


class Alive(BaseModel):
    status: Literal["ok"]


class NotReady(BaseModel):
    """Why the node cannot answer now."""

    status: Literal["unavailable"]
    reason: str


class NodeEntry(BaseModel):
    id: str
    name: str
    version: str
    url: str
    mode: str


class PeerEntry(BaseModel):
    """A peer as this node sees it: `state` is alive, suspect or dead."""

    id: str
    name: str
    url: str
    state: str
    models: list[str]
    rtt_ms: float | None
    last_seen_s: float
    slots_free: int
    source: str


class ChangeEntry(BaseModel):
    """A change of one peer, `state` the new one; `times` counts the same one within a minute, `at` the last."""

    at: str
    peer: str
    id: str
    state: str
    reason: str
    times: int


class UpstreamEntry(BaseModel):
    """The server that this node may ask beside nodes: `reach` is machine, network or internet."""

    host: str
    mode: str
    reach: str
    model: str | None
    models: int
    requests: int
    problem: str | None


class RejectedEntry(BaseModel):
    """An address that was proposed and leads to no peer.

    `why` is one of: down, no node, other version, itself, copied identity, leaving, full, untrusted.
    """

    address: str
    source: str
    why: str
    reason: str


class NameEntry(BaseModel):
    """A host name given with `--peer`, and the addresses it stood for when last looked up."""

    name: str
    addresses: list[str]
    problem: str | None


class SourceEntry(BaseModel):
    """A source of peers beside `--peer`, and why it does not work now."""

    source: str
    problem: str | None


class MemberEntry(BaseModel):
    """A member of this paired swarm."""

    id: str
    name: str


class TrustEntry(BaseModel):
    """Who may be a peer: `mode` is open or paired. `problem`: this node was put out of its swarm.

    `absent` are members not seen since this node started, or lost and forgotten since.
    """

    mode: str
    problem: str | None
    absent: list[MemberEntry]


class AccessEntry(BaseModel):
    """Who may do what here; `docs/trust.md` has the table.

    `peers`: who may ask as a node. nobody: this node has a key, and no members; none: it is in no federation.
    """

    api: Literal["anyone", "key"]
    peers: PeersAccess
    management: Literal["this machine", "this machine or admin key"]


class FederationView(BaseModel):
    """The swarm as this node sees it. `models` says which nodes serve each model."""

    status: str
    node: NodeEntry
    trust: TrustEntry
    access: AccessEntry
    peers: list[PeerEntry]
    changes: list[ChangeEntry]
    rejected: list[RejectedEntry]
    names: list[NameEntry]
    sources: list[SourceEntry]
    models: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    upstream: UpstreamEntry | None = None


class OpenApiDocument(BaseModel):
    """This document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
