"""The embedded models behind nodes of their own, for a measurement that needs no running swarm."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from swarm.commands.bench_endpoint import Endpoint
from swarm.node.node import Node
from swarm.node.settings import make_settings

SLOTS = 16  # of each model: a few megabytes each, and no answer waits for another
CONTEXT_TOKENS = 1024  # the longest shipped question takes 500 tokens with its tools, an answer at most 256


class Silent:
    """The console of a node that nobody watches."""

    can_ask = False

    def say(self, line: str) -> None:
        """Nobody listens."""

    def progress(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        """Nothing is downloaded."""

    def choose(self, question: str, options: Sequence[str], stop: threading.Event | None = None) -> int:
        """The first."""
        return 0


@asynccontextmanager
async def embedded_endpoints(models: Sequence[str]) -> AsyncGenerator[dict[str, Endpoint]]:
    """An endpoint for each of `models`, on loopback ports of this process."""
    async with AsyncExitStack() as stack:
        doors: dict[str, Endpoint] = {}
        for model in models:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-bench-"))
            settings = {"model": model, "workers": SLOTS, "context": CONTEXT_TOKENS, "port": 0, "host": "127.0.0.1"}
            node = await stack.enter_async_context(
                Node(make_settings({**settings, "data_dir": Path(folder)}), Silent())
            )
            doors[model] = await stack.enter_async_context(Endpoint(node.place.announced.url, None))
        # llama.cpp's server installs handlers of its own while it loads: Ctrl-C is to end this run, not the process.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
        yield doors
