"""Answers put together: events become candidates, and several answers the one stream that an engine promises."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import cast

from pydantic import JsonValue

from federation.tasks import cancel_and_wait
from swarm.generation import (
    SEED_MASK,
    Candidate,
    Delta,
    EventStream,
    Finish,
    FinishReason,
    GenerationRequest,
    JsonObject,
    Timings,
    ToolCall,
    ToolCallDelta,
    Usage,
)

WINDOW = 16  # tokens in a row that a confidence is about: a line of working, a call's arguments
MAX_LOGPROB = 1e9  # in size; beyond it, infinite, or no number at all, it is a peer's rubbish

MAX_UNREAD = 256  # events of answers that run at once; beyond it they wait, and who generates them behind them


@dataclass(slots=True)
class _CallParts:
    id: str
    name: str
    arguments: list[str]


@dataclass(slots=True)
class AnswerBuilder:
    """Collects one choice's events. Tool calls are kept in order of their index; ids are the engine's own."""

    _text: list[str] = field(default_factory=list[str])
    _reasoning: list[str] = field(default_factory=list[str])
    _calls: dict[int, _CallParts] = field(default_factory=dict[int, _CallParts])
    _logprobs: list[JsonValue] = field(default_factory=list[JsonValue])
    reason: FinishReason | None = None
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=Usage)
    repaired: tuple[str, ...] = ()
    timings: Timings | None = None

    def add(self, event: Delta | Finish) -> None:
        if isinstance(event, Finish):
            self.reason, self.stop_sequence, self.usage = event.reason, event.stop_sequence, event.usage
            self.repaired, self.timings = event.repaired, event.timings
            return
        if event.text:
            self._text.append(event.text)
        if event.reasoning:
            self._reasoning.append(event.reasoning)
        for call in event.tool_calls:
            self._add_call(call)
        if event.logprobs is not None:
            self._logprobs.append(event.logprobs)

    def _add_call(self, delta: ToolCallDelta) -> None:
        known = self._calls.setdefault(delta.index, _CallParts("", "", []))
        known.id = delta.id or known.id
        known.name = delta.name or known.name
        known.arguments.append(delta.arguments)

    def candidate(self, voter: str, node: str, model: str, elapsed_ms: int, error: str | None = None) -> Candidate:
        """What has arrived so far as a candidate; `error` says why it is not whole."""
        logprobs = merge_logprobs(self._logprobs)
        drawn = drawn_logprobs(logprobs)
        return Candidate(
            voter=voter,
            node=node,
            model=model,
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(
                ToolCall(id=call.id, name=call.name, arguments="".join(call.arguments))
                for _, call in sorted(self._calls.items())
            ),
            finish_reason=self.reason,
            stop_sequence=self.stop_sequence,
            usage=self.usage,
            timings=self.timings,
            elapsed_ms=elapsed_ms,
            repaired=self.repaired,
            mean_logprob=mean_of(drawn),
            confidence=lowest_window(drawn),
            logprobs=logprobs,
            error=error,
        )


def merge_logprobs(parts: list[JsonValue]) -> JsonValue:
    """The chunks' logprob objects as one: their lists, joined."""
    merged: JsonObject = {}
    for part in parts:
        if not isinstance(part, dict):
            continue
        for key, value in part.items():
            if isinstance(value, list):
                joined = cast("list[JsonValue]", merged.setdefault(key, []))
                joined.extend(value)
    return merged or None


def drawn_logprobs(logprobs: JsonValue) -> list[float]:
    """The log-probabilities of the tokens in OpenAI's chat form (`content`)."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return []
    values = [token.get("logprob") for token in content if isinstance(token, dict)]
    return [float(value) for value in values if isinstance(value, int | float) and abs(value) < MAX_LOGPROB]


def mean_of(numbers: Sequence[float]) -> float | None:
    """Their mean; None without any."""
    return sum(numbers) / len(numbers) if numbers else None


def lowest_window(logprobs: Sequence[float], window: int = WINDOW) -> float | None:
    """The lowest mean of `window` log-probabilities in a row, of all where there are fewer; None without any."""
    if not logprobs:
        return None
    width = min(window, len(logprobs))
    total = lowest = math.fsum(logprobs[:width])
    for at in range(width, len(logprobs)):
        total += logprobs[at] - logprobs[at - width]
        lowest = min(lowest, total)
    return lowest / width


async def timed(events: EventStream, clock: Callable[[], float] = time.perf_counter) -> EventStream:
    """The same events, each end with how long its answer took: by this `clock` in seconds where no engine has said.

    What came in one piece was made before that was seen: then nothing is known of its time.
    """
    begun_s, first_s, steps = clock(), dict[int, float](), dict[int, int]()
    async with aclosing(events):
        async for event in events:
            choice = event.choice
            if isinstance(event, Delta):
                if choice not in first_s:
                    first_s[choice] = clock()
                steps[choice] = steps.get(choice, 0) + 1
            elif event.timings is None and (steps.get(choice, 0) > 1 or event.usage.completion_tokens <= 1):
                ended_s = clock()
                first = first_s.get(choice, ended_s)
                event = replace(
                    event, timings=Timings(prompt_ms=(first - begun_s) * 1000, predicted_ms=(ended_s - first) * 1000)
                )
            yield event


async def together(answers: Sequence[EventStream], counts: Sequence[int] | None = None) -> EventStream:
    """The events of `answers` as they come, numbered in their order. The first that fails ends them all.

    Each stream is one answer, or as many as `counts` says.
    """
    counted = [1] * len(answers) if counts is None else counts
    begins = itertools.accumulate(counted, initial=0)
    events: asyncio.Queue[Delta | Finish | Exception] = asyncio.Queue(MAX_UNREAD)

    async def follow(begin: int, answer: EventStream) -> None:
        try:
            async with aclosing(answer) as stream:
                async for event in stream:
                    await events.put(replace(event, choice=begin + event.choice))
        except Exception as error:  # noqa: BLE001 - raised below, where somebody hears it
            await events.put(error)

    following = [follow(begin, answer) for begin, answer in zip(begins, answers, strict=False)]
    tasks = [asyncio.create_task(each, name="answer of several") for each in following]
    unfinished = sum(counted)
    try:
        while unfinished:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            unfinished -= isinstance(event, Finish)
            yield event
    finally:
        await cancel_and_wait(*tasks)


def numbered(request: GenerationRequest, choice: int) -> GenerationRequest:
    """The request for answer number `choice` of several: where there is a seed, with one of its own."""
    request = drawn_as(request, choice)
    if request.seed is None or choice == 0:
        return request
    return request.model_copy(update={"seed": (request.seed + choice) & SEED_MASK})


def drawn_as(request: GenerationRequest, choice: int) -> GenerationRequest:
    """The request for one answer, at the temperature that answer number `choice` of several has."""
    if request.first_temperature is None:
        return request
    temperature = request.temperature if choice else request.first_temperature
    return request.model_copy(update={"temperature": temperature, "first_temperature": None})


def sampled_anew(request: GenerationRequest, number: int = 1) -> GenerationRequest:
    """The same request for another sample, the `number`th: of a seed these are always the same."""
    seed = random.getrandbits(31) if request.seed is None else (request.seed + number) & SEED_MASK
    return request.model_copy(update={"seed": seed})
