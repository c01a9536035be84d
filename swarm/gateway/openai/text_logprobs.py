"""Log-probabilities in the form of `/v1/completions`: parallel lists, where chat has one object for each token."""

from __future__ import annotations

from typing import cast

from pydantic import JsonValue

from swarm.generation import JsonObject


def text_logprobs(logprobs: JsonValue, offset: int) -> JsonValue:
    """Chat's `content` list as `tokens`, `token_logprobs`, `top_logprobs`, `text_offset`; anything else as it is.

    `offset` is where the first token begins in the choice's text, in characters.
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return logprobs
    tokens: list[JsonValue] = []
    values: list[JsonValue] = []
    tops: list[JsonValue] = []
    offsets: list[JsonValue] = []
    for entry in content:
        if not isinstance(entry, dict):
            continue
        token = str(entry.get("token", ""))
        tokens.append(token)
        values.append(entry.get("logprob"))
        tops.append(_top(entry.get("top_logprobs")))
        offsets.append(offset)
        offset += len(token)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _top(entries: JsonValue) -> JsonObject:
    """The likeliest tokens as one object, token to log-probability."""
    found = cast("list[JsonValue]", entries) if isinstance(entries, list) else []
    return {str(entry.get("token", "")): entry.get("logprob") for entry in found if isinstance(entry, dict)}
