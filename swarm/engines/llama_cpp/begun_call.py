"""Calls that a model may make or leave, where its chat template knows no tools, or its library reads no calls.

What is offered stands in the system turn (`chat_turns.py`), and the model answers as it likes. So its words are words,
streamed as they come, and no grammar bends them. Once an answer, at its beginning or at that of a line, has written the
head of a call of an offered function, {"name": "f", "arguments": {, it has decided to call: what it writes from there
is not used, and the call is generated as one that names that function is, under its schema. So the arguments always
keep it. Some models write a fence before the call; it goes, as does whatever would follow the call.

Text is held back only while it may become such a head. What does not become one is text, whatever it looks like.

Where a template does show tools, and the library behind it leaves what the model writes as it is, the head is the
template's own (`CallForm`): what it writes itself for a call that was made, up to the arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from swarm.engines.llama_cpp.demanded_answer import begun_turn, demanded_schema
from swarm.generation import Delta, Finish, GenerationRequest, JsonObject, NamedFunction, NamedToolChoice

# What models write before a call that they were shown without: fences, and the tags of those trained on calls.
OPENINGS = ("", "```", "```json", "```tool_code", "```tool_call", "<tool_call>")
MAX_OPENING_CHARS = 200  # of what a template writes before the name of the function
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


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a chat template writes a call: `opening`, the function's name, `between`, and its arguments as JSON."""

    opening: str
    between: str

    def head(self, name: str) -> str:
        """A call of the function `name` up to its arguments."""
        return f"{self.opening}{name}{self.between}{{"


def call_form(asked: str | None, called: str | None, name: str, arguments: JsonObject) -> CallForm | None:
    """The form in which a template writes calls, from two prompts of the same beginning.

    `asked` ends where an answer would begin; in `called` the answer was a call of `name` with `arguments`, whatever
    follows it. None where no such form can be seen in them, as where arguments are not written as JSON.
    """
    if asked is None or called is None or not called.startswith(asked):
        return None
    answer = called[len(asked) :]
    at = answer.find(name)
    end = at + len(name)
    decoder = json.JSONDecoder()
    for begin in (found.start() for found in re.finditer("{", answer[end:])) if 0 <= at <= MAX_OPENING_CHARS else ():
        try:
            written, _ = decoder.raw_decode(answer, end + begin)
        except ValueError:
            continue
        if written == arguments:
            return CallForm(answer[:at], answer[end : end + begin])
    return None


class BegunCallReader:
    """Reads one answer's events until it begins a call. `called` is then the function, and nothing more is to be read.

    `spoken_tokens` are those of what was shown before: events with text, one a token. A call may also begin in `form`.
    """

    def __init__(self, names: Collection[str], form: CallForm | None = None) -> None:
        self._heads = {
            f'{opening}{{"name":{json.dumps(name, ensure_ascii=False)},"arguments":{{': name
            for name in names
            for opening in OPENINGS
        }
        if form is not None:
            self._heads |= {_squeezed(form.head(name)): name for name in names}
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
