"""The bodies of answers in Anthropic's, llama.cpp's and OpenAI's Responses form, for the document alone.

As in `answers.py` a field with a default may be missing, and fields that are not named here may come along.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, RootModel

from federation.advertisement import Capabilities
from swarm.gateway.documentation.answers import EmbeddingUsage, SwarmReport


class ResponseUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: str


class Response(BaseModel):
    """A whole response. With `stream: true` it comes as OpenAI's events instead, the last `response.completed`.

    The items of `output` are of type message, function_call or reasoning. Nothing is kept to be fetched later.
    """

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage | None
    swarm: SwarmReport | None = None


class MessageUsage(BaseModel):
    """`input_tokens` are those that were not read from the cache."""

    input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicMessage(BaseModel):
    """A whole message. With `stream: true` it comes as Anthropic's events instead.

    The blocks of `content` are of type text, tool_use or thinking.
    """

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "tool_use", "refusal"] | None
    stop_sequence: str | None
    usage: MessageUsage
    swarm: SwarmReport | None = None


class InputTokens(BaseModel):
    input_tokens: int


class AnthropicErrorDetail(BaseModel):
    type: str
    message: str


class AnthropicErrorBody(BaseModel):
    """Every refusal and failure, in Anthropic's form."""

    type: Literal["error"]
    error: AnthropicErrorDetail


class TokenPiece(BaseModel):
    """`piece` is a list of bytes where the token is no whole character."""

    id: int
    piece: str | list[int]


class TokenList(BaseModel):
    """Numbers, or with `with_pieces` objects."""

    tokens: list[int] | list[TokenPiece]


class DetokenizedText(BaseModel):
    content: str


class AppliedTemplate(BaseModel):
    """The chat as the text that the model sees."""

    prompt: str


class RankedText(BaseModel):
    text: str


class RankedDocument(BaseModel):
    """`index` is the document's place in the request."""

    index: int
    relevance_score: float
    document: RankedText | None = None


class RerankResults(BaseModel):
    object: Literal["list"]
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage


class ScoredText(BaseModel):
    index: int
    score: float
    text: str | None = None


class Reranking(RootModel[RerankResults | list[ScoredText]]):
    """Best first. Where the request had `texts` for `documents`, the list of text-embeddings-inference."""


class GenerationDefaults(BaseModel):
    n_ctx: int


class PropertiesInTheSwarm(BaseModel):
    """The node that answered, and what can be asked of the model there."""

    node: str
    slots_free: int
    can: Capabilities


class ModelProperties(BaseModel):
    """Facts of a model, with llama.cpp's names for them."""

    model_alias: str
    total_slots: int
    default_generation_settings: GenerationDefaults
    chat_template: str
    bos_token: str
    eos_token: str
    swarm: PropertiesInTheSwarm


class Infill(BaseModel):
    """What belongs at the caret, in llama.cpp's form. With `stream: true` it comes as events instead."""

    content: str
    stop: bool
    stop_type: Literal["eos", "limit"]
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    swarm: SwarmReport | None = None
