"""An engine that plays a part in conversations: thoughts, words and calls of tools, with voters that dissent.

What is said next hangs on the conversation alone, as with a model: a request that is asked again, or of more voters,
finds its turn without any state of whoever asks. It passes the contract suite of the real engines, and is the echo
engine wherever no part is written for what it is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from swarm.engines.assembly import timed
from swarm.engines.echo import EchoEngine, message_text, tokens_of
from swarm.engines.engine import Capabilities, Computation, EngineSpec, refuse_unseen
from swarm.errors import BadRequest, ContextExceeded, EngineFailed, Unavailable
from swarm.generation import (
    Delta,
    EventStream,
    Finish,
    FinishReason,
    GenerationRequest,
    JsonObject,
    ToolCallDelta,
    Usage,
    is_greedy,
    new_call_id,
)

VERSION = "1"
ARGUMENT_PIECE_CHARS = 24  # of a call's arguments in one step


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `tool`: `arguments` as JSON, or any text in its place."""

    tool: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(dict(self.arguments))


@dataclass(frozen=True, slots=True)
class Say:
    """What one voter says in one turn, in this order: thoughts, words, calls. It waits for `gate` before the end."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    gate: asyncio.Event | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: voter 0 says the first of `answers`, voter 1 the second, ...

    All further ones say the last, or begin `again` with the first. Voter 0 is the greedy one, where one is asked for.
    """

    answers: tuple[Say, ...]
    again: bool = False

    def of(self, voter: int) -> Say:
        last = len(self.answers) - 1
        return self.answers[voter % len(self.answers) if self.again else min(voter, last)]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a voter is asked, as scripts look at it: `tools` are the names of those it may call, or has to."""

    messages: tuple[JsonObject, ...]
    tools: tuple[str, ...] = ()
    answer_schema: bool = False  # whether the answer has to be JSON
    must_call: bool = False
    parameters: Mapping[str, JsonObject] = field(default_factory=dict[str, JsonObject])  # of each tool, as JSON schemas

    @property
    def task(self) -> str:
        """What a person said first."""
        return next((message_text(each) for each in self.messages if each.get("role") == "user"), "")

    @property
    def turn(self) -> int:
        """How many turns the model has had."""
        return sum(each.get("role") == "assistant" for each in self.messages)

    @property
    def results(self) -> tuple[str, ...]:
        """What the tools said to the calls of the last turn, in their order."""
        last = max((at for at, each in enumerate(self.messages) if each.get("role") == "assistant"), default=-1)
        return tuple(message_text(each) for each in self.messages[last + 1 :] if each.get("role") == "tool")

    @property
    def all_results(self) -> tuple[str, ...]:
        """What the tools have said, from the first call on."""
        return tuple(message_text(each) for each in self.messages if each.get("role") == "tool")

    @property
    def said(self) -> tuple[str, ...]:
        """All that a person has said."""
        return tuple(message_text(each) for each in self.messages if each.get("role") == "user")


Part = Callable[[Conversation], Turn | Say]


def calls(*each: Call, text: str = "", thinking: str = "") -> Say:
    """A turn in which the model calls tools."""
    return Say(text, thinking, each)


def call(tool: str, **arguments: Any) -> Say:
    """A turn with one call."""
    return Say(calls=(Call(tool, arguments),))


def in_turn(*turns: Turn | Say) -> Part:
    """One after the other, whatever comes back. After the last nothing more is known, and the engine fails."""

    def play(conversation: Conversation) -> Turn | Say:
        if conversation.turn >= len(turns):
            raise EngineFailed(f"the part has {len(turns)} turns, and another one was asked for")
        return turns[conversation.turn]

    return play


class PlayedEngine(EchoEngine):
    """`parts` by the task that they are for: what a person says first. `asked` has every conversation, once a call.

    Voters are counted for each conversation, in the order in which their seeds appear; a seed that comes again is the
    same voter. `part` is played where none is written for the task; None echoes.
    """

    name = "played"

    def __init__(self, spec: EngineSpec, parts: Mapping[str, Part] | None = None, part: Part | None = None) -> None:
        super().__init__(spec)
        self.parts: dict[str, Part] = dict(parts or {})
        self.asked: list[GenerationRequest] = []
        self._part = part
        self._voters: dict[str, dict[int | None, int]] = {}  # of each conversation, by their seeds; None: greedy

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, tools=True)

    @property
    def computation(self) -> Computation:
        return Computation(self.name, VERSION)

    def voters(self, task: str) -> int:
        """How many answers were begun for `task`, over all its turns."""
        return sum(
            len(seeds) for words, seeds in self._voters.items() if Conversation(tuple(json.loads(words))).task == task
        )

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        conversation = Conversation(
            request.messages or (),
            tuple(tool.function.name for tool in request.tools),
            request.response_format is not None,
            request.tool_choice not in ("auto", "none"),
            {tool.function.name: tool.function.parameters for tool in request.tools},
        )
        part = self.parts.get(conversation.task, self._part) if request.messages else None
        if part is None:
            return super().candidates(request, n)
        if not 1 <= n <= self.spec.slots:
            raise BadRequest(f"n is {n}; this model runs 1 to {self.spec.slots} answers at once", param="n")
        refuse_unseen(self, request)
        self.asked.append(request)
        return timed(self._play(request, conversation, part, n))

    async def _play(self, request: GenerationRequest, conversation: Conversation, part: Part, n: int) -> EventStream:
        if self._closed:
            raise Unavailable("the engine is closed")
        prompt = await self.count_tokens(request)
        room = self.spec.context_tokens - prompt
        if room <= 0:
            raise ContextExceeded(prompt, self.spec.context_tokens, param=request.prompt_field)
        said = part(conversation)
        turn = Turn((said,)) if isinstance(said, Say) else said
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        running = {
            choice: _Answer(choice, turn.of(voter), request.stop, limit, prompt)
            for choice, voter in enumerate(self._number(request, n))
        }
        async with self._slots:
            while running:  # all of them a token further, as a batch of an engine goes
                for choice, answer in list(running.items()):
                    if (event := answer.step()) is None:
                        if answer.gate is not None:
                            await answer.gate.wait()
                        del running[choice]
                        yield answer.end()
                        continue
                    self.tokens_generated += 1
                    yield event
                await asyncio.sleep(0)

    def _number(self, request: GenerationRequest, n: int) -> list[int]:
        """Which voters of their conversation these are. A greedy one is voter 0, as may be the first that is not."""
        known = self._voters.setdefault(json.dumps(request.messages), {})
        numbers: list[int] = []
        for choice in range(n):
            if not _greedy(request, choice):
                seed = -1 - len(known) if request.seed is None else request.seed + choice  # without one: somebody new
                numbers.append(known.setdefault(seed, len(known)))
                continue
            if not known:
                known[None] = 0
            numbers.append(0)
        return numbers


def _greedy(request: GenerationRequest, choice: int) -> bool:
    first = None if choice else request.first_temperature
    temperature = request.temperature if first is None else first
    return is_greedy(request.model_copy(update={"temperature": temperature}))


class _Answer:
    """One answer while it is played: a step at a time, within a number of tokens, until a stop sequence."""

    def __init__(self, choice: int, say: Say, stop: Sequence[str], limit: int, prompt_tokens: int) -> None:
        text, self._stop_sequence = _until(say.text, stop)
        self.gate = say.gate
        self._choice = choice
        self._limit = limit
        self._prompt_tokens = prompt_tokens
        self._calls = say.calls if self._stop_sequence is None else ()
        self._steps = self._all(replace(say, text=text, calls=self._calls))
        self._next = next(self._steps, None)
        self._tokens = 0

    def step(self) -> Delta | None:
        """The next token; None at the end."""
        if self._next is None or self._tokens == self._limit:
            return None
        event, self._next = self._next, next(self._steps, None)
        self._tokens += 1
        return event

    def end(self) -> Finish:
        usage = Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens)
        if self._next is not None:
            return Finish(self._choice, "length", usage)
        reason: FinishReason = "tool_calls" if self._calls else "stop"
        return Finish(self._choice, reason, usage, self._stop_sequence)

    def _all(self, say: Say) -> Iterator[Delta]:
        for token in tokens_of(say.thinking):
            yield Delta(self._choice, reasoning=token)
        for token in tokens_of(say.text):
            yield Delta(self._choice, token)
        for index, each in enumerate(say.calls):
            yield Delta(self._choice, tool_calls=(ToolCallDelta(index, new_call_id(), each.tool, ""),))
            for at in range(0, len(each.text), ARGUMENT_PIECE_CHARS):
                piece = ToolCallDelta(index, None, None, each.text[at : at + ARGUMENT_PIECE_CHARS])
                yield Delta(self._choice, tool_calls=(piece,))


def _until(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    at, stop = min(((at, stop) for stop in stops if (at := text.find(stop)) >= 0), default=(len(text), None))
    return text[:at], stop
