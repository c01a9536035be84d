"""Prompts as OpenAI's bodies have them: a text, its tokens, or several of either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

from pydantic import Field

from swarm.gateway.openai.sampling_body import MAX_INT
from swarm.generation import Prompt

PromptTokens = Annotated[list[Annotated[int, Field(ge=0, le=MAX_INT)]], Field(min_length=1, fail_fast=True)]


def as_prompts(value: str | list[int] | Sequence[str | list[int]]) -> list[Prompt]:
    """One text, one list of tokens, or several of either, as a list. An empty list is no prompt at all."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [tuple(cast("list[int]", value))]
    several = cast("Sequence[str | list[int]]", value)
    return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in several]
