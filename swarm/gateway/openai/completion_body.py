"""The body of a plain completion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from swarm.errors import BadRequest
from swarm.gateway.openai.prompts import PromptTokens, as_prompts
from swarm.gateway.openai.sampling_body import Sampling
from swarm.generation import MAX_TOP_LOGPROBS, ExtraText, GenerationRequest, Prompt
from swarm.routing.replicas import SWARM_ALIAS

MAX_PROMPTS = 32  # of one request; OpenAI takes more, evaluation harnesses send 1 to 16
MAX_EXTRA_TEXTS = 64  # files beside the one that is filled in; editors send up to 16 pieces


class CompletionBody(Sampling):
    """`POST /v1/completions`: prompts as texts or the model's own tokens, and perhaps what follows the answer."""

    prompt: str | PromptTokens | Annotated[list[str | PromptTokens], Field(fail_fast=True)]
    suffix: str | None = None
    input_extra: Annotated[list[ExtraText], Field(max_length=MAX_EXTRA_TEXTS, fail_fast=True)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _can_be_answered(self) -> CompletionBody:
        if not self.prompts:
            raise ValueError("prompt is an empty list")
        if len(self.prompts) > MAX_PROMPTS:
            raise ValueError(f"{len(self.prompts)} prompts; at most {MAX_PROMPTS} are answered in one request")
        if len(self.prompts) > 1 and self.stream:
            raise ValueError("several prompts are not streamed: send one request for each, or stream: false")
        tokens = any(isinstance(prompt, tuple) for prompt in self.prompts)
        if tokens and self.model == SWARM_ALIAS:
            raise ValueError("a prompt of tokens needs the model whose tokens they are: name it")
        if self.suffix and (tokens or self.logprobs is not None):
            raise ValueError("a suffix needs a prompt that is text, and no logprobs")
        return self

    @property
    def prompts(self) -> list[Prompt]:
        return as_prompts(self.prompt)

    @property
    def text(self) -> str:
        """The first prompt; "" where it is tokens."""
        prompt = self.prompts[0]
        return prompt if isinstance(prompt, str) else ""

    def to_request(self) -> GenerationRequest:
        """The request of the one prompt. Raises BadRequest where there are more: each is a request of its own."""
        if len(self.prompts) > 1:
            raise BadRequest(f"prompt has {len(self.prompts)} entries; one is taken here", param="prompt")
        return GenerationRequest(
            **self._shared(),
            prompt=self.prompts[0],
            suffix=self.suffix or None,
            input_extra=tuple(self.input_extra or ()),
            logprobs=self.logprobs is not None,
            top_logprobs=self.logprobs or 0,
        )
