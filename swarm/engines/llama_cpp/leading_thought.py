"""Thoughts that a model writes into its answer although its template says nothing of them: `<think>` ... `</think>`.

llama.cpp parts thoughts from the answer where the chat template shows how they look. Many models think under a
template that does not (a fine-tune with a plain one, thinking switched off in the template): there the marks would
show. Only a block that begins the answer is a thought; later ones are something that the answer talks about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from swarm.generation import Delta, Finish

OPENING, CLOSING = "<think>", "</think>"


class ThoughtReader:
    """Moves the thought at the beginning of one answer's text to `reasoning`. Text is held back only while unclear."""

    def __init__(self) -> None:
        self._state: Literal["beginning", "opened", "thinking", "thought", "answering"] = "beginning"
        self._held = ""

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
