"""Whether the node takes work."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from swarm.errors import Unavailable, UnknownModel

LOADING_RETRY_AFTER_S = 2  # told to clients: a small model is there by then, a large one after a few retries


@dataclass(slots=True)
class Condition:
    """`loading` ends when the first model runs; `draining` begins with the first stop signal and never ends."""

    loading: bool = True
    draining: bool = False

    @contextmanager
    def finding_a_model(self, node: str) -> Generator[None]:
        """Wrap the choice of who answers: no work while the node leaves, and an unknown model may still be loading."""
        if self.draining:
            raise Unavailable(f"node {node!r} is shutting down: ask another node")
        try:
            yield
        except UnknownModel as error:
            if not self.loading:
                raise
            raise Unavailable(f"{error}; this node is still loading its own", LOADING_RETRY_AFTER_S) from error
