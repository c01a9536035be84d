"""Texts in llama.cpp's own shapes: `/completion` and `/infill`.

An answer has one choice. What llama.cpp tells of its slots and settings is not there: the answer may be any node's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from swarm.gateway.answers.answer_form import SSE, Dialect, OpenStream
from swarm.gateway.http.bodies import compact
from swarm.gateway.openai.bodies import (
    MAX_INT,
    MAX_PROMPTS,
    MAX_TOP_LOGPROBS,
    MaxTokens,
    ModelOrSwarm,
    PromptTokens,
    Sampling,
    as_prompts,
)
from swarm.gateway.openai.shapes import timings_object
from swarm.generation import Candidate, Delta, Finish, GenerationRequest, JsonObject, Usage
from swarm.routing.replicas import SWARM_ALIAS

MAX_FIELDS = 64  # of `response_fields`; llama.cpp's answers have about twenty


class PlainCompletionBody(Sampling):
    """`POST /completion`. `n_predict` -1: as much as fits; `response_fields`: of the answer's fields only these."""

    model: ModelOrSwarm = SWARM_ALIAS
    prompt: str | PromptTokens | Annotated[list[str | PromptTokens], Field(fail_fast=True)]
    n_predict: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    n_probs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_completion_tokens: MaxTokens | None = None
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], Field(max_length=MAX_FIELDS)] | None = None

    @model_validator(mode="after")
    def _can_be_answered(self) -> PlainCompletionBody:
        prompts = as_prompts(self.prompt)
        if not prompts:
            raise ValueError("prompt is an empty list")
        if len(prompts) > MAX_PROMPTS:
            raise ValueError(f"{len(prompts)} prompts; at most {MAX_PROMPTS} are answered in one request")
        if len(prompts) > 1 and self.stream:
            raise ValueError("several prompts are not streamed: send one request for each, or stream: false")
        if self.choices > 1:
            raise ValueError("n is more than 1: /completion has one answer; /v1/completions takes n")
        if any(isinstance(prompt, tuple) for prompt in prompts) and self.model == SWARM_ALIAS:
            raise ValueError("a prompt of tokens needs the model whose tokens they are: name it")
        if self.return_tokens:
            raise ValueError("return_tokens is not served, the answer may be another node's: send it to /tokenize")
        return self

    def requests(self) -> list[GenerationRequest]:
        """One for each prompt."""
        shared = self._shared()
        if self.max_completion_tokens is not None:
            shared["max_tokens"] = self.max_completion_tokens
        if self.n_predict is not None:
            shared["max_tokens"] = None if self.n_predict < 0 else self.n_predict
        shared |= self.formed(None) | {"logprobs": bool(self.n_probs), "top_logprobs": self.n_probs or 0}
        return [GenerationRequest(**shared, prompt=prompt) for prompt in as_prompts(self.prompt)]


@dataclass(frozen=True, slots=True)
class PlainForm:
    """See `AnswerForm`. Of `fields`, where there are any, only these are in whole answers."""

    model: str
    fields: tuple[str, ...] = ()

    @property
    def dialect(self) -> Dialect:
        return SSE

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        candidate = candidates[0]
        reason, stop = candidate.finish_reason or "stop", candidate.stop_sequence
        ended = Finish(0, reason, candidate.usage, stop, timings=candidate.timings)
        body = final(self.model, candidate.text, ended, extension)
        if (listed := probabilities(candidate.logprobs)) is not None:
            body["completion_probabilities"] = listed
        return chosen(body, self.fields) if self.fields else body

    def writer(self, out: OpenStream, choices: int) -> PlainWriter:
        return PlainWriter(out, self.model)


class PlainWriter:
    """One event for each piece, the last one with the counts; llama.cpp sends no end mark here."""

    def __init__(self, out: OpenStream, model: str) -> None:
        self._out = out
        self._model = model

    async def begin(self) -> None:
        """There is nothing to say before the first piece."""

    async def delta(self, event: Delta) -> None:
        piece: JsonObject = {"index": 0, "content": event.text, "stop": False}
        if (listed := probabilities(event.logprobs)) is not None:
            piece["completion_probabilities"] = listed
        await self._event(piece)

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        await self._event(final(self._model, "", event, extension))

    async def end(self, usages: list[Usage]) -> None:
        """The last event has said everything."""

    async def _event(self, body: JsonObject) -> None:
        await self._out.write(f"data: {compact(body)}\n\n".encode())


def chosen(body: JsonObject, paths: Sequence[str]) -> JsonObject:
    """Of an answer what `paths` name (`timings/predicted_ms`), each under its whole path, as llama.cpp has it."""
    found: JsonObject = {}
    for path in paths:
        inside: JsonValue = body
        for name in path.split("/"):
            if not isinstance(inside, dict) or name not in inside:
                break
            inside = inside[name]
        else:
            found[path] = inside
    return found


def probabilities(logprobs: JsonValue) -> JsonValue:
    """Log-probabilities in chat's form as llama.cpp lists them: each token's, and its neighbours'."""
    return logprobs.get("content") if isinstance(logprobs, Mapping) else None


def final(model: str, content: str, ended: Finish, extension: JsonObject | None) -> JsonObject:
    """The object that ends an answer."""
    usage = ended.usage
    body: JsonObject = {
        "index": 0,
        "content": content,
        "tokens": [],  # where they are wanted the request is refused
        "stop": True,
        "stop_type": "limit" if ended.reason == "length" else "word" if ended.stop_sequence else "eos",
        "stopping_word": ended.stop_sequence or "",
        "model": model,
        "tokens_predicted": usage.completion_tokens,
        "tokens_evaluated": usage.prompt_tokens,
        "tokens_cached": usage.cached_tokens,
        "truncated": False,
    }
    if ended.timings is not None:
        body["timings"] = timings_object(usage, ended.timings)
    return body if extension is None else {**body, "swarm": extension}
