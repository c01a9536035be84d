"""Prompts that cannot fit are refused by their bytes; those that only may not are left to the engine to count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.engine import (
    INFILL_BYTES,
    MIN_TOKEN_BYTES,
    UNKNOWN_TOKEN_BYTES,
    LoadedModel,
    longest_token_bytes,
    refuse_too_long,
    refuse_too_long_texts,
)
from swarm.errors import ContextExceeded
from swarm.generation import GenerationRequest
from swarm.registry.gguf_header import read_model
from tests.doubles.schemas import record

MODEL = LoadedModel(slots=1, context_tokens=100, longest_token_bytes=20)
FITS, TOO_LONG = "x" * 2000, "x" * 2001


def saying(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": ({"role": "user", "content": text, **more},)}


def calling(arguments: str) -> dict[str, Any]:
    return saying("", tool_calls=[{"id": "a", "function": {"name": "f", "arguments": arguments}}])


def prompting(text: str) -> dict[str, Any]:
    return {"prompt": text}


def thinking(text: str) -> dict[str, Any]:
    return saying("", reasoning_content=text)


def described(text: str) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "f", "description": text, "parameters": record(a={})}}
    return {**saying(""), "tools": (tool,)}


@pytest.mark.parametrize(
    "fields",
    [saying, prompting, calling, described, thinking],
    ids=["message", "prompt", "arguments of a call", "description of a tool", "reasoning"],
)
def test_text_of_every_kind_counts(fields: Any) -> None:
    refuse_too_long(GenerationRequest.model_validate({"model": "m", **fields(FITS)}), MODEL)
    with pytest.raises(ContextExceeded, match="at least 101 tokens and the context holds 100") as caught:
        refuse_too_long(GenerationRequest.model_validate({"model": "m", **fields(TOO_LONG)}), MODEL)
    assert (caught.value.prompt_tokens, caught.value.context_tokens) == (101, 100)


def test_texts_count_together_and_by_bytes() -> None:
    turns = [{"role": "user", "content": "x" * 700} for _ in range(3)]
    with pytest.raises(ContextExceeded):
        refuse_too_long(GenerationRequest.model_validate({"model": "m", "messages": turns}), MODEL)
    refuse_too_long(GenerationRequest(model="m", prompt="é" * 1000), MODEL)
    with pytest.raises(ContextExceeded):
        refuse_too_long(GenerationRequest(model="m", prompt="é" * 1001), MODEL)


def test_tokens_are_counted_as_they_are() -> None:
    refuse_too_long(GenerationRequest(model="m", prompt=(1,) * 99), MODEL)
    with pytest.raises(ContextExceeded, match="has 100 tokens and the context holds 100"):
        refuse_too_long(GenerationRequest(model="m", prompt=(1,) * 100), MODEL)
    with pytest.raises(ContextExceeded):
        refuse_too_long_texts(["x", (1,) * 101], MODEL, "input")


def test_each_of_several_texts_has_the_context_for_itself() -> None:
    refuse_too_long_texts([FITS] * 5, MODEL, "input")
    with pytest.raises(ContextExceeded):
        refuse_too_long_texts([FITS, TOO_LONG], MODEL, "input")


def test_files_around_the_caret_may_be_longer_than_the_context() -> None:
    refuse_too_long(GenerationRequest(model="m", prompt="x" * INFILL_BYTES, suffix=""), MODEL)
    with pytest.raises(ContextExceeded):
        refuse_too_long(GenerationRequest(model="m", prompt="x" * INFILL_BYTES, suffix="x"), MODEL)


def test_where_tokens_are_not_known_nothing_is_refused() -> None:
    refuse_too_long(GenerationRequest(model="m", prompt="x" * 10**6), replace(MODEL, longest_token_bytes=None))


@pytest.mark.parametrize(
    ("tokenizer", "longest", "bytes_"),
    [
        ("gpt2", 256, 256),
        ("llama", 48, 48),
        ("gpt2", 4, MIN_TOKEN_BYTES),
        ("bert", 20, UNKNOWN_TOKEN_BYTES),
        ("t5", 20, UNKNOWN_TOKEN_BYTES),
        (None, 20, UNKNOWN_TOKEN_BYTES),
        ("gpt2", None, UNKNOWN_TOKEN_BYTES),
    ],
)
def test_the_longest_token_is_what_the_file_says(tokenizer: str | None, longest: int | None, bytes_: int) -> None:
    assert longest_token_bytes(tokenizer, longest) == bytes_


def test_the_embedded_models_vocabulary_is_read(demo_model: Path) -> None:
    facts = read_model(demo_model).facts
    assert MIN_TOKEN_BYTES <= longest_token_bytes(facts.tokenizer, facts.longest_token_bytes) < 300
