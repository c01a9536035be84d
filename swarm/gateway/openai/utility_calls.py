"""Calls that generate nothing (tokens, templates, vectors, ranks, facts): their bodies, and how each is run.

`tokenize(body)` and the like make a `UtilityCall`, which this node's engine runs, or a peer: what travels is the
client's own body with a model that the replica serves, back comes the engine's answer. `PEER_UTILITIES` are those that
a peer may ask for. In bodies of llama.cpp's users and retrieval tools no model means the alias.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Annotated, Any, TypeVar, cast

from aiohttp import web
from pydantic import BaseModel, Field, TypeAdapter, field_validator, model_validator

from swarm.engines.engine import (
    Capabilities,
    Embeddings,
    Engine,
    LoadedModel,
    Ranking,
    Tokens,
    refuse_too_long,
    refuse_too_long_texts,
)
from swarm.engines.openai_dialect import request_body
from swarm.errors import BadRequest
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.http.bodies import Part, off_loop, read_body
from swarm.gateway.http.keys import CONDITION, DISPATCHER
from swarm.gateway.openai.bodies import (
    MAX_EXTRA_TEXTS,
    MAX_INT,
    Body,
    ChatCompletionBody,
    EmbeddingBody,
    ModelOrSwarm,
    PositiveInt,
    Sampling,
)
from swarm.generation import ExtraText, GenerationRequest, JsonObject, prompt_chars
from swarm.images import asks_about_images
from swarm.routing.replica_client import shown_to
from swarm.routing.replicas import SWARM_ALIAS, Replica
from swarm.routing.utilities import EMBED, READ, RERANK, SEE, TOKENS, UtilityCall, has_bytes

MAX_CONTENT_BYTES = 2**20  # at worst a token a byte: 7 MB of numbers, which still is one line between nodes
MAX_PIECES_BYTES = 2**18  # with its text each token takes four times as much
MAX_TOKENS = 2**18  # to turn back into text at once
MAX_DOCUMENTS = 1024  # to rank in one request; retrieval tools send 10 to 100
UTILITY_DEADLINE_S = 120.0  # for one call: 32 texts of 512 tokens on a slow machine
BATCH = 32  # texts per engine call: 131,072 numbers to parse at 4,096 a vector, some 50 ms of the event loop
TOKEN_BYTES = 8  # of a token's number as text
MAX_VECTOR = 65_536  # numbers in one; the largest models have 8,192
TEXT = TypeAdapter(str)
COUNT = TypeAdapter(int)
EMBEDDINGS = TypeAdapter(Embeddings)
RANKING = TypeAdapter(Ranking)
A = TypeVar("A")


class TokenizeBody(Body):
    """`POST /tokenize`."""

    model: ModelOrSwarm = SWARM_ALIAS
    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False

    @field_validator("content")
    @classmethod
    def _valid(cls, content: str) -> str:
        size_bytes = len(content.encode("utf-8", "surrogatepass"))
        if size_bytes > MAX_CONTENT_BYTES:
            raise ValueError(f"{size_bytes} bytes; at most {MAX_CONTENT_BYTES} are taken at once: split it")
        return content

    @model_validator(mode="after")
    def _few_pieces(self) -> TokenizeBody:
        if self.with_pieces and len(self.content.encode("utf-8", "surrogatepass")) > MAX_PIECES_BYTES:
            raise ValueError(f"with_pieces takes at most {MAX_PIECES_BYTES} bytes of content: split it")
        return self


class DetokenizeBody(Body):
    """`POST /detokenize`."""

    model: ModelOrSwarm = SWARM_ALIAS
    tokens: Annotated[list[Annotated[int, Field(ge=0, le=MAX_INT)]], Field(max_length=MAX_TOKENS, fail_fast=True)]


class TemplateBody(ChatCompletionBody):
    """`POST /apply-template`: a chat, of which messages and tools matter."""

    model: ModelOrSwarm = SWARM_ALIAS


class PropsBody(Body):
    """The query of `GET /props`."""

    model: ModelOrSwarm = SWARM_ALIAS


class DocumentText(Part):
    text: str


Documents = Annotated[list[str | DocumentText], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]


class RerankBody(Body):
    """`POST /v1/rerank`: Jina's and Cohere's names, or those of text-embeddings-inference (`texts`, `return_text`)."""

    model: ModelOrSwarm = SWARM_ALIAS
    query: Annotated[str, Field(min_length=1)]
    documents: Documents | None = None
    texts: Documents | None = None
    top_n: PositiveInt | None = None
    return_documents: bool | None = None
    return_text: bool | None = None

    @model_validator(mode="after")
    def _one_list(self) -> RerankBody:
        if (self.documents is None) == (self.texts is None):
            raise ValueError("send the texts to rank as documents (or, in the other form, as texts)")
        return self

    @property
    def passages(self) -> list[str]:
        found = self.documents or self.texts or []
        return [document if isinstance(document, str) else document.text for document in found]


class InfillBody(Sampling):
    """`POST /infill`: what stands before the caret and what after it. `prompt` is the caret's own line up to there."""

    model: ModelOrSwarm = SWARM_ALIAS
    input_prefix: str
    input_suffix: str
    prompt: str = ""
    input_extra: Annotated[list[ExtraText], Field(max_length=MAX_EXTRA_TEXTS, fail_fast=True)] | None = None
    n_predict: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None

    def to_request(self) -> GenerationRequest:
        shared = self._shared()
        if self.n_predict is not None and self.n_predict >= 0:
            shared["max_tokens"] = self.n_predict  # editors send 0 to warm the cache
        return GenerationRequest(
            **shared,
            **self.formed(None),
            prompt=self.input_prefix + self.prompt,
            suffix=self.input_suffix,
            input_extra=tuple(self.input_extra or ()),
        )


