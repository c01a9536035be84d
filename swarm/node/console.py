"""How a starting node talks to the person in front of it. `commands/terminal.py` is the real one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol


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
