"""Prompts that cannot fit, told by their bytes: no token stands for more of them than the vocabulary's longest.

llama.cpp counts a prompt's tokens before it refuses it, and copies it several times on the way: 7 MB of text took
1.5 GB for a context of 2,048 tokens. So what is certain to be too long is refused here, before it waits, is written as
JSON or is sent. What only may be too long, llama.cpp counts. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from pydantic import JsonValue

from swarm.engines.engine import LoadedModel
from swarm.errors import ContextExceeded
from swarm.generation import GenerationRequest, JsonObject, Prompt

UNKNOWN_TOKEN_BYTES = 1024  # where the vocabulary is not known, or leaves text out: four times the longest seen (256)
MIN_TOKEN_BYTES = 16  # a vocabulary of single bytes has special tokens, too
# Filling in the middle cuts what is far from the caret: editors send whole files, which are read and not kept.
INFILL_BYTES = 2**20


def longest_token_bytes(tokenizer: str | None, longest: int | None) -> int:
    """The most bytes of text that a token of a vocabulary may stand for, from what its file says.

    Only the two kinds that GGUF calls gpt2 and llama write every byte; others have a token for whatever they do not
    know, however long.
    """
    if longest is None or tokenizer not in ("gpt2", "llama"):
        return UNKNOWN_TOKEN_BYTES
    return max(longest, MIN_TOKEN_BYTES)


def refuse_too_long(request: GenerationRequest, model: LoadedModel) -> None:
    """Raises ContextExceeded for a prompt that cannot fit an engine's context, whatever its tokens are."""
    room = most_bytes(model)
    if room is None:
        return
    if isinstance(request.prompt, tuple):
        _refuse_tokens(request.prompt, model.context_tokens)
    if request.suffix is not None:
        room = max(room, INFILL_BYTES)
    _refuse_bytes(texts_of(request), room, model.context_tokens)


def refuse_too_long_texts(texts: Sequence[Prompt], model: LoadedModel) -> None:
    """The same for texts of which each is a prompt."""
    room = most_bytes(model)
    for text in texts if room is not None else ():
        if isinstance(text, str):
            _refuse_bytes([text], room or 0, model.context_tokens)
        else:
            _refuse_tokens(text, model.context_tokens)


def most_bytes(model: LoadedModel) -> int | None:
    """What fits at the very most; None where nothing is known of the tokens."""
    return None if model.longest_token_bytes is None else model.context_tokens * model.longest_token_bytes


def prompt_chars(request: GenerationRequest) -> int:
    """How long the prompt is, in characters or tokens: never more than its bytes."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    return sum(map(len, texts_of(request)))


def texts_of(request: GenerationRequest) -> Iterator[str]:
    """Every text that goes into the prompt of `request`."""
    if isinstance(request.prompt, str):
        yield request.prompt
    yield request.suffix or ""
    for extra in request.input_extra:
        yield extra.text
    for message in request.messages or ():
        yield from _said(message)
    for tool in request.tools:
        yield tool.function.description


def _said(message: JsonObject) -> Iterator[str]:
    calls = message.get("tool_calls")
    arguments: list[JsonValue] = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        arguments.append(function.get("arguments") if isinstance(function, dict) else None)
    for text in itertools.chain([message.get("content"), message.get("reasoning_content")], arguments):
        if isinstance(text, str):
            yield text


def _refuse_bytes(texts: Iterable[str], room: int, context_tokens: int) -> None:
    size = 0
    for text in texts:
        # Characters first: what has too many of them needs no copy for its bytes to be counted.
        size += len(text) if text.isascii() or size + len(text) > room else len(text.encode("utf-8", "surrogatepass"))
        if size > room:
            per_token = max(room // context_tokens, 1)
            raise ContextExceeded(-(-size // per_token), context_tokens, at_least=True)


def _refuse_tokens(tokens: Sequence[int], context_tokens: int) -> None:
    if len(tokens) > context_tokens:
        raise ContextExceeded(len(tokens), context_tokens)
