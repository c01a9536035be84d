"""OpenAI's forms of an answer: chat and plain completions, whole and as the chunks of a stream.

A stream's constant head is encoded once; per token only the delta is. `/v1/completions` has log-probabilities as
parallel lists, where chat has one object for each token.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from pydantic import JsonValue

from swarm.gateway.answers.answer_form import SSE, CallOpening, Dialect, OpenStream, honest_reason, message_object
from swarm.gateway.http.bodies import compact
from swarm.gateway.openai.tools import input_of
from swarm.generation import Candidate, Delta, Finish, FinishReason, JsonObject, Timings, ToolCallDelta, Usage

STOP_REASON = "stop_reason"  # of a choice: vLLM's name for the stop sequence that was hit, which OpenAI has none for
DONE = b"data: [DONE]\n\n"


def text_logprobs(logprobs: JsonValue, offset: int) -> JsonValue:
    """Chat's `content` list as `tokens`, `token_logprobs`, `top_logprobs`, `text_offset`; anything else as it is.

    `offset` is where the first token begins in the choice's text, in characters.
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return logprobs
    tokens: list[JsonValue] = []
    values: list[JsonValue] = []
    tops: list[JsonValue] = []
    offsets: list[JsonValue] = []
    for entry in content:
        if not isinstance(entry, dict):
            continue
        token = str(entry.get("token", ""))
        tokens.append(token)
        values.append(entry.get("logprob"))
        tops.append(_top(entry.get("top_logprobs")))
        offsets.append(offset)
        offset += len(token)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _top(entries: JsonValue) -> JsonObject:
    """The likeliest tokens as one object, token to log-probability."""
    found = cast("list[JsonValue]", entries) if isinstance(entries, list) else []
    return {str(entry.get("token", "")): entry.get("logprob") for entry in found if isinstance(entry, dict)}


