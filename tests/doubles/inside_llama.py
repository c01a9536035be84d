"""What engines say of their own work, which the product has no use for, and tests have."""

from __future__ import annotations

from swarm.engines.hosted.hosted_engine import HostedEngine
from swarm.engines.llama_cpp.http import LlamaHttp


async def busy_slots(http: LlamaHttp) -> int:
    """Slots that are prefilling or decoding at this moment."""
    return sum(1 for slot in await http.ask("/slots", None) if slot["is_processing"])


async def busy_jobs(engine: HostedEngine) -> int:
    """Jobs that are in progress in an engine's process at this moment."""
    return (await engine._connection.loop_counts()).busy  # pyright: ignore[reportPrivateUsage]


async def prompt_tokens_evaluated(http: LlamaHttp) -> int:
    """Prompt tokens prefilled since the model was loaded; those taken from a cache are not in it."""
    return int((await http._metrics())["prompt_tokens_total"])  # pyright: ignore[reportPrivateUsage]
