"""Tool calls of other servers that are not quite JSON, put right where nothing can be lost or guessed. Pure.

What is put right, and each is in the public reports of `tests/engines/broken_calls.py`:

| word             | what came                                             | what it becomes                      |
|------------------|-------------------------------------------------------|--------------------------------------|
| `name`           | `functions.bash`, `functions.bash:0`, `Bash`          | the one tool that it can mean        |
| `fence`          | a Markdown fence around all of it                     | what is in it                        |
| `encoded_twice`  | a JSON string whose text is the object, or the array  | what its text is                     |
|                  | or object that the schema wants of a property         |                                      |
| `trailing_comma` | a comma before a closing bracket                      | no comma                             |
| `python`         | single quotes, True, False, None                      | JSON's                               |
| `control`        | line ends and tabs as they are within a string        | their escapes                        |
| `no_arguments`   | nothing, for a tool that declares no parameter        | an empty object                      |
| `remark`         | a property left out that only comments on the others  | an empty text                        |

Nothing that is open is ever closed: half a command is another command. The last call of an answer that ended at its
length is left as it is, and so is one that does not keep its tool's schema afterwards, whose keys repeat, or that is
broken in any other way: in a vote it abstains, and another voter is the retry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final, Literal, cast, get_args

from pydantic import JsonValue

from swarm.engines.schema_check import violations
from swarm.generation import (
    REMARK,
    SHELL_TOOLS,
    Candidate,
    Delta,
    EventStream,
    Finish,
    FinishReason,
    GenerationRequest,
    JsonObject,
    ToolCallDelta,
    ToolSpec,
)

Repair = Literal["name", "fence", "encoded_twice", "trailing_comma", "python", "control", "no_arguments", "remark"]
REPAIRS: Final[tuple[Repair, ...]] = get_args(Repair)

MAX_CHARS: Final = 262_144  # of one call's arguments; longer ones are left as they are
MAX_DEPTH: Final = 64
MAX_NAME_CHARS: Final = 512
MOST_HELD_CHARS: Final = 1000
COMPLETE: Final[frozenset[FinishReason]] = frozenset({"stop", "tool_calls"})  # after another end a call may be half

NAMESPACES: Final = ("functions.", "function.", "tools.", "tool.", "default_api.", "functions:", "functions/")
"""What models write before a name: the namespace that OpenAI's and Google's prompts show tools in."""
_COUNTED = re.compile(r":\d{1,4}$")  # Kimi's ids are functions.NAME:0, and come as names
FENCE: Final = "```"
_LANGUAGE = re.compile(r"[A-Za-z0-9_+-]*")
_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE = re.compile(r"'((?:[^'\\\n]|\\.)*)'")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")
WORDS: Final = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}


class _Broken(ValueError):
    """Not to be put right."""


@dataclass(frozen=True, slots=True)
class RepairedCall:
    """A call as it is given, and what was put right of it."""

    name: str
    arguments: str
    repairs: frozenset[Repair]


def put_right(name: str, arguments: str, tools: Sequence[ToolSpec]) -> RepairedCall | None:
    """The call as it must be meant; None where it is whole already, or cannot be put right without a guess."""
    tool = tool_meant(name, tools) if len(name) <= MAX_NAME_CHARS else None
    if tool is None or len(arguments) > MAX_CHARS:
        return None
    found: set[Repair] = set() if tool.function.name == name else {"name"}
    try:
        text, value = _read(arguments, found, tool.function.parameters)
    except (_Broken, RecursionError):
        return None
    text, value = _decoded(text, value, tool.function.parameters, found)
    text, value = _with_remarks(text, value, tool, found)
    if not found or violations(tool.function.parameters, value):
        return None
    return RepairedCall(tool.function.name, text, frozenset(found))


def tool_meant(name: str, tools: Sequence[ToolSpec]) -> ToolSpec | None:
    """The one tool that `name` can mean: exactly, without a namespace and a number, or in another case."""
    if (exact := _called(name, tools)) is not None:
        return exact
    bare = _COUNTED.sub("", name.strip())
    bare = next((bare.removeprefix(space) for space in NAMESPACES if bare.startswith(space)), bare)
    if (exact := _called(bare, tools)) is not None:
        return exact
    alike = [tool for tool in tools if tool.function.name.casefold() == bare.casefold()]
    return alike[0] if len(alike) == 1 else None


def _called(name: str, tools: Sequence[ToolSpec]) -> ToolSpec | None:
    return next((tool for tool in tools if tool.function.name == name), None)


# Reading


def _read(text: str, found: set[Repair], schema: JsonObject) -> tuple[str, JsonObject]:
    """Strict JSON of an object that `text` can only mean, and the object; what was put right goes into `found`."""
    if not text.strip():
        if schema.get("properties"):
            raise _Broken  # they may have been lost
        found.add("no_arguments")
        return "{}", {}
    try:
        value = _strict(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return text, value
    if isinstance(value, str):
        found.add("encoded_twice")
        return _read_inner(value, found)
    bare = text.strip()
    if bare.startswith(FENCE) and bare.endswith(FENCE) and len(bare) > 2 * len(FENCE):
        found.add("fence")
        return _read_inner(_LANGUAGE.sub("", bare[len(FENCE) : -len(FENCE)], count=1), found)
    return _read_inner(text, found)


def _read_inner(text: str, found: set[Repair]) -> tuple[str, JsonObject]:
    rewriter = _Rewriter(text)
    strict = rewriter.whole()
    found |= rewriter.found
    try:
        value = _strict(strict)
    except ValueError as error:
        raise _Broken from error
    if not isinstance(value, dict):
        raise _Broken
    return strict, value


def _strict(text: str) -> JsonValue:
    """The value of JSON whose keys do not repeat. Raises ValueError for everything else."""
    return cast("JsonValue", json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant))


def _once_each(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key repeats")
    return value


def _no_constant(word: str) -> JsonValue:
    raise ValueError(f"{word} is not JSON")


class _Rewriter:
    """A text that is nearly JSON as JSON: whatever is JSON already stays as it is, character by character."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._out: list[str] = []
        self.found: set[Repair] = set()

    def whole(self) -> str:
        """The text. Raises _Broken unless all of it is one object."""
        self._space()
        if self._next() != "{":
            raise _Broken
        self._value(MAX_DEPTH)
        self._space()
        if self._at < len(self._text):
            raise _Broken
        return "".join(self._out)

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _copy(self, count: int) -> None:
        self._out.append(self._text[self._at : self._at + count])
        self._at += count

    def _space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._copy(0 if match is None else len(match[0]))

    def _value(self, depth_left: int) -> None:
        if depth_left == 0:
            raise _Broken
        match self._next():
            case "{":
                self._members("}", depth_left)
            case "[":
                self._members("]", depth_left)
            case '"' | "'":
                self._string()
            case _:
                self._scalar()

    def _members(self, closing: str, depth_left: int) -> None:
        self._copy(1)
        self._space()
        while self._next() != closing:
            if closing == "}":
                self._string()
                self._space()
                if self._next() != ":":
                    raise _Broken
                self._copy(1)
                self._space()
            self._value(depth_left - 1)
            self._space()
            if self._next() == closing:
                break
            if self._next() != ",":
                raise _Broken
            comma = len(self._out)
            self._copy(1)
            self._space()
            if self._next() == closing:
                self._out[comma] = ""
                self.found.add("trailing_comma")
        self._copy(1)

    def _string(self) -> None:
        if (double := _DOUBLE.match(self._text, self._at)) is not None:
            if any(escape[1] not in _JSON_ESCAPES and len(escape[1]) == 1 for escape in _ESCAPE.finditer(double[1])):
                raise _Broken
            self._out.append(f'"{self._controlled(double[1])}"')
            self._at = double.end()
        elif (single := _SINGLE.match(self._text, self._at)) is not None:
            self.found.add("python")
            self._out.append(f'"{self._controlled(_from_python(single[1]))}"')
            self._at = single.end()
        else:
            raise _Broken

    def _controlled(self, content: str) -> str:
        if _CONTROL.search(content) is None:
            return content
        self.found.add("control")
        return _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], content)

    def _scalar(self) -> None:
        if (number := _NUMBER.match(self._text, self._at)) is not None:
            self._copy(len(number[0]))
            return
        word = _WORD.match(self._text, self._at)
        if word is None or word[0] not in WORDS:
            raise _Broken
        if WORDS[word[0]] != word[0]:
            self.found.add("python")
        self._out.append(WORDS[word[0]])
        self._at = word.end()


