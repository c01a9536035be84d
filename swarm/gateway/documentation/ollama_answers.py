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


class OllamaCost(BaseModel):
    """What an answer cost. `load_duration` is 0 where the model ran already."""

    model: str
    created_at: str
    done: Literal[True]
    done_reason: Literal["stop", "length", "load"]
    total_duration: int
    load_duration: int
    prompt_eval_duration: Annotated[
        int | None, Field(description="Until the first piece; left out where nobody saw it come")
    ] = None
    prompt_eval_count: int
    eval_duration: int
    eval_count: int
    swarm: SwarmReport | None = None


class OllamaChatAnswer(OllamaCost):
    message: OllamaTurn


class OllamaText(OllamaCost):
    response: str
    thinking: str | None = None


class OllamaVectors(BaseModel):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    prompt_eval_count: int


class OllamaVector(BaseModel):
    embedding: list[float]


class OllamaDetails(BaseModel):
    format: str
    family: str
    parameter_size: str
    quantization_level: str


class OllamaTag(BaseModel):
    """A model; in `/api/ps` also with what it takes (`size_vram`, `context_length`)."""

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
