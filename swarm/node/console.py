"""How a node talks to the person in front of it. `commands/terminal.py` is the real one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from swarm.gateway.observing.view import NodeView, RequestEntry


@dataclass(frozen=True, slots=True)
class NodeNow:
    """What a node is and does at one moment: its view, its requests, and tokens a second of late by model."""

    view: NodeView
    requests: tuple[RequestEntry, ...]
    tokens_per_s: Mapping[str, float]

    @property
    def is_busy(self) -> bool:
        """Whether figures move without a change: something runs, ran just now, or is loaded."""
        loading = any(model.state == "loading" for model in self.view.models)
        return loading or bool(self.requests) or any(self.tokens_per_s.values())


class Console(Protocol):
    """Called from the event loop's thread and from workers'; every method returns quickly except `choose`."""

    def say(self, line: str) -> None:
        """One line of news."""
        ...

    def progress(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        """How far a download is; called often."""
        ...

    def loading(self, line: str) -> None:
        """How far models are loaded, in place of the last such line; called often, and of no use but to a person."""
        ...

    @property
    def can_show(self) -> bool:
        """Whether `show` is of use: somebody looks at what stands below the lines."""
        ...

    def show(self, now: NodeNow) -> None:
        """What the node is now, to stand below the lines until the next call; from the event loop's thread."""
        ...

    def ends(self) -> None:
        """The node begins to end: nothing stands below the lines any more. May be called again."""
        ...

    def interrupted(self) -> None:
        """Ctrl-C was pressed, which a terminal shows as `^C`: the next line is to begin a new one."""
        ...

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to answer."""
        ...

    def choose(self, question: str, options: Sequence[str], stop: threading.Event | None = None) -> int | str:
        """The index of the option that the person takes (the first for a plain Enter), or the name typed. Blocks.

        Raises WorkStopped soon after `stop` is set, and SetupError where there is no answer to come.
        """
        ...
