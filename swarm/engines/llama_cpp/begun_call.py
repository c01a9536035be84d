"""Calls that a model may make or leave, where its chat template knows no tools.

What is offered stands in the system turn (`chat_turns.py`), and the model answers as it likes. So its words are words,
streamed as they come, and no grammar bends them. Once an answer, at its beginning or at that of a line, has written the
head of a call of an offered function, {"name": "f", "arguments": {, it has decided to call: what it writes from there
is not used, and the call is generated as one that names that function is, under its schema. So the arguments always
keep it. Some models write a fence before the call; it goes, as does whatever would follow the call.

Text is held back only while it may become such a head. What does not become one is text, whatever it looks like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace

from swarm.engines.llama_cpp.demanded_answer import begun_turn, demanded_schema
from swarm.generation import Delta, Finish, GenerationRequest, NamedFunction, NamedToolChoice

# What models write before a call that they were shown without: fences, and the tags of those trained on calls.
OPENINGS = ("", "```", "```json", "```tool_code", "```tool_call", "<tool_call>")
_OUTSIDE_STRINGS = re.compile(r'("(?:[^"\\]|\\.)*(?:"|$))|\s+', re.DOTALL)


def may_call(request: GenerationRequest) -> bool:
    """Whether an answer to `request` may be words or a call, as the model likes."""
    return (
        bool(request.tools)
        and request.messages is not None
        and request.tool_choice == "auto"
        and demanded_schema(request.response_format) is None
        and begun_turn(request.messages) is None
        and request.max_tokens != 0
    )


class BegunCallReader:
    """Reads one answer's events until it begins a call. `called` is then the function, and nothing more is to be read.

    `spoken_tokens` are those of what was shown before: events with text, one a token.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._heads = {
            f'{opening}{{"name":{json.dumps(name, ensure_ascii=False)},"arguments":{{': name
            for name in names
            for opening in OPENINGS
        }
        self._held: list[Delta] = []  # of a line that may be a call; nothing else waits
        self._within_line = False
        self.called: str | None = None
        self.spoken_tokens = 0

    def read(self, event: Delta | Finish) -> list[Delta | Finish]:
        """The events to show instead of `event`."""
        if self.called is not None:
            return []
        if isinstance(event, Finish):
            return [*self._released(len(self._text)), event]
        if not event.text:
            return [*self._released(len(self._text)), event] if event.tool_calls else [event]
        self._held.append(event)
        return self._decided()

    @property
    def _text(self) -> str:
        return "".join(delta.text for delta in self._held)

    def _decided(self) -> list[Delta | Finish]:
        """What of the text is certain to be words. A head is looked for at the beginning of each line."""
        text = self._text
        position = 0
        while position < len(text) or not self._within_line:
            if not self._within_line:
                line = _squeezed(text[position:])
                self.called = next((name for head, name in self._heads.items() if line.startswith(head)), None)
                if self.called is not None:
                    return self._released(position)
                if any(head.startswith(line) for head in self._heads):
                    break
            end = text.find("\n", position)
            self._within_line = end < 0
            position = len(text) if end < 0 else end + 1
        return self._released(position)

    def _released(self, size: int) -> list[Delta | Finish]:
        """The first `size` characters of what is held, as the deltas that they came in."""
        shown: list[Delta | Finish] = []
        while size > 0 and self._held:
            first = self._held[0]
            if len(first.text) <= size:
                shown.append(self._held.pop(0))
            else:  # its log-probabilities go with its beginning
                shown.append(replace(first, text=first.text[:size]))
                self._held[0] = replace(first, text=first.text[size:], reasoning="", logprobs=None)
            size -= len(first.text)
        self.spoken_tokens += len(shown)
        return shown


def _squeezed(text: str) -> str:
    """`text` without the white space outside strings."""
    return _OUTSIDE_STRINGS.sub(lambda found: found[1] or "", text)


def call_of(request: GenerationRequest, name: str, spoken_tokens: int) -> GenerationRequest:
    """The request for the call alone that an answer to `request` has begun, within what is left of its tokens."""
    left = None if request.max_tokens is None else max(request.max_tokens - spoken_tokens, 1)
    choice = NamedToolChoice(function=NamedFunction(name=name))
    return request.model_copy(update={"tool_choice": choice, "max_tokens": left})