def usage_object(usage: Usage) -> JsonObject:
    """{"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details": {"cached_tokens"}}."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def timings_object(usage: Usage, timings: Timings) -> JsonObject:
    """How long an answer of `usage` took, under llama-server's names and by its rules.

    The rate of writing leaves the first token out, which reading the prompt has made, and is 0 where there is no other.
    """
    read, written = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": read,
        "prompt_ms": timings.prompt_ms,
        "prompt_per_token_ms": _quotient(timings.prompt_ms, read),
        "prompt_per_second": _quotient(read * 1000, timings.prompt_ms),
        "predicted_n": written,
        "predicted_ms": timings.predicted_ms,
        "predicted_per_token_ms": _quotient(timings.predicted_ms, written - 1),
        "predicted_per_second": _quotient((written - 1) * 1000, timings.predicted_ms),
    }


def _quotient(above: float, below: float) -> float:
    return above / below if above > 0 and below > 0 else 0.0


def add_usage(usages: list[Usage]) -> Usage:
    """Usage of several choices of one prompt: the prompt counts once, the completions add up."""
    if not usages:
        return Usage()
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=usages[0].cached_tokens,
    )


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """One response's constant parts. `kind` decides between the two dialects; `echo` is repeated before plain text."""

    kind: Literal["chat", "text"]
    model: str
    include_usage: bool = False
    echo: str = ""
    may_call: bool = False  # tools are offered
    custom: frozenset[str] = frozenset()  # which of them take free text
    functions: bool = False  # they were offered as functions, as before there were tools, and are called so
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def _identity(self) -> JsonObject:
        prefix = "chatcmpl" if self.kind == "chat" else "cmpl"
        return {"id": f"{prefix}-{self.id}", "created": self.created, "model": self.model}

    def head(self) -> str:
        """The constant beginning of every chunk, up to its choices."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return "data: " + compact({**self._identity, "object": name})[:-1] + ',"choices":['

    def tail(self, extension: JsonObject | None = None, timings: JsonObject | None = None) -> str:
        """The end of a chunk after its choices, with the `swarm` object and the timings where there are any."""
        swarm = "" if extension is None else f',"swarm":{compact(extension)}'
        took = "" if timings is None else f',"timings":{compact(timings)}'
        usage = ',"usage":null' if self.include_usage else ""
        return f"]{swarm}{took}{usage}}}\n\n"

    def usage_chunk(self, usage: Usage, timings: JsonObject | None = None) -> str:
        """The chunk after the last choice has ended: no choices, only what it cost, and how long it took."""
        took = "" if timings is None else f',"timings":{compact(timings)}'
        return f'{self.head()}],"usage":{compact(usage_object(usage))}{took}}}\n\n'

    def opening(self, choice: int, calls: bool) -> str | None:
        """The first chunk's choice: the role, once; for plain text the echoed prompt, if there is one.

        `calls`: what follows is a call, as far as is known. Its content is null, as OpenAI has it.
        """
        if self.kind == "chat":
            content = "null" if calls else '""'
            return f'{{"index":{choice},"delta":{{"role":"assistant","content":{content}}},"finish_reason":null}}'
        if not self.echo:
            return None
        return f'{{"index":{choice},"text":{compact(self.echo)},"logprobs":null,"finish_reason":null}}'

    def delta(self, event: Delta) -> str:
        """A choice with what this step added."""
        logprobs = "" if event.logprobs is None else f',"logprobs":{compact(event.logprobs)}'
        if self.kind == "text":
            return f'{{"index":{event.choice},"text":{compact(event.text)}{logprobs},"finish_reason":null}}'
        parts: list[str] = []
        if event.reasoning:
            parts.append(f'"reasoning_content":{compact(event.reasoning)}')
        if event.text:
            parts.append(f'"content":{compact(event.text)}')
        if event.tool_calls and self.functions:
            parts.extend(f'"function_call":{compact(_function(call))}' for call in event.tool_calls if call.index == 0)
        elif event.tool_calls:
            parts.append(f'"tool_calls":{compact([self._call_delta(call) for call in event.tool_calls])}')
        return f'{{"index":{event.choice},"delta":{{{",".join(parts)}}}{logprobs},"finish_reason":null}}'

    def _call_delta(self, call: ToolCallDelta) -> JsonObject:
        if call.id is None:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        known: JsonObject = {"index": call.index, "id": call.id}
        if call.name in self.custom:
            return {**known, "type": "custom", "custom": {"name": call.name, "input": ""}}
        return {**known, "type": "function", "function": _function(call)}

    def inputs(self, choice: int, inputs: Mapping[int, Sequence[str]]) -> str:
        """A choice with the inputs of its calls of custom tools, by their index."""
        calls: list[JsonValue] = [
            {"index": index, "custom": {"input": input_of("".join(parts))}} for index, parts in inputs.items()
        ]
        return f'{{"index":{choice},"delta":{{"tool_calls":{compact(calls)}}},"finish_reason":null}}'

    def reason(self, reason: FinishReason) -> str:
        """Why a choice ended, in the words of its client."""
        return "function_call" if self.functions and reason == "tool_calls" else reason

    def finish(self, choice: int, reason: FinishReason, stop: str | None = None) -> str:
        """A choice's last chunk: nothing new, why it ended, and by which stop sequence, if by one."""
        empty = '"delta":{}' if self.kind == "chat" else '"text":""'
        word = "" if stop is None else f',"{STOP_REASON}":{compact(stop)}'
        return f'{{"index":{choice},{empty},"finish_reason":"{self.reason(reason)}"{word}}}'

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        """The response of a request that does not stream."""
        choices: list[JsonValue] = [self._choice(index, candidate) for index, candidate in enumerate(candidates)]
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        usage = usage_object(add_usage([candidate.usage for candidate in candidates]))
        body: JsonObject = {**self._identity, "object": name, "choices": choices, "usage": usage}
        if (timings := candidates[0].timings) is not None:
            body["timings"] = timings_object(candidates[0].usage, timings)
        return body if extension is None else {**body, "swarm": extension}

    def _choice(self, index: int, candidate: Candidate) -> JsonObject:
        reason = honest_reason(candidate.finish_reason or "stop", bool(candidate.tool_calls))
        ended: JsonObject = {"finish_reason": self.reason(reason)}
        if candidate.stop_sequence is not None:
            ended[STOP_REASON] = candidate.stop_sequence
        if self.kind == "chat":
            message, logprobs = self._message(candidate), candidate.logprobs
            return {"index": index, "message": message, "logprobs": logprobs, **ended}
        text, logprobs = self.echo + candidate.text, text_logprobs(candidate.logprobs, len(self.echo))
        return {"index": index, "text": text, "logprobs": logprobs, **ended}

    def _message(self, candidate: Candidate) -> JsonObject:
        message = message_object(candidate)
        calls = message.pop("tool_calls", None)
        if not isinstance(calls, list):
            return message
        if self.functions:
            first = candidate.tool_calls[0]
            return {**message, "function_call": {"name": first.name, "arguments": first.arguments}}
        return {**message, "tool_calls": [self._called(call) for call in calls if isinstance(call, dict)]}

    def _called(self, call: JsonObject) -> JsonObject:
        match call:
            case {"id": known, "function": {"name": str(name), "arguments": str(arguments)}} if name in self.custom:
                return {"id": known, "type": "custom", "custom": {"name": name, "input": input_of(arguments)}}
            case _:
                return call


