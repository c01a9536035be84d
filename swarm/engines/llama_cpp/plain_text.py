"""Text that clients write is text to the model, whatever it spells: `<|im_end|>` in a message ends no turn.

llama.cpp renders a conversation to one string and tokenizes that with special tokens, wherever they came from (its
template engine marks what is input, its server does not look). So the text of a control token is broken here by the
character DELETE (U+007F) after its first one: invisible, in no token's text, and one token in every vocabulary that is
made of bytes. A character of several bytes would do, too, but small models copy its first byte and go on with another
token, which is no text any more. Copies are taken out of answers again. It stands only where it must: within whole
control tokens, and at the ends of a text where the text next to it could complete one.

User-defined tokens (`<think>`, `<tool_call>`) stay as they are: llama.cpp reads those in plain text, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from pydantic import JsonValue

from swarm.generation import Delta, Finish, ToolCallDelta
from swarm.images import is_image

DELETE = "\x7f"  # U+007F
MATCHED_CHARS = 48  # of a control token; what begins with as many of a longer one is broken, too: bounds the expression

Trie = dict[str, "Trie"]


class PlainText:
    """Breaks the control tokens of one vocabulary. Compiled once for a model; knows nothing of requests."""

    def __init__(self, controls: Iterable[str] = ()) -> None:
        # A token of one character cannot be broken, and none has been seen.
        texts = sorted({text[:MATCHED_CHARS] for text in controls if len(text) > 1 and DELETE not in text})
        self._tokens = _after_first(texts)
        rests = [text[1:] for text in texts if len(text) > 2]
        self._rests = re.compile(_any_of(rests)) if rests else None
        self._beginnings = frozenset(text[:size] for text in texts for size in range(2, len(text)))
        self._first = frozenset(text[0] for text in texts)
        self._longest = max(map(len, texts), default=0)
        # Between which two characters a DELETE may have been put.
        self.pairs = frozenset(text[at : at + 2] for text in texts for at in (0, 1) if len(text) > at + 1)

    def text(self, text: str) -> str:
        """`text`, so that no control token is in it or comes about with what stands before or after it."""
        if self._tokens is None:
            return text
        text = self._tokens.sub(_joined, text)
        if self._rests is not None and self._rests.match(text):
            text = text[0] + DELETE + text[1:]
        while (begun := self._begun(text)) is not None:
            text = text[: begun + 1] + DELETE + text[begun + 1 :]
        return text

    def _begun(self, text: str) -> int | None:
        """Where the beginning of a control token stands that ends `text`; a single character is no beginning."""
        for at in range(max(0, len(text) - self._longest + 1), len(text) - 1):
            if text[at] in self._first and text[at:] in self._beginnings:
                return at
        return None

    def value(self, value: JsonValue) -> JsonValue:
        """JSON with every text in it broken, names of properties included."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(name): self.value(member) for name, member in value.items()}
            case list():
                return [self.value(member) for member in value]
            case _:
                return value

    def json_text(self, text: str) -> str:
        """A JSON text, which a template may have parsed and written anew: `\\u003c|im_end|>` is a token then.

        What has nothing to break stays as it is; what is no JSON is broken like any text.
        """
        if self._tokens is None or not ("\\" in text or self._tokens.search(text)):
            return text
        try:
            parsed: JsonValue = json.loads(text)
            broken = self.value(parsed)
        except (ValueError, RecursionError):
            return self.text(text)
        return text if broken == parsed else json.dumps(broken, ensure_ascii=False)

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """One turn, with everything that a client wrote in it broken."""
        plain: dict[str, Any] = {}
        for name, member in message.items():
            if name == "role":
                plain[name] = member
            elif name == "tool_calls":
                plain[name] = [self._call(call) for call in cast("list[Mapping[str, Any]]", member)]
            elif name == "content" and message["role"] == "tool" and isinstance(member, str):
                plain[name] = self.text(self.json_text(member))  # some templates take results apart
            elif name == "content" and isinstance(member, list):  # the template sees no image, and base64 has no token
                parts = cast("list[JsonValue]", member)
                plain[name] = [part if is_image(part) else self.value(part) for part in parts]
            else:
                plain[name] = self.value(member)
        return plain

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = cast("Mapping[str, Any]", call["function"])
        given: JsonValue = function["arguments"]
        arguments = self.json_text(given) if isinstance(given, str) else self.value(given)
        plain = {"name": self.text(cast("str", function["name"])), "arguments": arguments}
        return {**call, "id": self.text(str(call.get("id", ""))), "function": plain}

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat's body for llama.cpp. The prompt of a completion keeps its special tokens: they are what it is for."""
        if self._tokens is None or "messages" not in body:
            return body
        plain = {**body, "messages": [self.message(message) for message in body["messages"]]}
        for name in ("tools", "response_format"):
            if name in body:
                plain[name] = self.value(body[name])
        return plain


