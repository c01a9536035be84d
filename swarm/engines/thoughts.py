"""Thoughts in an answer's text, `<think>` ... `</think>`, parted from what is answered: the one place for it.

Engines part a thought themselves where they know the model's template; what they leave is read here: a fine-tune with
a plain template, thinking switched off in the template, another server that parts nothing. Only a block that begins the
answer is a thought; later ones are something that the answer talks about. Streams and whole answers, votes and clients
all read by `ThoughtReader`, so that none of them sees another answer than the others.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from swarm.generation import Delta, Finish, Usage

OPENING, CLOSING = "<think>", "</think>"
# What a template has that can have a model think: marks of thoughts, and the variables by which they are put back.
_SIGNS = (OPENING, "[THINK]", "<seed:think>", "<|channel>thought", "<|channel|>analysis", "reasoning_content")
_CLOSING_LINE = re.compile(r"^[ \t]*</think>|</think>[ \t]*$", re.MULTILINE)


def may_think(chat_template: str) -> bool:
    """Whether a model with this template thinks before it answers, as far as the template says."""
    return any(sign in chat_template for sign in _SIGNS)


class ThoughtReader:
    """Moves the thought at the beginning of one answer's text to `reasoning`. Text is held back only while unclear."""

    def __init__(self) -> None:
        self._state: Literal["beginning", "opened", "thinking", "thought", "answering"] = "beginning"
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether a thought has begun and not ended."""
        return self._state in ("opened", "thinking")

    def read(self, event: Delta | Finish) -> list[Delta | Finish]:
        """The events to show instead of `event`."""
        if isinstance(event, Finish):
            return [*self._rest(event.choice), event]
        if self._state == "answering":
            return [event]
        if not event.text:
            return [*self._rest(event.choice), event] if event.tool_calls else [event]
        reasoning, text = self._split(self._held + event.text)
        if not (reasoning or text or event.reasoning or event.logprobs or event.tool_calls):
            return []
        return [replace(event, reasoning=event.reasoning + reasoning, text=text)]

    def _split(self, text: str) -> tuple[str, str]:
        """What of `text` is thought and what is answer, as far as that is known; the rest is held back."""
        self._held = ""
        if self._state == "beginning":
            begun = text.lstrip()
            if OPENING.startswith(begun[: len(OPENING)]) and len(begun) < len(OPENING):
                self._held = text
                return "", ""
            if not begun.startswith(OPENING):
                self._state = "answering"
                return "", text
            self._state = "opened"
            text = begun.removeprefix(OPENING)
        if self._state == "opened":
            text = text.lstrip("\n")
            self._state = "thinking" if text else "opened"
        if self._state == "thinking":
            return self._think(text)
        if self._state == "opened":
            return "", ""
        answer = text.lstrip()
        self._state = "answering" if answer else "thought"
        return "", answer

    def _think(self, text: str) -> tuple[str, str]:
        thought, closing, answer = text.partition(CLOSING)
        if not closing:
            kept = _beginning_of(CLOSING, text)
            self._held = text[len(text) - kept :]
            return text[: len(text) - kept], ""
        self._state = "thought"
        return thought, self._split(answer)[1] if answer else ""

    def _rest(self, choice: int) -> list[Delta | Finish]:
        held, self._held = self._held, ""
        if not held:
            return []
        return [Delta(choice, reasoning=held) if self._state == "thinking" else Delta(choice, held)]


def _beginning_of(mark: str, text: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)


def parted(text: str) -> tuple[str, str, bool]:
    """The thought that begins `text`, the answer after it, and whether the thought was closed (or there is none)."""
    reader = ThoughtReader()
    deltas = [event for event in reader.read(Delta(0, text)) if isinstance(event, Delta)]
    closed = not reader.thinking
    deltas += [event for event in reader.read(Finish(0, "stop", Usage())) if isinstance(event, Delta)]
    return "".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas), closed


def answer_in(text: str) -> str | None:
    """What a whole text answers, for whoever compares answers: without its thought; None if that never closes.

    Templates may open the thought in the prompt, and a server that parts nothing then sends a closing tag alone. Its
    place is known only when it comes, too late for a stream to take back what it has shown; so it stays in the text
    that clients see, and only here it counts where it starts or ends a line, with nothing opened before it.
    """
    thought, answer, closed = parted(text)
    if not closed:
        return None
    if thought or answer != text:
        return answer
    closing = _CLOSING_LINE.search(text)
    return text if closing is None or OPENING in text[: closing.start()] else text[closing.end() :]