def _function(call: ToolCallDelta) -> JsonObject:
    """What a call's piece says of its function: the first one its name."""
    return {"arguments": call.arguments} if call.id is None else {"name": call.name or "", "arguments": call.arguments}


@dataclass(frozen=True, slots=True)
class OpenAIForm:
    """Chat completions and plain completions: see `AnswerForm`."""

    shape: CompletionShape

    @property
    def dialect(self) -> Dialect:
        return SSE

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        return self.shape.whole(candidates, extension)

    def writer(self, out: OpenStream, choices: int) -> ChunkWriter:
        return ChunkWriter(out, self.shape, choices)


class ChunkWriter:
    """Each choice opens once, with its role, and ends once. One event is one small write."""

    def __init__(self, out: OpenStream, shape: CompletionShape, choices: int) -> None:
        self._out = out
        self._shape = shape
        self._head = shape.head()
        self._tail = shape.tail()
        self._unopened = set(range(choices))
        self._calls = [CallOpening() for _ in range(choices)]
        self._written_chars = [len(shape.echo)] * choices
        self._inputs: list[dict[int, list[str]]] = [{} for _ in range(choices)]  # of custom tools: JSON that grows
        self._timings: JsonObject | None = None  # of the first choice

    async def begin(self) -> None:
        """Every choice's first chunk."""
        may_call = self._shape.may_call
        openings = [text for choice in sorted(self._unopened) if (text := self._opening(choice, may_call))]
        if openings:
            await self._out.write("".join(openings).encode())

    async def delta(self, event: Delta) -> None:
        if event.tool_calls:
            opened = map(self._calls[event.choice].opened, event.tool_calls)
            calls = tuple(call for call in opened if not self._holds_input(event.choice, call))
            event = replace(event, tool_calls=calls)
            if not (calls or event.text or event.reasoning or event.logprobs):
                return
        if self._shape.kind == "text":
            if event.logprobs is not None:
                event = replace(event, logprobs=text_logprobs(event.logprobs, self._written_chars[event.choice]))
            self._written_chars[event.choice] += len(event.text)
        calls = bool(event.tool_calls) and not event.text
        await self._chunk(event.choice, self._shape.delta(event), self._tail, calls)

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """The choice's last chunk; with `extension` it carries the `swarm` object.

        How long it took is told here, or where the usage is, as llama-server does.
        """
        timings = None if event.timings is None else timings_object(event.usage, event.timings)
        if event.choice == 0:
            self._timings = timings
        if self._shape.include_usage:
            timings = None
        reason = honest_reason(event.reason, self._calls[event.choice].any)
        if inputs := self._inputs[event.choice]:
            await self._chunk(event.choice, self._shape.inputs(event.choice, inputs), self._tail)
        await self._chunk(
            event.choice,
            self._shape.finish(event.choice, reason, event.stop_sequence),
            self._shape.tail(extension, timings),
        )

    def _holds_input(self, choice: int, call: ToolCallDelta) -> bool:
        """Whether a call's piece is kept until all of its input is there: pieces are of JSON, and the input is text."""
        inputs = self._inputs[choice]
        if call.id is not None and call.name in self._shape.custom:
            inputs[call.index] = [call.arguments]
            return False
        if call.index not in inputs:
            return False
        inputs[call.index].append(call.arguments)
        return True

    async def ballot(self, standing: JsonObject) -> None:
        """A chunk without choices that says how the vote stands."""
        await self._out.write(f"{self._head}{self._shape.tail({'ballot': standing})}".encode())

    async def end(self, usages: list[Usage]) -> None:
        """What comes after the last choice: the usage where the client asked for it, and the end mark."""
        wanted = self._shape.include_usage
        usage = self._shape.usage_chunk(add_usage(usages), self._timings).encode() if wanted else b""
        await self._out.end(usage + DONE)

    async def _chunk(self, choice: int, body: str, tail: str, calls: bool = False) -> None:
        opening = self._opening(choice, calls) if choice in self._unopened else ""
        await self._out.write(f"{opening}{self._head}{body}{tail}".encode())

    def _opening(self, choice: int, calls: bool) -> str:
        """The chunk with which a choice opens; "" where it needs none."""
        self._unopened.discard(choice)
        opening = self._shape.opening(choice, calls)
        return "" if opening is None else f"{self._head}{opening}{self._tail}"
