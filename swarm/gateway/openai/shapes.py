"""OpenAI's response objects, for chat and for plain completions, whole and as stream chunks.

A stream's constant head is encoded once; per token only the delta is.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from swarm.gateway.answers.call_opening import honest_reason, with_unique_ids
from swarm.gateway.http.compact_json import compact
from swarm.gateway.openai.text_logprobs import text_logprobs
from swarm.generation import Candidate, Delta, FinishReason, JsonObject, ToolCallDelta, Usage

DONE = b"data: [DONE]\n\n"


def usage_object(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


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
class Shape:
    """One response's constant parts. `kind` decides between the two dialects; `echo` is repeated before plain text."""

    kind: Literal["chat", "text"]
    model: str
    include_usage: bool = False
    echo: str = ""
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

    def tail(self, extension: JsonObject | None = None) -> str:
        """The end of a chunk after its choices, with the `swarm` object where there is one."""
        swarm = "" if extension is None else f',"swarm":{compact(extension)}'
        usage = ',"usage":null' if self.include_usage else ""
        return f"]{swarm}{usage}}}\n\n"

    def usage_chunk(self, usage: Usage) -> str:
        """The chunk after the last choice has ended: no choices, only what it cost."""
        return f'{self.head()}],"usage":{compact(usage_object(usage))}}}\n\n'

    def opening(self, choice: int) -> str | None:
        """The first chunk's choice: the role, once; for plain text the echoed prompt, if there is one."""
        if self.kind == "chat":
            return f'{{"index":{choice},"delta":{{"role":"assistant","content":""}},"finish_reason":null}}'
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
        if event.tool_calls:
            parts.append(f'"tool_calls":{compact([_call_delta(call) for call in event.tool_calls])}')
        return f'{{"index":{event.choice},"delta":{{{",".join(parts)}}}{logprobs},"finish_reason":null}}'

    def finish(self, choice: int, reason: FinishReason) -> str:
        empty = '"delta":{}' if self.kind == "chat" else '"text":""'
        return f'{{"index":{choice},{empty},"finish_reason":"{reason}"}}'

    def whole(self, candidates: list[Candidate], extension: JsonObject | None) -> JsonObject:
        """The response of a request that does not stream."""
        choices: list[JsonValue] = [self._choice(index, candidate) for index, candidate in enumerate(candidates)]
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        usage = usage_object(add_usage([candidate.usage for candidate in candidates]))
        body: JsonObject = {**self._identity, "object": name, "choices": choices, "usage": usage}
        return body if extension is None else {**body, "swarm": extension}

    def _choice(self, index: int, candidate: Candidate) -> JsonObject:
        reason = honest_reason(candidate.finish_reason or "stop", bool(candidate.tool_calls))
        if self.kind == "chat":
            message, logprobs = message_object(candidate), candidate.logprobs
            return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
        text, logprobs = self.echo + candidate.text, text_logprobs(candidate.logprobs, len(self.echo))
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def message_object(candidate: Candidate) -> JsonObject:
    """The assistant's turn. `content` is null where there are only tool calls, as OpenAI has it."""
    message: JsonObject = {
        "role": "assistant",
        "content": candidate.text or None if candidate.tool_calls else candidate.text,
        "refusal": None,  # OpenAI's schema requires it
        "annotations": [],
    }
    if candidate.reasoning:
        message["reasoning_content"] = candidate.reasoning
    if candidate.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in with_unique_ids(candidate.tool_calls)
        ]
    return message


def _call_delta(call: ToolCallDelta) -> JsonObject:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function: JsonObject = {"name": call.name or "", "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
