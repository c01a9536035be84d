"""Answers for Ollama's clients: one object, or one a line until the one that is `done`, which has what it cost.

`OllamaForm` is their `AnswerForm`. A heartbeat is a line that adds nothing: some clients parse every line, and an empty
one is no JSON. A call is sent whole, since its arguments are an object. `swarm` is in the last object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import JsonValue

from swarm.consensus.options import StreamMode
from swarm.errors import SwarmError
from swarm.gateway.answers.answer_form import CallOpening, Dialect, OpenStream, with_unique_ids
from swarm.gateway.http.bodies import compact
from swarm.gateway.http.errors import ollama_error_object
from swarm.gateway.openai.bodies import as_object
from swarm.generation import Candidate, Delta, Finish, FinishReason, JsonObject, Timings, ToolCall, Usage

NDJSON_HEADERS: Final = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
NS_A_MS: Final = 1_000_000


def now_text() -> str:
    """This moment as Ollama writes it: RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class AnswerClock:
    """When an answer was asked for and when its first piece came, in `time.monotonic_ns()`; None: none came yet."""

    began_ns: int = field(default_factory=time.monotonic_ns)
    first_ns: int | None = None

    def note(self) -> None:
        """A piece of it came."""
        if self.first_ns is None:
            self.first_ns = time.monotonic_ns()

    def durations(self, load_ns: int, ended_ns: int, timings: Timings | None = None) -> JsonObject:
        """Ollama's durations in nanoseconds: all, the load, reading the prompt, and writing the answer.

        The last two are what was measured where the answer was computed (`timings`). Where nobody measured, or there is
        no second token to measure to, they are told by when the first piece came, so that all add up and waiting for a
        free slot counts as reading. Where none was seen to come either, how the time is divided is not known, and all
        of it but the load is `eval_duration`.
        """
        total = max(ended_ns - self.began_ns, 0)
        load = min(load_ns, total)
        left = total - load
        durations: JsonObject = {"total_duration": total, "load_duration": load}
        if timings is not None and timings.predicted_ms:
            evaluated = min(round(timings.predicted_ms * NS_A_MS), left)
            prompt = min(round(timings.prompt_ms * NS_A_MS), left - evaluated)
            return {**durations, "prompt_eval_duration": prompt, "eval_duration": evaluated}
        if self.first_ns is None:
            return {**durations, "eval_duration": left}
        prompt = min(max(self.first_ns - self.began_ns - load, 0), left)
        return {**durations, "prompt_eval_duration": prompt, "eval_duration": left - prompt}


def load_ns_of(extension: JsonObject | None) -> int:
    """How long the answer waited for its model to be loaded, by its `swarm` object; 0 where it ran, or nobody knows."""
    loaded = (extension or {}).get("loaded")
    ms = loaded.get("ms") if isinstance(loaded, dict) else None
    return ms * NS_A_MS if isinstance(ms, int) else 0


def nothing_told() -> JsonObject:
    """Of an answer that has nothing of its own in the `swarm` object."""
    return {}


