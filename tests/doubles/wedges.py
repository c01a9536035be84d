"""What hangs llama.cpp, sent to its own listener: past the checks of ours that refuse it."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import pytest

from swarm.engines.llama_cpp.http import LlamaHttp
from swarm.engines.llama_cpp.progress import Limits

ENDLESS_PATTERN: Final = "^(((a{0,40}){0,40}){0,40}){0,40}$"  # hours in the main loop
WEDGE: Final[dict[str, Any]] = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 4,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "string", "pattern": ENDLESS_PATTERN}},
    },
}
# A node waits for twenty seconds, busy machines need some; whatever pace such a one has (`steps`, `expected`).
QUICK = Limits(least_s=4.0, steps=0.0, expected=0.0, doubt_least_s=1.5, call_limits=1.0, ask_every_s=0.05, look_s=0.1)


async def send_wedge(address: str, key: str) -> None:
    """Returns when the engine has ended, by which the request breaks."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        try:
            async with session.post(f"{address}/v1/chat/completions", json=WEDGE) as response:
                text = await response.text()
        except aiohttp.ClientError:
            return
    pytest.fail(f"this was to hang llama.cpp: {text}")


def listener_of(http: LlamaHttp) -> tuple[str, str]:
    """Address and key of an engine's own listener: a secret between the engine and us."""
    return http._address, http._session.headers["Authorization"].removeprefix("Bearer ")
