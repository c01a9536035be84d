"""llama.cpp's own dialect for filling in the middle: its one generating endpoint that has no OpenAI form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.generation import Delta, Finish, FinishReason, Usage


def infill_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """A completion's body with a `suffix`, as `/infill` takes it."""
    wire = {key: value for key, value in body.items() if key not in ("prompt", "suffix", "logprobs", "stream_options")}
    return {**wire, "input_prefix": body["prompt"], "input_suffix": body["suffix"]}


class InfillReader:
    """Turns one response's chunks into events; the last chunk of each choice carries its counts."""

    def events(self, chunk: Mapping[str, Any]) -> list[Delta | Finish]:
        index = int(chunk["index"])
        events: list[Delta | Finish] = [Delta(index, chunk["content"])] if chunk["content"] else []
        if chunk["stop"]:
            reason: FinishReason = "length" if chunk["stop_type"] == "limit" else "stop"
            cached = int(chunk["timings"]["cache_n"])
            usage = Usage(
                prompt_tokens=int(chunk["tokens_evaluated"]),
                completion_tokens=int(chunk["tokens_predicted"]),
                cached_tokens=cached,
            )
            events.append(Finish(index, reason, usage))
        return events
