"""The bodies of answers in Ollama's form, for the document alone. Streams are lines, each an object of these.

Durations are nanoseconds. Fields that are not named here may come along.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from swarm.gateway.documentation.answer_bodies import SwarmReport


class OllamaErrorBody(BaseModel):
    """Every refusal and failure, in Ollama's form."""

    error: str


class OllamaPulled(BaseModel):
    """A pull's last line; those before it have another `status`, and bytes in `total` and `completed`."""

    status: Literal["success"]


class OllamaChanged(BaseModel):
    """It is done. Ollama itself answers with an empty body, so that no client needs this one."""

    status: Literal["success"]
    note: Annotated[
        str | None,
        Field(description="What stays of the model elsewhere, or why a name does not outlive the node; else left out"),
    ] = None


class OllamaCallFunction(BaseModel):
    name: str
    arguments: dict[str, Any]


class OllamaToolCall(BaseModel):
    id: str
    function: OllamaCallFunction


class OllamaTurn(BaseModel):
    """What the model said; `thinking` is what it reasoned before."""

    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[OllamaToolCall] | None = None


class SwarmKeepAlive(BaseModel):
    """What became of the request's `keep_alive`."""

    applied: Annotated[bool, Field(description="Whether the model stays as long as the request said")]
    why: Annotated[str | None, Field(description="Why it does not; left out where it does")] = None


class OllamaKept(BaseModel):
    """The `swarm` object of answers that nobody voted on."""

    keep_alive: Annotated[
        SwarmKeepAlive | None, Field(description="What became of `keep_alive`; left out where none was sent")
    ] = None


class OllamaReport(SwarmReport, OllamaKept):
    """How the vote went, and how long the model stays."""


class OllamaCost(BaseModel):
    """What an answer cost. `load_duration` is 0 where the model ran already.

    Who has a model unloaded (nothing to answer, and `keep_alive` 0) is told `unload`, and no figures.
    """

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load", "unload"]
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_duration: Annotated[
        int | None,
        Field(description="To read the prompt; left out where nobody measured it, or saw the first piece come"),
    ] = None
    prompt_eval_count: int | None = None
    eval_duration: int | None = None
    eval_count: int | None = None
    swarm: OllamaReport | OllamaKept | None = None


class OllamaChatAnswer(OllamaCost):
    message: OllamaTurn


class OllamaText(OllamaCost):
    response: str
    thinking: str | None = None


class OllamaVectors(BaseModel):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: Annotated[int | None, Field(description="Left out for `swarm`, and for upstreams")] = None
    prompt_eval_count: int
    swarm: OllamaKept | None = None


class OllamaVector(BaseModel):
    embedding: list[float]
    swarm: OllamaKept | None = None


class OllamaDetails(BaseModel):
    format: str
    family: str
    parameter_size: str
    quantization_level: str


class OllamaTag(BaseModel):
    """A model; in `/api/ps` also what it takes (`size_vram`, `context_length`), and when it goes (`expires_at`)."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(BaseModel):
    models: list[OllamaTag]


class OllamaShown(BaseModel):
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(BaseModel):
    version: Annotated[str, Field(description="Of Ollama's API that is kept to, for clients that compare it")]
    local_swarm: str
