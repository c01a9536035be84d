"""By what a conversation is known again (`Affinity` remembers where it was answered last).

A request is kept under the hash of the whole of it; a later one that goes on from it has that hash among those of its
own beginnings. A chat goes on where the next message is the assistant's; that two chats share a system prompt does not
make them one. A raw prompt has a hash for each full block. The work is bounded, whatever the prompt's size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from pydantic import JsonValue

from swarm.generation import GenerationRequest, JsonObject, Prompt

MAX_HASHED_CHARS = 262_144  # some 64,000 tokens, a millisecond's work; beyond it two prompts count as alike
MAX_LEAVES = 20_000  # values looked at in a conversation's JSON, for messages of many tiny parts
BLOCK = 512  # characters (or tokens) of a raw prompt between two hashes: about a second's reading on a slow machine
LONG_CHARS = 2_000  # a prompt repeated as it was is worth following if it has some 500 tokens
LEAST_SHARE = 0.5  # of a raw prompt must be known; shared instructions at its beginning are no conversation
HASH_BYTES = 8


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Prefixes:
    """`whole` is what to keep a request under; `earlier` are those that it may go on from, the longest first."""

    whole: bytes | None
    earlier: tuple[bytes, ...] = ()


NO_PREFIXES = Prefixes(None)


def prefixes_of(request: GenerationRequest) -> Prefixes:
    """How `request` is kept and found again. It depends on the model as asked for, and on the tools."""
    start = blake2b(digest_size=HASH_BYTES)
    start.update(request.model.encode(errors="surrogatepass"))
    if request.messages is not None:
        return _of_chat(start, request, request.messages)
    return _of_prompt(start, request.prompt or "")


def _of_chat(running: _Hash, request: GenerationRequest, messages: Sequence[JsonObject]) -> Prefixes:
    budget = _Budget()
    for tool in request.tools:
        _feed(running, budget, [tool.function.name, tool.function.description, tool.function.parameters])
    earlier: list[bytes] = []
    for message in messages:
        if message.get("role") == "assistant":
            earlier.append(running.digest())
        _feed(running, budget, message)
        if budget.spent:
            break
    whole = running.digest()
    if budget.chars >= LONG_CHARS:
        earlier.append(whole)
    return Prefixes(whole, tuple(reversed(earlier)))


def _of_prompt(running: _Hash, prompt: Prompt) -> Prefixes:
    size = min(len(prompt), MAX_HASHED_CHARS)
    found: list[bytes] = []
    for start in range(0, size - BLOCK + 1, BLOCK):
        part = prompt[start : start + BLOCK]
        text = part if isinstance(part, str) else ",".join(map(str, part))
        running.update(text.encode(errors="surrogatepass"))
        found.append(running.digest())
    least = int(size * LEAST_SHARE) // BLOCK
    return Prefixes(found[-1] if found else None, tuple(reversed(found[least:])))


class _Budget:
    """What may still be looked at."""

    def __init__(self) -> None:
        self.chars = 0
        self._leaves = 0

    @property
    def spent(self) -> bool:
        return self.chars >= MAX_HASHED_CHARS or self._leaves >= MAX_LEAVES

    def take(self, text: str) -> str:
        """`text` as far as the budget goes, after its length: no two rows of texts look alike."""
        taken = text[: max(0, MAX_HASHED_CHARS - self.chars)]
        self.chars += len(taken)
        self._leaves += 1
        return f"{len(text)}:{taken}"


def _feed(running: _Hash, budget: _Budget, value: JsonValue) -> None:
    """Hash `value` as far as the budget goes; two values that differ within it never look alike."""
    if isinstance(value, dict) and len(value) == 2:
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and isinstance(content, str):  # nearly every message: no need to walk through it
            running.update(f"m{budget.take(role)}{budget.take(content)}".encode(errors="surrogatepass"))
            return
    parts: list[str] = []
    for mark, leaf in _leaves(value):
        if budget.spent:
            break
        parts.append(mark + budget.take(leaf))
    running.update("".join(parts).encode(errors="surrogatepass"))


def _leaves(value: JsonValue) -> Iterator[tuple[str, str]]:
    """Keys, texts, other values and brackets of JSON in order, marked. Without recursion: clients nest as they like."""
    stack: list[Iterator[tuple[str | None, JsonValue]]] = [iter([(None, value)])]
    while stack:
        for key, item in stack[-1]:
            if key is not None:
                yield "k", key
            if isinstance(item, dict):
                yield "{", ""
                stack.append(iter(item.items()))
            elif isinstance(item, list):
                yield "[", ""
                stack.append((None, part) for part in item)
            else:
                yield ("s", item) if isinstance(item, str) else ("v", json.dumps(item))
                continue
            break
        else:
            stack.pop()
            yield "]", ""
