"""Bodies of what llama.cpp's users and retrieval tools expect beside OpenAI's. No model means the alias."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from swarm.gateway.openai.chat_body import ChatCompletionBody
from swarm.gateway.openai.completion_body import MAX_EXTRA_TEXTS
from swarm.gateway.openai.messages import Part
from swarm.gateway.openai.sampling_body import MAX_INT, Body, ModelName, PositiveInt, Sampling
from swarm.generation import ExtraText, GenerationRequest
from swarm.routing.replicas import SWARM_ALIAS

MAX_CONTENT_BYTES = 2**20  # at worst a token a byte: 7 MB of numbers, which still is one line between nodes
MAX_PIECES_BYTES = 2**18  # with its text each token takes four times as much
MAX_TOKENS = 2**18  # to turn back into text at once
MAX_DOCUMENTS = 1024  # to rank in one request; retrieval tools send 10 to 100


class TokenizeBody(Body):
    """`POST /tokenize`."""

    model: ModelName = SWARM_ALIAS
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

    model: ModelName = SWARM_ALIAS
    tokens: Annotated[list[Annotated[int, Field(ge=0, le=MAX_INT)]], Field(max_length=MAX_TOKENS, fail_fast=True)]


class TemplateBody(ChatCompletionBody):
    """`POST /apply-template`: a chat, of which messages and tools matter."""

    model: ModelName = SWARM_ALIAS


class PropsBody(Body):
    """The query of `GET /props`."""

    model: ModelName = SWARM_ALIAS


class DocumentText(Part):
    text: str


Documents = Annotated[list[str | DocumentText], Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)]


class RerankBody(Body):
    """`POST /v1/rerank`: Jina's and Cohere's names, or those of text-embeddings-inference (`texts`, `return_text`)."""

    model: ModelName = SWARM_ALIAS
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

    model: ModelName = SWARM_ALIAS
    input_prefix: str
    input_suffix: str
    prompt: str = ""
    input_extra: Annotated[list[ExtraText], Field(max_length=MAX_EXTRA_TEXTS, fail_fast=True)] | None = None
    n_predict: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None

    def to_request(self) -> GenerationRequest:
        shared = self._shared()
        if self.n_predict is not None and self.n_predict >= 0:
            shared["max_tokens"] = max(1, self.n_predict)  # editors send 0 to warm the cache: a token more does no harm
        return GenerationRequest(
            **shared,
            prompt=self.input_prefix + self.prompt,
            suffix=self.input_suffix,
            input_extra=tuple(self.input_extra or ()),
        )
