"""Anthropic's response objects: the Message, whole or as it begins in a stream, its content blocks and its usage."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from swarm.gateway.answers.call_opening import honest_reason
from swarm.gateway.openai.messages import as_object
from swarm.generation import Candidate, FinishReason, JsonObject, Usage

# A stop sequence that was hit is reported as `end_turn`: engines and peers speak OpenAI's dialect, in which both are
# "stop", and the sequence itself is cut from the text, so that nobody here can know.
STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One response's constant parts. `model` is the name that the client asked for."""

    model: str
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")

    def whole(self, candidate: Candidate, extension: JsonObject | None) -> JsonObject:
        """The response of a request that does not stream."""
        reason = stop_reason(candidate.finish_reason or "stop", bool(candidate.tool_calls))
        message = self._message(content_blocks(candidate), reason, candidate.usage)
        return message if extension is None else {**message, "swarm": extension}

    def opening(self, prompt_tokens: int) -> JsonObject:
        """The message as a stream begins it: nothing is said yet."""
        return self._message([], None, Usage(prompt_tokens=prompt_tokens))

    def _message(self, content: list[JsonValue], reason: str | None, usage: Usage) -> JsonObject:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **ending(reason),
            "usage": {**usage_object(usage), "cache_creation": None, "inference_geo": None, "service_tier": None},
        }


def stop_reason(reason: FinishReason, called: bool) -> str:
    """`tool_use` if, and only if, there is a call (an answer cut short stays cut short)."""
    return STOP_REASONS[honest_reason(reason, called)]


def ending(reason: str | None) -> JsonObject:
    """How a message ended, in a message and in a stream's last event but one."""
    return {"stop_reason": reason, "stop_sequence": None, "stop_details": None, "container": None}


def usage_object(usage: Usage) -> JsonObject:
    """Anthropic's counts: `input_tokens` are those that were not read from a cache. What is unknown here is null."""
    return {
        "input_tokens": max(usage.prompt_tokens - usage.cached_tokens, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": None,
        "server_tool_use": None,
    }


def content_blocks(candidate: Candidate) -> list[JsonValue]:
    """The answer's blocks: never none, since clients look at the first without asking."""
    blocks: list[JsonValue] = []
    if candidate.reasoning:
        blocks.append(thinking_block(candidate.reasoning))
    if candidate.text or not (candidate.reasoning or candidate.tool_calls):
        blocks.append(text_block(candidate.text))
    blocks.extend(tool_use_block(call.name, json.loads(as_object(call.arguments))) for call in candidate.tool_calls)
    return blocks


def text_block(text: str = "") -> JsonObject:
    return {"type": "text", "text": text, "citations": None}


def thinking_block(thinking: str = "") -> JsonObject:
    """Clients require a signature; only Anthropic's own models need a true one."""
    return {"type": "thinking", "thinking": thinking, "signature": ""}


def tool_use_block(name: str, arguments: JsonObject) -> JsonObject:
    """A call under an id of its own: the engine's may be blank, repeated, or not in Anthropic's alphabet."""
    identity: JsonObject = {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name}
    return {**identity, "input": arguments, "caller": {"type": "direct"}}
