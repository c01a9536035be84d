"""A generator that says what its prompt tells it to: what `hosted/host.py` runs in tests, with no library behind it.

A token is a byte, and one more ends an answer. The last line of the prompt is what is done:

    say TEXT       the answer is TEXT, in `n` answers with the number of each
    endless        "word word ..." until somebody stops it, whatever `max_tokens` says
    die, freeze    the process ends, or makes no step any more
    break KIND     the job breaks, with that kind
    unreadable N   the first N answers are unreadable calls, then one is text

Its template refuses conversations with "refuse" in them, recurses for those with "recurse" and never ends for those
with "hang in".
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from swarm.engines.hosted.generator import (
    Broke,
    Called,
    Ended,
    GeneratorEvent,
    GeneratorFacts,
    Job,
    LoadOrder,
    Logprobs,
    Piece,
    Read,
    TokenLogprob,
)
from swarm.engines.openai_dialect import NO_TOKENS, TemplateRefused
from swarm.errors import BadRequest, EngineFailed, UnknownArchitecture
from swarm.generation import JsonObject

END = 256


@dataclass(eq=False)
class Answer:
    job: Job
    choice: int
    text: bytes
    made: int = 0
    endless: bool = False


class ScriptedGenerator:
    def __init__(self, order: LoadOrder) -> None:
        said = json.loads(order.path.read_text())
        self._opening: str | None = said.pop("call_opening", None)
        self.facts = GeneratorFacts(
            version="1", slots=order.slots, context_tokens=order.context_tokens, step_tokens=64, embeds=True, **said
        )
        self._begun: list[Job] = []
        self._answers: list[Answer] = []
        self._unreadable = 0

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], variables: Mapping[str, object]
    ) -> str:
        if any("refuse" in str(message.get("content")) for message in messages):
            raise TemplateRefused("this model's chat template does not take this conversation: refused", "messages")
        if any("recurse" in str(message.get("content")) for message in messages):
            raise RecursionError("too deep")
        if any("hang in" in str(message.get("content")) for message in messages):
            threading.Event().wait()
        turns = [*(json.dumps(tool) for tool in tools), *(_turn(message, self._opening) for message in messages)]
        return "\n".join(turns)

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        if not all(0 <= token < END for token in tokens):
            raise BadRequest(NO_TOKENS, "tokens")
        return [bytes([token]) for token in tokens]

    def begin(self, job: Job) -> None:
        self.pieces(job.prompt)
        self._begun.append(job)

    def step(self) -> list[GeneratorEvent]:
        print("libraries print where they like")  # noqa: T201
        events: list[GeneratorEvent] = []
        for job in self._begun:
            events.append(Read(job.id, min(3, len(job.prompt))))
            events += self._told(job)
        self._begun.clear()
        for answer in list(self._answers):
            events += self._next(answer)
        return events

    def stop(self, job: int, choice: int | None = None) -> None:
        self._answers = [
            answer for answer in self._answers if not (answer.job.id == job and choice in (None, answer.choice))
        ]
        if choice is None:
            self._begun = [each for each in self._begun if each.id != job]

    def embed(self, tokens: Sequence[int]) -> list[float]:
        if len(tokens) > 64:
            raise BadRequest("a text has too many tokens", "input")
        return [1.0, float(len(tokens))]

    def abort(self, job: int) -> None:
        pass

    def _told(self, job: Job) -> list[GeneratorEvent]:
        line = bytes(job.prompt).decode("utf-8", "replace").rpartition("\n")[2]
        command, _, text = line.partition(" ")
        if job.schema is not None:
            text = said_in(job.schema)
        elif command == "die":
            os._exit(9)
        elif command == "freeze":
            threading.Event().wait()
        elif command == "break":
            return [Broke(job.id, cast("Any", text), "it broke")]
        elif command == "unreadable":
            self._unreadable += 1
            if self._unreadable <= int(text):
                return [Broke(job.id, "unreadable", "Failed to parse tool call: no JSON")]
            text = "words"
        elif command == "call":
            return [
                event
                for choice in range(job.n)
                for event in (
                    Piece(job.id, choice, 1, b"<call>", kind="call"),
                    Called(job.id, choice, 0, "look", '{"at": 1}'),
                    Ended(job.id, choice, "stop", len(job.prompt), 0, 2),
                )
            ]
        elif command == "endless":
            text = "word "
        for choice in range(job.n):
            own = text if job.n == 1 else f"{text} {choice}"
            self._answers.append(Answer(job, choice, own.encode(), endless=command == "endless"))
        return []

    def _next(self, answer: Answer) -> list[GeneratorEvent]:
        job, choice = answer.job, answer.choice
        if answer.endless and answer.made:
            time.sleep(0.001)  # as long as a quick model takes: whoever reads is not flooded
            answer.made %= len(answer.text)
        if answer.made == len(answer.text):
            self._answers.remove(answer)
            return [Ended(job.id, choice, "stop", len(job.prompt), min(3, len(job.prompt)), answer.made + 1)]
        token = answer.text[answer.made]
        answer.made += 1
        drawn = TokenLogprob(token, bytes([token]), -0.5)
        logprobs = None if job.sampling.top_logprobs is None else Logprobs(drawn, (drawn,) * job.sampling.top_logprobs)
        events: list[GeneratorEvent] = [Piece(job.id, choice, token, bytes([token]), logprobs)]
        if answer.made == job.max_tokens and not answer.endless:
            self._answers.remove(answer)
            events.append(Ended(job.id, choice, "length", len(job.prompt), 0, answer.made))
        return events


def _turn(message: JsonObject, opening: str | None) -> str:
    """Calls in a form of their own, or as OpenAI has them."""
    calls = cast("list[dict[str, Any]]", message.get("tool_calls") or [])
    written = [
        json.dumps(call)
        if opening is None
        else f"{opening}{call['function']['name']} with {json.dumps(call['function']['arguments'])}"
        for call in calls
    ]
    return " ".join(filter(None, (str(message.get("content") or ""), *written)))


def said_in(schema: JsonObject) -> str:
    """Something that keeps `schema`: a call where it is one of a call."""
    text = json.dumps(schema)
    return '{"name": "look", "arguments": {"at": 1}}' if '"arguments"' in text else '{"a": 1}'


def load(order: LoadOrder) -> ScriptedGenerator:
    print("loading")  # noqa: T201
    match order.path.name:
        case "broken":
            raise EngineFailed("no such luck: try another")
        case "unknown":
            raise UnknownArchitecture("unknown model architecture: 'new'")
        case "ends":
            os._exit(3)
        case "hangs":
            threading.Event().wait()
        case _:
            pass
    return ScriptedGenerator(order)


def model_file(folder: Path, name: str = "model", facts: Mapping[str, object] | None = None) -> Path:
    """A file that such a generator loads, with what it is to say of itself."""
    path = folder / name
    path.write_text(json.dumps(facts or {}))
    return path