@dataclass(frozen=True, kw_only=True)
class ModelProps(Capabilities, LoadedModel):
    """A model as nodes describe it to each other: its sizes, its texts and what it can do, in one flat JSON object."""


PROPS = TypeAdapter(ModelProps)


def tokenize(body: TokenizeBody) -> UtilityCall[Tokens]:
    """The text's token ids, and each token's piece where asked for: a text, or bytes where it is no whole character."""

    def fits(answer: Tokens) -> bool:
        pieces = answer.pieces
        matching = pieces is None or (len(pieces) == len(answer.ids) and has_bytes(answer))
        return (
            matching and (pieces is not None) == body.with_pieces and all(0 <= token <= MAX_INT for token in answer.ids)
        )

    return UtilityCall(
        "tokenize",
        wire(body),
        TOKENS,
        lambda engine: engine.tokenize(
            body.content, add_special=body.add_special, parse_special=body.parse_special, pieces=body.with_pieces
        ),
        fits,
        size_bytes=len(body.content),
    )


def detokenize(body: DetokenizeBody) -> UtilityCall[str]:
    """The text of tokens."""
    return UtilityCall(
        "detokenize",
        wire(body),
        TEXT,
        lambda engine: engine.detokenize(body.tokens),
        lambda _: True,
        size_bytes=len(body.tokens) * TOKEN_BYTES,
    )


def apply_template(body: TemplateBody) -> UtilityCall[str]:
    """The chat as the text that the model sees."""
    request = body.to_request()

    async def text(engine: Engine) -> str:
        shown = shown_to(engine.capabilities, request)
        await off_loop(lambda: engine.check(shown))  # llama.cpp writes a grammar, if only to show tools
        return await engine.prompt_text(shown)

    return UtilityCall(
        "apply-template",
        wire(body),
        TEXT,
        text,
        lambda _: True,
        size_bytes=prompt_chars(request),
        check=lambda model: refuse_too_long(request, model),
    )


def count_tokens(request: GenerationRequest) -> UtilityCall[int]:
    """The prompt's tokens as the model sees it, chat template and tools included."""

    async def count(engine: Engine) -> int:
        shown = shown_to(engine.capabilities, request)
        await off_loop(lambda: engine.check(shown))
        return await engine.count_tokens(shown)

    return UtilityCall(
        "count-tokens",
        request_body(request, 1),
        COUNT,
        count,
        lambda count: 0 <= count <= MAX_INT,
        SEE if asks_about_images(request) else READ,
        size_bytes=prompt_chars(request),
        check=lambda model: refuse_too_long(request, model),
    )