_JSON_ESCAPES: Final = '"\\/bfnrt'
_PYTHON_ESCAPES: Final = "\\bfnrt"  # that mean the same in both; others are somebody's mistake


def _from_python(content: str) -> str:
    """What stands between single quotes, as it stands between double ones. Raises _Broken for escapes of one language.

    A backslash that means another thing in each of them is a guess: `\\d`, `\\x41`, `\\/`.
    """

    def rewritten(found: re.Match[str]) -> str:
        if found[0] == '"':
            return '\\"'
        escape = found[0][1:]
        if escape in ("'", '"'):
            return escape if escape == "'" else '\\"'
        if len(escape) == 1 and escape not in _PYTHON_ESCAPES:
            raise _Broken
        return found[0]

    return re.sub(r'"|\\(?:u[0-9a-fA-F]{4}|.)', rewritten, content, flags=re.DOTALL)


def _decoded(text: str, value: JsonObject, schema: JsonObject, found: set[Repair]) -> tuple[str, JsonObject]:
    """Both with the arrays and objects that properties must be, where a string has the whole text of one."""
    properties = schema.get("properties")
    inner: dict[str, tuple[str, JsonValue]] = {}
    for name, member in value.items():
        wanted = properties.get(name) if isinstance(properties, dict) else None
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        if not isinstance(member, str) or not member.startswith({"array": "[", "object": "{"}.get(str(kind), "\0")):
            continue
        try:
            inner[name] = member, _strict(member)
        except (ValueError, RecursionError):
            continue
    if not inner:
        return text, value
    found.add("encoded_twice")
    pieces, at = list[str](), 0
    for name, start, end in _spans(text):
        if name in inner:
            pieces += [text[at:start], inner[name][0]]
            at = end
    return "".join([*pieces, text[at:]]), value | {name: read for name, (_, read) in inner.items()}


