"""Whether the node takes work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from swarm.errors import Unavailable, UnknownModel
from swarm.gateway.http.in_progress import InProgress

LOADING_RETRY_AFTER_S = 2  # told to clients: a small model is there by then, a large one after a few retries
LEAVING_RETRY_AFTER_S = 1  # where a supervisor starts the node again, it listens by then


@dataclass(slots=True)
class Condition:
    """`loading` ends when the first model runs; `draining` begins with the first stop signal and never ends."""

    loading: bool = True
    draining: bool = False
    in_progress: InProgress = field(default_factory=InProgress)

    @contextmanager
    def finding_a_model(self, node: str, for_peer: bool = False) -> Generator[None]:
        """Wrap the choice of who answers: a node that leaves does no work for peers, and clients' only through peers.

        An unknown model may still be loading.
        """
        if self.draining and for_peer:
            raise Unavailable(f"node {node!r} is shutting down: ask another node", LEAVING_RETRY_AFTER_S)
        try:
            yield
        except UnknownModel as error:
            if self.draining:
                told = f"node {node!r} is shutting down and knows no other that serves this: ask another node"
                raise Unavailable(told, LEAVING_RETRY_AFTER_S) from error
            if not self.loading:
                raise
            raise Unavailable(f"{error}; this node is still loading its own", LOADING_RETRY_AFTER_S) from error


def closing_connections(condition: Condition) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal for every answer's headers: once the node leaves, each is the last one of its connection.

    So clients with idle connections are not surprised later by one that closes while they write to it.
    """

    async def close(_: web.Request, response: web.StreamResponse) -> None:
        if condition.draining:
            response.force_close()
            response.headers["Connection"] = "close"

    return close
