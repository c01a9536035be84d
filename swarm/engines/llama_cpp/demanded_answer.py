"""What form an answer must have: a call that must be made, JSON under a schema, a begun turn that it continues.

Calls. llama.cpp lets a model write prose before a required call, ignores the function that a choice names, and never
calls at all where a response format is set. So in these three cases the answer is generated under a JSON schema whose
objects are calls, {"name": ..., "arguments": ...}, and its text becomes tool-call deltas as it comes. The tools stay
in the prompt. An answer has one call: more than one is what `parallel_tool_calls` allows, never what it demands. Cut by
`max_tokens`, an answer keeps the arguments that it has and its reason "length", as OpenAI has it; a call whose
arguments have not begun is not there at all.

Begun turns, as defined for every API, whatever llama.cpp would make of them:

* a last turn of an assistant with text, or with thoughts, is continued; the answer is what follows it;
* one that says nothing is left out, and the answer is a new turn;
* one with tool calls cannot be continued: what follows are the results of the tools;
* under a grammar (a response format, a call that must be made) nothing is continued. llama.cpp feeds the begun turn to
  the grammar: text that breaks the schema is an error, and a token that ends a turn ends the process. Requests of
  OpenAI's APIs come with a user's turn at the end (`form_asked_for` of the gateway).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from swarm.engines.llama_cpp.grammar import definition, hoisted
from swarm.engines.llama_cpp.plain_text import DELETE
from swarm.engines.llama_cpp.schema_words import OBJECT_KEYWORDS
from swarm.errors import BadRequest, EngineFailed
from swarm.generation import (
    Delta,
    Finish,
    FunctionSpec,
    GenerationRequest,
    JsonObject,
    NamedToolChoice,
    ResponseFormat,
    ToolCallDelta,
    new_call_id,
)

SAID = ("content", "reasoning_content", "tool_calls")  # the parts of a turn that say something
_WHITE_SPACE = " \t\r\n"
_TYPED = frozenset({"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"})
_SHAPED = _TYPED - {"type"} | OBJECT_KEYWORDS
_BRACKET_OR_STRING = re.compile(r'[{}\[\]"]')
# What stands in a string of JSON up to an escape, or a whole one; half of a surrogate pair waits for the other.
_TEXT_OR_ESCAPE = re.compile(
    r'[^"\\]+|\\["\\/bfnrt]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
)
_STRING_END = re.compile(r'["\\]')


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """What an answer is generated under. Unless `required`, it may be other JSON than a call."""

    schema: JsonObject
    names: tuple[str, ...]
    required: bool


def call_grammar(request: GenerationRequest) -> CallGrammar | None:
    """How calls are enforced for `request`; None where llama.cpp's own parser does (or there are no tools)."""
    choice = request.tool_choice
    if not request.tools or choice == "none" or request.messages is None:
        return None
    functions = [tool.function for tool in request.tools]
    names = tuple(function.name for function in functions)
    if isinstance(choice, NamedToolChoice):
        wanted = [function for function in functions if function.name == choice.function.name]
        return CallGrammar(_any_of(wanted, None), (choice.function.name,), required=True)
    if choice == "required":
        return CallGrammar(_any_of(functions, None), names, required=True)
    answer = demanded_schema(request.response_format)
    if answer is None:
        return None
    return CallGrammar(_any_of(functions, answer, is_strict(request.response_format)), names, required=False)