@dataclass(frozen=True, slots=True)
class OllamaForm:
    """One answer of `/api/chat` or `/api/generate`; `loads`: nothing was asked but that the model is loaded.

    `model` is the name that the client used. `told` has what is added to the `swarm` object, and is asked at the end.
    """

    kind: Literal["chat", "generate"]
    model: str
    loads: bool = False
    told: Callable[[], JsonObject] = nothing_told
    clock: AnswerClock = field(default_factory=AnswerClock)

    @property
    def dialect(self) -> Dialect:
        return Dialect(NDJSON_HEADERS, line({**self.piece(""), "done": False}), failure)

    def first(self) -> None:
        """The answer's first piece came."""
        self.clock.note()

    def piece(
        self, text: str, thinking: str = "", calls: Sequence[ToolCall] = (), logprobs: JsonValue = None
    ) -> JsonObject:
        """The part of an object that has the answer's words; `logprobs` as chats in OpenAI's form have them."""
        head: JsonObject = {"model": self.model, "created_at": now_text(), **likely(logprobs)}
        thought: JsonObject = {"thinking": thinking} if thinking else {}
        if self.kind == "generate":
            return {**head, "response": text, **thought}
        message: JsonObject = {"role": "assistant", "content": text, **thought}
        if calls:
            message["tool_calls"] = [called(index, call) for index, call in enumerate(calls)]
        return {**head, "message": message}

    def ending(self, end: Finish, extension: JsonObject | None, in_pieces: bool) -> JsonObject:
        """The part of the last object that says how the answer ended and what it cost.

        Not `in_pieces`: its words came all at once, so that nobody saw when the first was there.
        """
        seen = in_pieces or end.usage.completion_tokens <= 1
        clock = self.clock if seen else AnswerClock(self.clock.began_ns)
        ended: JsonObject = {
            "done": True,
            "done_reason": "load" if self.loads else done_reason(end.reason),
            **clock.durations(load_ns_of(extension), time.monotonic_ns(), end.timings),
            "prompt_eval_count": end.usage.prompt_tokens,
            "eval_count": end.usage.completion_tokens,
        }
        return self.extended(ended, extension)

    def extended(self, ended: JsonObject, extension: JsonObject | None = None) -> JsonObject:
        """`ended` with the `swarm` object, where there is something to tell."""
        told = self.told()
        return ended if extension is None and not told else {**ended, "swarm": {**(extension or {}), **told}}

    def done(self, reason: Literal["load", "unload"], costs: JsonObject | None = None) -> JsonObject:
        """The answer to who asked that a model goes, or comes that writes nothing."""
        return self.extended({**self.piece(""), "done": True, "done_reason": reason, **(costs or {})})

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        candidate = candidates[0]
        calls = with_unique_ids(candidate.tool_calls)
        words = (candidate.text, candidate.reasoning, calls, candidate.logprobs)
        said = self.piece("") if self.loads else self.piece(*words)
        end = Finish(0, candidate.finish_reason or "stop", candidate.usage, timings=candidate.timings)
        return {**said, **self.ending(end, extension, in_pieces=False)}

    def writer(self, out: OpenStream, choices: int) -> OllamaWriter:
        return OllamaWriter(out, self)


def done_reason(reason: FinishReason) -> str:
    """Ollama's word: an answer that ends in calls has stopped, too."""
    return "length" if reason == "length" else "stop"


def called(index: int, call: ToolCall) -> JsonObject:
    """A call, with its arguments as an object."""
    arguments: JsonValue = json.loads(as_object(call.arguments))
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


def likely(logprobs: JsonValue) -> JsonObject:
    """{"logprobs": [{"token", "logprob", "bytes", "top_logprobs"}, ...]} for each token, where they were asked for."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return {"logprobs": tokens} if isinstance(tokens, list) else {}


def line(body: Mapping[str, object]) -> bytes:
    """An object as one line."""
    return compact(body).encode() + b"\n"


def failure(error: SwarmError) -> bytes:
    """A failure after the status is out, as the stream's last line."""
    return line(ollama_error_object(error))


class OllamaWriter:
    """Writes one answer: a line for each piece, one for its calls, and the one that is done."""

    def __init__(self, out: OpenStream, form: OllamaForm) -> None:
        self._out = out
        self._form = form
        self._opening = CallOpening()
        self._calls: dict[int, tuple[str, str, list[str]]] = {}  # id, name, and the pieces of the arguments
        self._last: JsonObject = {}

    async def begin(self) -> None:
        await self._piece(self._form.piece(""))

    async def delta(self, event: Delta) -> None:
        self._form.first()
        for delta in map(self._opening.opened, event.tool_calls):
            if delta.id is not None:
                self._calls[delta.index] = (delta.id, delta.name or "", [])
            self._calls[delta.index][2].append(delta.arguments)
        if event.text or event.reasoning or event.logprobs:
            await self._piece(self._form.piece(event.text, event.reasoning, logprobs=event.logprobs))

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """The calls, which are whole now. The last line is sent with the stream's end."""
        if self._calls:
            calls = [
                ToolCall(id=made, name=name, arguments="".join(pieces)) for made, name, pieces in self._calls.values()
            ]
            await self._piece(self._form.piece("", calls=calls))
        shown = (extension or {}).get("stream") != StreamMode.BUFFER
        ending = self._form.ending(event, extension, in_pieces=shown)
        self._last = {**self._form.piece(""), **ending}

    async def ballot(self, standing: JsonObject) -> None:
        """A line without words that says how the vote stands."""
        await self._out.write(line({**self._form.piece(""), "done": False, "swarm": {"ballot": standing}}))

    async def end(self, usages: list[Usage]) -> None:
        await self._out.end(line(self._last))

    async def _piece(self, said: JsonObject) -> None:
        await self._out.write(line({**said, "done": False}))
