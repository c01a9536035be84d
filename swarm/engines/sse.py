"""Server-sent events, as far as OpenAI-compatible servers use them: `data:` lines, comments, a blank line between."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

MAX_EVENT_BYTES = 4 * 2**20  # the largest honest event is a final chunk with logprobs: a few hundred KiB


class EventTooLargeError(ValueError):
    """One event grew past MAX_EVENT_BYTES."""


async def sse_data(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The payload of each `data:` line in a byte stream cut anywhere; comments and other fields are dropped."""
    pending = b""
    async for chunk in chunks:
        pending += chunk
        if b"\n" not in chunk:
            if len(pending) > MAX_EVENT_BYTES:
                raise EventTooLargeError(f"an event of more than {MAX_EVENT_BYTES} bytes")
            continue
        *lines, pending = pending.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if pending.startswith(b"data:"):
        yield pending[5:].strip()
