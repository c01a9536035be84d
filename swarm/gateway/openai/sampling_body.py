"""What OpenAI's request bodies have in common: parsed and bounded on arrival, unknown fields ignored aloud."""

from __future__ import annotations

import logging
from typing import Annotated, Any, cast

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from swarm.gateway.answers.swarm_options import SwarmOptions, options_of
from swarm.gateway.openai.messages import Part
from swarm.generation import MAX_STOP_STRINGS, MIN_REPEAT_PENALTY, SEED_MASK, steady_temperature
from swarm.routing.policy import VoteOptions

log = logging.getLogger(__name__)

MAX_CHOICES = 32  # OpenAI allows 128; no local engine has that many slots
MAX_MODEL_CHARS = 512  # a hub name, a file, a quantization
MAX_BIASED_TOKENS = 1024  # OpenAI documents 300
MAX_INT = 2**31 - 1  # engines take 32 bits
MAX_LOGGED_FIELDS = 1000  # unknown names to remember: they come from clients
_logged_fields: set[str] = set()

ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARS)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_INT)]
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]


class Body(Part):
    """A whole body. Unknown fields are ignored aloud, once."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _log_unknown(self) -> Body:
        for name in set(self.model_extra or ()) - _logged_fields:
            if len(_logged_fields) < MAX_LOGGED_FIELDS:
                _logged_fields.add(name)
                log.info("ignoring the unknown field %.100r of a request", name)
        return self


class StreamOptions(Part):
    include_usage: bool | None = None


class Sampling(Body):
    """Parameters that chat and plain completions share, with OpenAI's ranges (and llama.cpp's own samplers)."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: PositiveInt | None = None
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(steady_temperature)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[float, Field(ge=MIN_REPEAT_PENALTY, le=10)] | None = None
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    swarm: SwarmOptions | None = None

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _few_biases(cls, value: object) -> object:
        """Before the entries are looked at: a million bad ones would be a million error messages."""
        if isinstance(value, dict) and len(cast("dict[str, object]", value)) > MAX_BIASED_TOKENS:
            raise ValueError(f"at most {MAX_BIASED_TOKENS} tokens can be biased")
        return cast("object", value)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def options(self) -> VoteOptions:
        """How to vote. Raises BadRequest where the rest of the body contradicts it."""
        return options_of(self.swarm, stream=self.stream, choices=self.choices)

    def _shared(self) -> dict[str, Any]:
        same = self.model_dump(
            include={
                "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty",
                "frequency_penalty", "repeat_penalty", "logit_bias",
            }
        )  # fmt: skip
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = None if self.seed is None else self.seed & SEED_MASK
        return {**same, "stop": tuple(text for text in stop if text), "seed": seed}
