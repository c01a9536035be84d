"""One answer's text as mlx-lm's state machine reads it: what is answered, what is thought, and which tools are called.

The machine knows the markers of each model family, and its parsers the forms of their calls. Ours is what is around
it: characters that end in a later token, blanks beside calls and thoughts, and calls that are none.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from swarm.engines.hosted.generator import PieceKind
from swarm.generation import JsonObject

ANSWER, THOUGHT, CALL = "normal", "reasoning", "tool"  # the machine's words
# What parsers raise for a text that is no call of theirs.
NO_CALL = (ValueError, KeyError, IndexError, TypeError, AttributeError, SyntaxError, RecursionError)

CallParser = Callable[[str, Sequence[JsonObject]], object]


class UnreadableCall(ValueError):
    """The model wrote something between the marks of a call that is none."""


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A call of a tool; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ReadText:
    """What one token adds: to the text that is shown as `kind`, and to the calls."""

    text: str = ""
    kind: PieceKind = "answer"
    calls: tuple[ReadCall, ...] = ()


def transitions(
    tool_marks: tuple[str, str] | None,
    thought_marks: tuple[str, str] | None,
    structure: Iterable[str] = (),
    others: Mapping[str, Iterable[Any]] = MappingProxyType({}),
) -> dict[str, list[tuple[str, str]]]:
    """What leads from which state to which, for an answer that may have calls, thoughts, or both.

    Marks of `structure` are left out of an answer. `others` lead elsewhere, as mlx-lm has them of some models. A call
    without a mark at its end goes on to the answer's end.
    """
    states: dict[str, list[tuple[str, str]]] = {ANSWER: [(mark, ANSWER) for mark in structure]}
    if thought_marks is not None:
        states[ANSWER].append((thought_marks[0], THOUGHT))
        states[THOUGHT] = [(thought_marks[1], ANSWER)]
    if tool_marks is not None:
        own = {target for edges in others.values() for _, target in edges}
        for state in (ANSWER, THOUGHT) if CALL not in own else (THOUGHT,):
            if state in states:
                states[state].append((tool_marks[0], CALL))
        states[CALL] = [(tool_marks[1], ANSWER)] if tool_marks[1] else []
    for state, edges in others.items():
        if tool_marks is None and state == CALL:
            continue
        states.setdefault(state, []).extend(
            (text, target) for text, target in edges if target in (ANSWER, THOUGHT) or tool_marks is not None
        )
    return states


@dataclass(slots=True)
class AnswerText:
    """Reads one answer by `machine` (mlx-lm's `TextStateMachine`), from `state` on.

    `parse` reads what stands between the marks of a call; of `tools`, in OpenAI's form, one must be meant.
    """

    machine: Any
    state: str
    parse: CallParser | None = None
    tools: Sequence[JsonObject] = ()
    _position: Any = field(init=False)
    _decoder: codecs.IncrementalDecoder = field(init=False)
    _call: str = field(default="", init=False)
    _blanks: str = field(default="", init=False)  # behind the last word: dropped where a call or the answer follows
    _spoken: bool = field(init=False)  # whether blanks are more than what sets this part apart from the one before
    _apart: str = field(default="", init=False)  # the blanks before a call, where words go on behind it
    _waiting: list[ReadText] = field(default_factory=list[ReadText], init=False)

    def __post_init__(self) -> None:
        self._position = self.machine.make_state(self.state)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._spoken = self.state == ANSWER

    def read(self, text: bytes) -> ReadText:
        """What a token of these bytes adds. Raises UnreadableCall."""
        self._position, segments = self.machine.split(self._position, self._decoder.decode(text))
        was_calling = self.state == CALL
        calls = self._calls_in(segments)
        if self._waiting:
            first = self._waiting.pop(0)
            return ReadText(first.text, first.kind, calls)
        return ReadText("", "call" if was_calling or self.state == CALL else _kind(self.state), calls)

    def end(self, *, whole: bool) -> list[ReadText]:
        """What was held back, where the answer is over. Raises UnreadableCall.

        Of an answer that is not `whole` a call that was begun is none.
        """
        self._position, segments = self.machine.split(self._position, self._decoder.decode(b"", final=True))
        self._position, rest, state = self.machine.flush(self._position)
        calls = self._calls_in([*segments, (state, rest)])
        if self.state == CALL and whole:
            calls += called(self._call, self.parse, self.tools)
        elif self._spoken and self._blanks:
            self._say(self._blanks)
        parts, self._waiting = self._waiting, []
        return [*parts, ReadText("", "call", calls)] if calls else parts

    def _calls_in(self, segments: Iterable[tuple[str | None, str]]) -> tuple[ReadCall, ...]:
        """The calls that end in `segments`; what is said in them waits to be shown."""
        calls: tuple[ReadCall, ...] = ()
        for state, text in segments:
            if state is not None and state != self.state:
                if self.state == CALL:
                    calls += called(self._call, self.parse, self.tools)
                elif self.state == ANSWER:
                    self._apart = self._blanks
                self.state, self._spoken, self._blanks, self._call = state, False, "", ""
            if self.state == CALL:
                self._call += text
                continue
            words = self._blanks + (text if self._spoken else text.lstrip())
            kept = words.rstrip()
            self._blanks = words[len(kept) :]
            if kept:
                if not self._spoken and self.state == ANSWER:
                    kept = self._apart + kept
                self._spoken = True
                self._say(kept)
        return calls

    def _say(self, text: str) -> None:
        kind = _kind(self.state)
        if self._waiting and self._waiting[-1].kind == kind:
            text = self._waiting.pop().text + text
        self._waiting.append(ReadText(text, kind))


def _kind(state: str) -> PieceKind:
    return "thought" if state == THOUGHT else "answer"


def called(text: str, parse: CallParser | None, tools: Sequence[JsonObject]) -> tuple[ReadCall, ...]:
    """The calls in a text that stood between the marks of one. Raises UnreadableCall."""
    try:
        parsed = None if parse is None else parse(text, tools)
        found = cast("list[object]", parsed) if isinstance(parsed, list) else [parsed]
        return tuple(_call(one, tools) for one in found)
    except UnreadableCall:
        raise
    except NO_CALL as error:
        raise UnreadableCall(
            f"it does not match the expected form of a call ({error}): {text.strip()[:200]}"
        ) from error


def _call(parsed: object, tools: Sequence[JsonObject]) -> ReadCall:
    fields = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    name, arguments = fields.get("name"), fields.get("arguments", {})
    if isinstance(arguments, str):  # some models write them as a string of JSON
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UnreadableCall("it does not match the expected form of a call: no name with an object of arguments")
    known = [cast("JsonObject", tool.get("function") or {}).get("name") for tool in tools]
    if name not in known:
        raise UnreadableCall(f"it does not match the expected tools: {name!r} is none of them")
    return ReadCall(name, _json_text(cast("JsonObject", arguments)))


def _json_text(arguments: JsonObject) -> str:
    """`arguments` as JSON. Raises what is in NO_CALL for what JSON has not: NaN, a set, bytes."""
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(arguments)
    return text