def _joined(first: re.Match[str]) -> str:
    return first[0] + DELETE


def _after_first(texts: list[str]) -> re.Pattern[str] | None:
    """Matches the first character of each of `texts`, wherever one stands; so those that overlap are found as well."""
    if not texts:
        return None
    rests: dict[str, list[str]] = {}
    for text in texts:
        rests.setdefault(text[0], []).append(text[1:])
    return re.compile("|".join(f"{re.escape(first)}(?={_any_of(rest)})" for first, rest in rests.items()))


def _any_of(texts: Iterable[str]) -> str:
    """An expression for any of `texts` that looks at each character once, however many there are."""
    trie: Trie = {}
    for text in texts:
        node = trie
        for char in text:
            node = node.setdefault(char, {})
        node[""] = {}
    return _expression(trie)


def _expression(trie: Trie) -> str:
    """A text that another begins with is enough: what matches the longer one matches the shorter."""
    if not trie or "" in trie:
        return ""
    members = [re.escape(char) + _expression(rest) for char, rest in trie.items()]
    return members[0] if len(members) == 1 else f"(?:{'|'.join(members)})"


class Restored:
    """One answer's texts without the DELETEs that the model copied. One is held back until what follows it came."""

    def __init__(self, plain: PlainText) -> None:
        self._pairs = plain.pairs
        self._channels: dict[str | int, _Channel] = {}  # "text", "reasoning", or the index of a call

    def read(self, event: Delta | Finish) -> list[Delta | Finish]:
        """The events to show instead of `event`."""
        if not self._pairs:
            return [event]
        if isinstance(event, Finish):
            return [*self._held(event.choice), event]
        text, reasoning = self._clean("text", event.text), self._clean("reasoning", event.reasoning)
        if text is event.text and reasoning is event.reasoning and not event.tool_calls:
            return [event]
        calls = tuple(map(self._call, event.tool_calls))
        if not (text or reasoning or event.logprobs or any(c.id or c.name or c.arguments for c in calls)):
            return []
        return [replace(event, text=text, reasoning=reasoning, tool_calls=calls)]

    def _clean(self, channel: str | int, text: str) -> str:
        if not text:
            return text
        found = self._channels.get(channel)
        if found is None:
            found = self._channels[channel] = _Channel()
        return found.feed(text, self._pairs)

    def _call(self, call: ToolCallDelta) -> ToolCallDelta:
        name = call.name and _Channel().feed(call.name, self._pairs)
        return replace(call, name=name, arguments=self._clean(call.index, call.arguments))

    def _held(self, choice: int) -> list[Delta | Finish]:
        """Joiners that ended an answer. After what may begin a control token one is ours, and the answer was cut."""
        begin = {pair[0] for pair in self._pairs}
        left = (channel for channel, found in self._channels.items() if found.held and found.last not in begin)
        return [_delta(choice, channel, DELETE) for channel in left]


class _Channel:
    """What is remembered of one text as it grows."""

    def __init__(self) -> None:
        self.held = False
        self.last = ""

    def feed(self, text: str, pairs: frozenset[str]) -> str:
        if DELETE not in text and not self.held:
            self.last = text[-1]
            return text
        whole = self.last + (DELETE if self.held else "") + text
        kept = len(self.last)
        self.held = whole.endswith(DELETE)
        before, *pieces = whole.removesuffix(DELETE).split(DELETE)
        for piece in pieces:
            joined = before[-1:] + piece[:1] in pairs
            before += piece if joined else DELETE + piece
        shown = before[kept:]
        self.last = before[-1:]
        return shown


def _delta(choice: int, channel: str | int, text: str) -> Delta:
    if isinstance(channel, int):
        return Delta(choice, tool_calls=(ToolCallDelta(channel, None, None, text),))
    return Delta(choice, text) if channel == "text" else Delta(choice, reasoning=text)
