"""Whether the node takes work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from aiohttp import web

from swarm.errors import Unavailable, UnknownModel
from swarm.gateway.http.in_progress import InProgress

LOADING_RETRY_AFTER_S = 2  # told to clients: a small model is there by then, a large one after a few retries
LEAVING_RETRY_AFTER_S = 1  # where a supervisor starts the node again, it listens by then


class Condition:
    """Whether the node takes work: `loading` until its first model runs, `draining` from the first stop signal on."""

    def __init__(self, loading: bool = True, draining: bool = False) -> None:
        self.in_progress = InProgress()
        self._loading = loading
        self._draining = draining
        self._subscribers: list[Callable[[], None]] = []

    @property
    def loading(self) -> bool:
        """Whether the node's first model does not run yet."""
        return self._loading

    @loading.setter
    def loading(self, loading: bool) -> None:
        self._loading = loading
        self._tell()

    @property
    def draining(self) -> bool:
        """Whether this node shuts down and only ends what it has begun; it never goes back."""
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining = draining
        self._tell()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after every change, which must neither block nor raise; the returned function ends that."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _tell(self) -> None:
        for callback in tuple(self._subscribers):
            callback()

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
