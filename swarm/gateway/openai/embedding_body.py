"""The body of a request for vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from swarm.gateway.openai.prompts import PromptTokens, as_prompts
from swarm.gateway.openai.sampling_body import Body, ModelName, PositiveInt, SwarmOptions
from swarm.generation import Prompt
from swarm.routing.policy import VoteOptions

MAX_EMBEDDING_INPUTS = 2048  # OpenAI's limit


class EmbeddingBody(Body):
    """`POST /v1/embeddings`."""

    model: ModelName
    input: (
        Annotated[str, Field(min_length=1)]
        | PromptTokens
        | Annotated[
            list[Annotated[str, Field(min_length=1)] | PromptTokens],
            Field(min_length=1, fail_fast=True),
        ]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: PositiveInt | None = None
    swarm: SwarmOptions | None = None  # only `upstream` matters here

    @property
    def options(self) -> VoteOptions:
        return VoteOptions() if self.swarm is None else self.swarm.options()

    @model_validator(mode="after")
    def _few_inputs(self) -> EmbeddingBody:
        if len(self.texts) > MAX_EMBEDDING_INPUTS:
            raise ValueError(f"input has {len(self.texts)} texts; at most {MAX_EMBEDDING_INPUTS} are taken at once")
        return self

    @property
    def texts(self) -> list[Prompt]:
        return as_prompts(self.input)