def _spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Each member of the object that strict JSON is: its name, and where its value is."""
    decoder = json.JSONDecoder()
    at = text.index("{") + 1
    while True:
        at = _past(text, at, " \t\r\n,")
        if text[at] == "}":
            return
        name, at = cast("tuple[str, int]", decoder.raw_decode(text, at))
        start = _past(text, at, " \t\r\n:")
        _, at = cast("tuple[JsonValue, int]", decoder.raw_decode(text, start))
        yield name, start, at


def _past(text: str, at: int, letters: str) -> int:
    while text[at] in letters:
        at += 1
    return at


def _with_remarks(text: str, value: JsonObject, tool: ToolSpec, found: set[Repair]) -> tuple[str, JsonObject]:
    """Both with an empty remark where a required one was left out: what only comments decides nothing."""
    schema = tool.function.parameters
    required, properties = schema.get("required"), schema.get("properties")
    if not isinstance(required, list) or not isinstance(properties, dict):
        return text, value
    remarks = {name for name, member in properties.items() if isinstance(member, dict) and member.get(REMARK) is True}
    if tool.function.name.casefold() in SHELL_TOOLS:
        remarks.add("description")
    missing = [name for name in required if isinstance(name, str) and name in remarks and name not in value]
    if not missing or len(missing) == len(required):
        return text, value
    found.add("remark")
    added = ", ".join(f'{json.dumps(name, ensure_ascii=False)}: ""' for name in missing)
    head = text.rstrip()[:-1]  # without its closing brace
    return f"{head}{', ' if value else ''}{added}}}", value | dict.fromkeys(missing, "")


# Answers


def repaired_candidate(candidate: Candidate, request: GenerationRequest) -> Candidate:
    """A whole answer with its calls put right, where they need it."""
    if candidate.error is not None:
        return candidate
    calls, repairs = list(candidate.tool_calls), set(candidate.repaired)
    whole = len(calls) if candidate.finish_reason in COMPLETE else len(calls) - 1
    for place, call in enumerate(calls[: max(whole, 0)]):
        if (right := put_right(call.name, call.arguments, request.tools)) is not None:
            calls[place] = call.model_copy(update={"name": right.name, "arguments": right.arguments})
            repairs |= right.repairs
    if repairs == set(candidate.repaired):
        return candidate
    return candidate.model_copy(update={"tool_calls": tuple(calls), "repaired": tuple(sorted(repairs))})


async def with_repaired_calls(events: EventStream, request: GenerationRequest) -> EventStream:
    """The same events, with calls put right.

    What is JSON so far goes on at once; from the first character that is not, a call is held until the answer ends.
    """
    answers: dict[int, _CallsOfAnswer] = {}
    async with aclosing(events):
        async for event in events:
            answer = answers.setdefault(event.choice, _CallsOfAnswer(request.tools))
            for given in answer.given(event):
                yield given


@dataclass(slots=True)
class _CallsOfAnswer:
    """The calls of one choice while they come."""

    tools: Sequence[ToolSpec]
    calls: dict[int, _ComingCall] = field(default_factory=dict[int, "_ComingCall"])
    repairs: set[Repair] = field(default_factory=set[Repair])

    def given(self, event: Delta | Finish) -> Iterator[Delta | Finish]:
        """What is given on for `event`."""
        if isinstance(event, Finish):
            rests = [rest for index in self.calls for rest in self._ended(index, event.reason in COMPLETE)]
            if rests:
                yield Delta(event.choice, tool_calls=tuple(rests))
            repaired = tuple(sorted({*event.repaired, *self.repairs}))
            yield replace(event, repaired=repaired) if self.repairs else event
            return
        passed = tuple(given for piece in event.tool_calls for given in self._pieces(piece))
        if passed or event.text or event.reasoning or event.logprobs is not None:
            yield replace(event, tool_calls=passed)

    def _pieces(self, piece: ToolCallDelta) -> Iterator[ToolCallDelta]:
        if piece.index not in self.calls:
            for earlier in self.calls:  # who begins another call has ended those before it
                yield from self._ended(earlier, complete=True)
        call = self.calls.setdefault(piece.index, _ComingCall())
        if call.ended:
            yield piece
            return
        call.id, call.name = piece.id or call.id, piece.name or call.name
        call.pieces.append(piece.arguments)
        if call.opened:
            if arguments := call.watch.passed(piece.arguments):
                yield ToolCallDelta(piece.index, piece.id, None, arguments)
        elif piece.name and _called(piece.name, self.tools) is not None:  # another's is held until it can be told
            call.opened = True
            yield ToolCallDelta(piece.index, call.id, call.name, call.watch.passed("".join(call.pieces)))

    def _ended(self, index: int, complete: bool) -> Iterator[ToolCallDelta]:
        """What is left to give of a call, put right if it is `complete`."""
        call = self.calls[index]
        if call.ended:
            return
        call.ended = True
        raw, passed = "".join(call.pieces), call.watch.count
        right = put_right(call.name or "", raw, self.tools) if complete else None
        name, rest = call.name, raw[passed:]
        if right is not None and right.arguments.startswith(raw[:passed]):
            name, rest = right.name, right.arguments[passed:]
            self.repairs |= right.repairs
        if not call.opened:
            yield ToolCallDelta(index, call.id, name, rest)
        elif rest:
            yield ToolCallDelta(index, None, None, rest)


@dataclass(slots=True)
class _ComingCall:
    """`opened`: its name was given on; `ended`: all of it was. `pieces` are the arguments as they came."""

    id: str | None = None
    name: str | None = None
    opened: bool = False
    ended: bool = False
    pieces: list[str] = field(default_factory=list[str])
    watch: _Watch = field(default_factory=lambda: _Watch())


@dataclass(slots=True)
class _Watch:
    """How much of a call's arguments stays as it is, whatever follows: `count` characters so far.

    A comma is held until what follows it, and so is the brace that ends the object: a remark may be put before it.
    """

    count: int = 0
    _held: str = ""
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False
    _stopped: bool = False

    def passed(self, piece: str) -> str:
        """What of the arguments can be given on, now that `piece` has come."""
        if self._stopped:
            return ""
        text = self._held + piece
        safe = self._safe(text)
        self._held = text[safe:]
        if len(self._held) > MOST_HELD_CHARS:  # white space without end, which is looked at again with every piece
            self._stopped = True
        self.count += safe
        return text[:safe]

    def _safe(self, text: str) -> int:
        """How many characters are; what is held is looked at again with the next piece."""
        at = safe = 0
        while at < len(text):
            if self._in_string:
                end = _STRING_TURNS.search(text, at) if not self._escaped else None
                if self._escaped:
                    self._escaped = False
                    at += 1
                elif end is None:
                    at = len(text)
                elif end[0] == '"':
                    self._in_string = False
                    at = end.end()
                elif end[0] == "\\":
                    self._escaped = True
                    at = end.end()
                else:
                    return self._stop(end.start())
                safe = at
                continue
            letter = text[at]
            if letter == ",":
                follows = _SPACE.match(text, at + 1)
                after = at + 1 if follows is None else follows.end()
                if after == len(text):
                    return safe
                if text[after] in ",}]" or self._depth == 0:
                    return self._stop(safe)
                at = after
                continue
            if letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return self._stop(safe)
            elif letter == '"':
                if at + 1 == len(text):
                    return safe
                if text[at + 1] in "[{":  # it may be encoded twice
                    return self._stop(safe)
                self._in_string = True
            elif letter not in _BETWEEN:
                return self._stop(safe)
            if self._depth == 0:  # only space may come before the object
                if letter not in " \t\r\n":
                    return self._stop(safe)
                at += 1
                continue
            at += 1
            safe = at
        return safe

    def _stop(self, safe: int) -> int:
        self._stopped = True
        return safe


_STRING_TURNS = re.compile(r'["\\\x00-\x1f]')
_BETWEEN: Final = frozenset(" \t\r\n:0123456789+-.eEtrufalsn")
