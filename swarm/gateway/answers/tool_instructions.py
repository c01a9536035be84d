"""A person's own words for models that are given tools: a file's text, added once to a conversation with tools.

Off unless the configuration names a file. The text goes to the end of the first system message, where one stands
before the first answer, and is else a system message of its own at the beginning: never after an answer, so that what
a model has read of a conversation stays a beginning of what it reads next. Where it is already, it is not added again:
a node that is asked by a node finds it there.

The file is looked at with each such request, and read again when it has changed. What is wrong with it then is said
once, and the text of before stays: no client gets an error for what is written there. Where a prompt does not fit with
it, it is left out (`answer_service.py`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.printable_text import clean_line
from swarm.errors import SetupError
from swarm.gateway.answers.request_context import BYTES_A_TOKEN
from swarm.gateway.http.bodies import ON_LOOP_BYTES, off_loop
from swarm.generation import GenerationRequest, JsonObject, JsonValue

MAX_INSTRUCTION_TOKENS: Final = 2000  # more would push what small models are asked out of what they attend to
MAX_INSTRUCTION_BYTES: Final = 64 * 1024  # read at all: far more than so many tokens of any text
COUNTED_WITHIN_S: Final = 5.0  # a tokenizer that takes longer is stuck, and no request waits for it
SYSTEM_ROLES: Final = frozenset({"system", "developer"})
SETTING: Final = "tool_instructions"


@dataclass(frozen=True, slots=True)
class InstructionLength:
    """The tokens of a text by the tokenizer of `model`."""

    tokens: int
    model: str


CountTokens = Callable[[str], Awaitable[InstructionLength | None]]  # None: no model with a tokenizer is loaded here
Signature = tuple[int, int, int]  # of a file: inode, size, nanoseconds of its last change


def instructed(messages: Sequence[JsonObject], text: str) -> list[JsonObject]:
    """`messages` with `text` in them once."""
    turns = list(messages)
    system = [place for place, turn in enumerate(turns) if turn.get("role") in SYSTEM_ROLES]
    if any(text in _said(turns[place].get("content")) for place in system):
        return turns
    answered = next((place for place, turn in enumerate(turns) if turn.get("role") == "assistant"), len(turns))
    if not system or system[0] > answered:
        return [{"role": "system", "content": text}, *turns]
    first = turns[system[0]]
    turns[system[0]] = {**first, "content": _and(first.get("content"), text)}
    return turns


def with_instructions(request: GenerationRequest, text: str) -> GenerationRequest:
    """`request` with `text`, in what an upstream gets of it, too; itself, where it has no tools or has the text."""
    if not (text and request.tools and request.messages):
        return request
    messages = tuple(instructed(request.messages, text))
    if messages == request.messages:
        return request
    original = request.original
    if original is not None:
        body: JsonObject = json.loads(original)
        turns = body.get("messages")
        if isinstance(turns, list):
            own = [turn for turn in turns if isinstance(turn, dict)]
            original = json.dumps({**body, "messages": list[JsonValue](instructed(own, text))}).encode()
    return request.model_copy(update={"messages": messages, "original": original})


def _said(content: JsonValue) -> str:
    """The text of a system message, whose content is a text or parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _and(content: JsonValue, text: str) -> JsonValue:
    if isinstance(content, list):
        return [*content, {"type": "text", "text": f"\n\n{text}" if content else text}]
    return f"{content}\n\n{text}" if content else text


def signature_of(path: Path) -> Signature | None:
    """What changes with the file; None where there is none that can be looked at. Blocks."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_instructions(path: Path) -> str:
    """The text in the file, without white space around it. Blocks. Raises SetupError for what is none."""
    try:
        if not path.is_file():  # a FIFO would be waited for
            raise SetupError(f"{SETTING} = {str(path)!r} is not there: give the path of a text file")
        with path.open("rb") as file:
            raw = file.read(MAX_INSTRUCTION_BYTES + 1)
    except OSError as error:
        raise SetupError(f"{SETTING} = {str(path)!r} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_INSTRUCTION_BYTES:
        raise SetupError(
            f"{SETTING} = {str(path)!r} has more than {MAX_INSTRUCTION_BYTES // 1024} KiB: "
            f"use {MAX_INSTRUCTION_TOKENS} tokens at most"
        )
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise SetupError(f"{SETTING} = {str(path)!r} is not UTF-8: {error}") from error
    if not text or "\0" in text:
        raise SetupError(f"{SETTING} = {str(path)!r} has no text in it: write some, or leave the setting out")
    return text


class ToolInstructions:
    """The text of the file at `path`, as it is now or, where that is no use, as it was. `say` tells the node's owner.

    Raises SetupError for a file that cannot be read. Blocks while it is made.
    """

    def __init__(self, path: Path, count: CountTokens, say: Callable[[str], None]) -> None:
        self.path = path
        self._count = count
        self._say = say
        self._looking = asyncio.Lock()
        self._seen = signature_of(path)
        self._text = read_instructions(path)

    async def check(self) -> str:
        """How long the text is, in words. Raises SetupError where it has more tokens than it may."""
        return await self._counted(self._text)

    async def current(self) -> str:
        """The text that is to be added now."""
        async with self._looking:
            seen = await asyncio.to_thread(signature_of, self.path)
            if seen != self._seen:
                try:
                    text = await asyncio.to_thread(read_instructions, self.path)
                    words = await self._counted(text)
                except SetupError as error:
                    self._say(f"* {clean_line(str(error))}; what it said before stays")
                else:
                    if text != self._text:
                        self._say(f"* {SETTING}: {clean_line(str(self.path))} was read again, {words}")
                    self._text = text
                self._seen = seen
            return self._text

    async def added_to(self, request: GenerationRequest) -> GenerationRequest:
        """`request` with the text, where it is a conversation with tools."""
        if not request.tools or not request.messages:
            return request
        text = await self.current()
        if request.original is not None and len(request.original) > ON_LOOP_BYTES:
            return await off_loop(lambda: with_instructions(request, text))
        return with_instructions(request, text)

    async def _counted(self, text: str) -> str:
        try:
            async with asyncio.timeout(COUNTED_WITHIN_S):
                count = await self._count(text)
        except TimeoutError:
            count = None
        tokens = len(text.encode()) // BYTES_A_TOKEN if count is None else count.tokens
        words = f"about {tokens} tokens" if count is None else f"{tokens} tokens of {clean_line(count.model)}"
        if tokens > MAX_INSTRUCTION_TOKENS:
            raise SetupError(f"{SETTING} = {str(self.path)!r} has {words}: use {MAX_INSTRUCTION_TOKENS} at most")
        return words