def demanded_schema(wanted: ResponseFormat | None) -> JsonObject | None:
    """The schema that an answer must have; None where it may be text."""
    if wanted is None or wanted.type == "text":
        return None
    match wanted.type:
        case "choice":
            return {"enum": list(wanted.choice or ())}
        case "regex":
            return {"type": "string", "pattern": f"^(?:{wanted.regex})$"}
        case _:
            return {"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_


def is_quoted(request: GenerationRequest) -> bool:
    """Whether the answer is to be a text, which the grammar has as one of JSON."""
    return demanded_schema(request.response_format) is not None and not (
        request.response_format is not None and request.response_format.is_json
    )


def is_strict(wanted: ResponseFormat | None) -> bool:
    """Whether the demanded form must be kept in everything that it says."""
    return wanted is not None and (wanted.is_strict or wanted.type in ("choice", "regex"))


def _any_of(functions: list[FunctionSpec], answer: JsonObject | None, strict: bool = False) -> JsonObject:
    """A schema of a call of any of `functions`, or of `answer`. Each keeps its own `$defs` below its own name."""
    parts = {
        f"arguments{number}": (arguments_schema(function), bool(function.strict))
        for number, function in enumerate(functions)
    }
    members: list[JsonObject] = [_call(function, f"arguments{number}") for number, function in enumerate(functions)]
    if answer is not None:
        parts["answer"] = answer, strict
        members.append({"$ref": definition("answer")})
    return hoisted(parts, members[0] if len(members) == 1 else {"anyOf": list(members)})


def _call(function: FunctionSpec, part: str) -> JsonObject:
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": {"$ref": definition(part)}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def arguments_schema(function: FunctionSpec) -> JsonObject:
    """The parameters as a schema that only objects keep. A tool that names none takes none: its arguments are `{}`."""
    schema = function.parameters
    if not _SHAPED & schema.keys():
        return {**schema, "type": "object", "properties": {}}
    return schema if _TYPED & schema.keys() else {**schema, "type": "object"}


class CallReader:
    """Turns the text of one answer, generated under a `CallGrammar`, into events."""

    def __init__(self, grammar: CallGrammar) -> None:
        self._grammar = grammar
        self._heads = {
            f'{{"name":{json.dumps(said, ensure_ascii=False)},"arguments":{{': name
            for name in grammar.names
            for said in (name, name.replace(DELETE, ""))  # which answers come without, see `plain_text.py`
        }
        self._head = _Head()
        self._arguments: _ObjectText | None = None
        self._is_text = False

    def read(self, event: Delta | Finish) -> Delta | Finish | None:
        """The event as a client may see it; None where it shows nothing."""
        if isinstance(event, Finish):
            return self._finish(event)
        if self._is_text or not event.text:
            return event
        text, calls = self._split(event.text)
        if not (text or calls or event.reasoning or event.logprobs):
            return None
        return replace(event, text=text, tool_calls=calls)

    def _split(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        if self._arguments is not None:
            more = self._arguments.feed(text)
            return "", (ToolCallDelta(0, None, None, more),) if more else ()
        rest = self._head.feed(text, self._heads)
        if rest is not None:
            self._arguments = _ObjectText()
            name = self._heads[self._head.squeezed]
            return "", (ToolCallDelta(0, new_call_id(), name, self._arguments.feed(rest)),)
        if self._may_be_call():
            return "", ()
        if self._grammar.required:
            raise EngineFailed("the engine did not make the call that was required")
        self._is_text = True
        return self._head.raw, ()

    def _may_be_call(self) -> bool:
        return any(head.startswith(self._head.squeezed) for head in self._heads)

    def _finish(self, event: Finish) -> Finish:
        """A whole call ends with "tool_calls"; one that is not whole was cut, by whatever."""
        if self._is_text:
            return event
        whole = self._arguments is not None and self._arguments.closed
        if event.reason == "stop":
            return replace(event, reason="tool_calls" if whole else "length")
        return event


class QuotedText:
    """Turns the JSON text of one answer that is a string into the text that it stands for."""

    def __init__(self) -> None:
        self._waiting = ""  # half of an escape
        self._opened = False
        self._closed = False

    def read(self, event: Delta | Finish) -> Delta | Finish:
        """The event as a client may see it."""
        if isinstance(event, Finish) or not event.text:
            return event
        return replace(event, text=self._unquoted(self._waiting + event.text))

    def _unquoted(self, text: str) -> str:
        self._waiting = ""
        if not self._opened:
            text = text.lstrip(_WHITE_SPACE)
            if not text:
                return ""
            if text[0] != '"':  # no string of JSON: whatever it is, it is shown
                self._opened, self._closed = True, False
                return text
            self._opened, text = True, text[1:]
        made: list[str] = []
        while text and not self._closed:
            found = _TEXT_OR_ESCAPE.match(text)
            if found is None:
                self._closed = text[0] == '"'
                self._waiting = "" if self._closed else text
                break
            made.append(found[0] if found[0][0] != "\\" else json.loads(f'"{found[0]}"'))
            text = text[found.end() :]
        return "".join(made)


class _Head:
    """The beginning of the JSON text, up to where it is known whether it is a call."""

    def __init__(self) -> None:
        self.raw = ""
        self.squeezed = ""  # without the white space between tokens
        self._in_string = False
        self._escaped = False

    def feed(self, text: str, heads: dict[str, str]) -> str | None:
        """What follows a whole head, its brace included; None while, or as long as, there is none."""
        for position, char in enumerate(text):
            if self._in_string or char not in _WHITE_SPACE:
                self.squeezed += char
            self._track(char)
            if self.squeezed in heads:
                return text[position:]
        self.raw += text
        return None

    def _track(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string and char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = not self._in_string


class _ObjectText:
    """The text of one JSON object as it grows; what follows its last brace is not part of it."""

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> str:
        """The part of `text` that belongs to the object."""
        if self.closed:
            return ""
        position = 0
        if self._escaped:
            position, self._escaped = 1, False
        while found := (_STRING_END if self._in_string else _BRACKET_OR_STRING).search(text, position):
            position = found.end()
            self._step(found[0])
            if self._escaped and position < len(text):
                position, self._escaped = position + 1, False
            if self.closed:
                return text[:position]
        return text

    def _step(self, mark: str) -> None:
        if mark == '"':
            self._in_string = not self._in_string
        elif mark == "\\":
            self._escaped = True
        else:
            self._depth += 1 if mark in "{[" else -1
            self.closed = self._depth == 0


def begun_turn(messages: tuple[JsonObject, ...] | None) -> int | None:
    """Which of `messages` is the assistant's turn that the answer continues; None where it is a turn of its own."""
    kept = len(spoken_turns(messages or ()))
    return kept - 1 if messages and kept and messages[kept - 1]["role"] == "assistant" else None


def spoken_turns(messages: tuple[JsonObject, ...]) -> tuple[JsonObject, ...]:
    """`messages` without turns of an assistant at the end that say nothing."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant" and not any(messages[end - 1].get(part) for part in SAID):
        end -= 1
    return messages[:end]


def refuse_impossible_turns(request: GenerationRequest) -> None:
    """Raises BadRequest naming the turn that cannot be continued as `request` asks."""
    messages = request.messages
    if messages is None:
        return
    if not spoken_turns(messages):
        raise BadRequest("messages: nothing is said in any of them: send a user's message", param="messages")
    last = begun_turn(messages)
    if last is None:
        return
    if messages[last].get("tool_calls"):
        raise BadRequest(
            "messages: the last one is an assistant's with tool_calls, and an answer follows their results: send those "
            "as messages of role tool, or leave the turn out",
            param="messages",
        )
    field = "response_format" if demanded_schema(request.response_format) is not None else "tool_choice"
    if field == "response_format" or call_grammar(request) is not None:
        raise BadRequest(
            f"messages: the last one is an assistant's, which the answer would continue, and {field} fixes the form of "
            f"the whole answer: end with a user's message, or leave {field} out",
            param="messages",
        )


def continuing(request: GenerationRequest) -> dict[str, Any]:
    """The turns for llama.cpp, and what tells it to go on with the last one: by itself it does so where it likes."""
    assert request.messages is not None
    turns: dict[str, Any] = {"messages": list(spoken_turns(request.messages))}
    if begun_turn(request.messages) is not None:
        turns |= {"continue_final_message": True, "add_generation_prompt": False}
    return turns
