"""The chunks of OpenAI's streams as llama.cpp and peers send them, turned into events."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.engines.llama_cpp.errors import translate_error
from swarm.engines.wire import Wire, as_object
from swarm.generation import Delta, Finish, FinishReason, ToolCallDelta, Usage

FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


class ChunkReader:
    """Turns one response's chunks into events. A choice's usage comes right after its last chunk.

    `cached` is how much of the prompt was in the cache, where the response itself no longer tells.
    """

    def __init__(self, chat: bool, cached: int | None = None) -> None:
        self._chat = chat
        self._cached = cached
        self._finished: tuple[int, FinishReason] | None = None

    def events(self, chunk: Wire) -> list[Delta | Finish]:
        """The events in one chunk, in order. Raises the chunk's error if it is one."""
        if "error" in chunk:
            raise translate_error(int(chunk["error"].get("code", 500)), chunk)
        events: list[Delta | Finish] = []
        for choice in chunk["choices"]:
            delta = self._delta(choice)
            if delta is not None:
                events.append(delta)
            reason = choice.get("finish_reason")
            if reason:
                self._finished = (choice["index"], FINISH_REASONS.get(reason, "stop"))
        usage = chunk.get("usage")
        if usage is not None and self._finished is not None:
            index, reason = self._finished
            self._finished = None
            cached = as_object(usage.get("prompt_tokens_details")).get("cached_tokens", 0)
            cached = cached if self._cached is None else self._cached
            events.append(Finish(index, reason, Usage(
                prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"], cached_tokens=cached
            )))  # fmt: skip
        return events

    def _delta(self, choice: Wire) -> Delta | None:
        if not self._chat:
            text, logprobs = choice.get("text") or "", choice.get("logprobs")
            return Delta(choice["index"], text, logprobs=logprobs) if text or logprobs else None
        delta = choice["delta"]
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        calls, logprobs = delta.get("tool_calls"), choice.get("logprobs")
        if not (content or reasoning or calls or logprobs):
            return None
        return Delta(
            choice["index"], content or "", reasoning or "", tuple(map(_tool_call, calls)) if calls else (), logprobs
        )


def _tool_call(call: Wire) -> ToolCallDelta:
    function = as_object(call.get("function"))
    return ToolCallDelta(call.get("index", 0), call.get("id"), function.get("name"), function.get("arguments") or "")