def embed(body: EmbeddingBody) -> UtilityCall[Embeddings]:
    """A vector for each text of the batch: all of one size, of finite numbers, in order."""
    texts = body.texts

    def fits(answer: Embeddings) -> bool:
        sizes = {len(vector) for vector in answer.vectors}
        return (
            len(answer.vectors) == len(texts)
            and len(sizes) == 1
            and 0 < max(sizes) <= MAX_VECTOR
            and all(isfinite(sum(vector)) for vector in answer.vectors)
            and 0 <= answer.prompt_tokens <= MAX_INT
        )

    body = body.model_copy(update={"swarm": None})  # which has been read
    more = body.model_dump(mode="json", exclude_none=True, exclude={"model", "input", "encoding_format"})
    return UtilityCall(
        "embeddings",
        wire(body),
        EMBEDDINGS,
        lambda engine: engine.embed(texts),
        fits,
        EMBED,
        leases=True,
        check=lambda model: refuse_too_long_texts(texts, model, "input"),
        upstream=lambda http, model: http.embed(model, texts, more),
    )


def rerank(body: RerankBody) -> UtilityCall[Ranking]:
    """A score for each passage of the batch, in order: higher is better."""
    passages = body.passages

    def fits(answer: Ranking) -> bool:
        return (
            len(answer.scores) == len(passages)
            and all(map(isfinite, answer.scores))
            and 0 <= answer.prompt_tokens <= MAX_INT
        )

    return UtilityCall(
        "rerank",
        wire(body),
        RANKING,
        lambda engine: engine.rerank(body.query, passages),
        fits,
        RERANK,
        leases=True,
        check=lambda model: refuse_too_long_texts([body.query, *passages], model, "documents"),
    )


def props(body: PropsBody) -> UtilityCall[ModelProps]:
    """Sizes and abilities of a model."""

    async def facts(engine: Engine) -> ModelProps:
        return ModelProps(**asdict(engine.loaded), **asdict(engine.capabilities))

    return UtilityCall("props", wire(body), PROPS, facts, lambda answer: answer.slots > 0)


def wire(body: BaseModel) -> JsonObject:
    """The body without what this node does not know and what the client did not say."""
    return body.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(body.model_extra or ()))


@dataclass(frozen=True, slots=True)
class PeerUtility:
    """What a peer's body is parsed as, and the call that it makes."""

    schema: type[BaseModel]
    call: Callable[[Any], UtilityCall[Any]]
    texts: Callable[[Any], int] = lambda _: 1

    async def read(self, request: web.Request) -> tuple[str, UtilityCall[Any]]:
        """The model and the call in a peer's body. Raises BadRequest for more texts than one call may have."""
        body = await read_body(request, self.schema)
        if self.texts(body) > BATCH:
            raise BadRequest(f"{self.texts(body)} texts in one call between nodes; at most {BATCH} are taken")
        return cast("str", cast("Any", body).model), self.call(body)


PEER_UTILITIES: Mapping[str, PeerUtility] = {
    "tokenize": PeerUtility(TokenizeBody, tokenize),
    "detokenize": PeerUtility(DetokenizeBody, detokenize),
    "apply-template": PeerUtility(TemplateBody, apply_template),
    "count-tokens": PeerUtility(ChatCompletionBody, lambda body: count_tokens(body.to_request())),
    "embeddings": PeerUtility(EmbeddingBody, embed, lambda body: len(body.texts)),
    "rerank": PeerUtility(RerankBody, rerank, lambda body: len(body.passages)),
    "props": PeerUtility(PropsBody, props),
}


async def ask(app: web.Application, model: str, call: UtilityCall[A], upstream: bool = True) -> tuple[A, Replica]:
    """The answer to a call, and whose it is; not without `upstream` the upstream's."""
    dispatcher, model = app[DISPATCHER], await app[NAMES].answering(model, upstream)
    with app[CONDITION].finding_a_model(dispatcher.node):
        return await dispatcher.utility(model, call, time.monotonic() + UTILITY_DEADLINE_S, upstream=upstream)
