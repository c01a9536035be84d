"""`swarm top`: the swarm as one node tells it, drawn anew when something changes; as text or JSON where nobody looks.

A thread reads the node's events; the main thread draws (`dashboard.py` says what), four times a second at most, and
takes keys. Whatever ends it, the terminal is as it was.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from swarm.commands.dashboard import ORDERS, Shown, picture
from swarm.commands.node_client import NodeApi, NodeEvent, NodeUnreachable, NotForYou, get_events
from swarm.commands.output import is_terminal, may_redraw, say, terminal_size
from swarm.commands.screen import console
from swarm.commands.swarm_state import MANAGED_PARTS, OPEN_PARTS, SwarmState, after
from swarm.errors import SwarmError

REDRAW_S: Final = 0.25  # between two pictures
CLOCK_S: Final = 5.0  # between two looks whether a time that is shown has moved on
SETTLED_S: Final = 3.0  # that all nodes have for telling of themselves, where one picture is wanted
TOLD_S: Final = 10.0  # that the asked node has for its first word
AGAIN_S: Final = (1.0, 2.0, 4.0)  # after which a node that does not answer is asked again; then always the last
MANY_ROWS: Final = 100_000  # of one picture that is not cut


@dataclass(frozen=True, slots=True)
class Known:
    """What is known now. `gone`: since when the node does not answer, and why; `error`: why it is asked no more."""

    state: SwarmState
    gone: tuple[datetime, str] | None = None
    error: SwarmError | None = None


def top(api: NodeApi, once: bool, as_json: bool) -> int:
    """Show the swarm until somebody ends it, or once; then 1 if the node is not ready. Raises SwarmError."""
    if once or as_json or not may_redraw(sys.stdout, os.environ):
        return show_once(api, as_json)
    return show_live(api)


def show_once(api: NodeApi, as_json: bool) -> int:
    """One picture, of all there is; as JSON in the form of the event stream's snapshot: {part: {key: entry}}."""
    with Follower(api) as follower:
        news = follower.settled(SETTLED_S)
    state = news.state
    if as_json:
        say(json.dumps(state.told, indent=2))
    else:
        shown, columns = console(sys.stdout), terminal_size(sys.stdout).columns
        now = datetime.now().astimezone()
        for line in picture(state, now, columns, MANY_ROWS, Shown(keys=False)):
            shown.print(line, no_wrap=True, crop=False)
    return 0 if state.view is not None and state.view.status == "ok" else 1


def show_live(api: NodeApi) -> int:
    """The picture on the terminal's other screen, until q, Ctrl-C or a signal."""
    with Follower(api) as follower:
        follower.settled(0.0)  # what can never work is said before the screen changes
        with Keyboard() as keys, signals(follower.wake) as caught:
            return Drawing(follower, keys, caught).run()


class Follower:
    """Reads the node's events in a thread of its own; `look` has what is known. Comes back where the node goes."""

    def __init__(self, api: NodeApi) -> None:
        self._api = api
        self._news = Known(SwarmState(requests={}))
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def __enter__(self) -> Follower:
        threading.Thread(target=self._run, name="events", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # the thread may be reading: it is left to the end of the process

    def fileno(self) -> int:
        """Readable once there is news."""
        return self._wake_read

    def look(self) -> Known:
        """What is known now; takes notice of it. Raises what ended the thread."""
        with suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        return self._checked(self._news)

    def wake(self) -> None:
        """Have whoever waits for news look. May be called by a signal's handler."""
        with suppress(OSError):  # the pipe is full: whoever waits is awake
            os.write(self._wake_write, b".")

    def settled(self, settled_s: float) -> Known:
        """What is known once every node has told of itself, or `settled_s` after the first word. Raises SwarmError."""
        with self._changed:
            told = self._changed.wait_for(lambda: self._news.error or self._news.state.view is not None, TOLD_S)
            if not told:
                raise SwarmError(f"the node at {self._api.url} says nothing: is it busy, or no node?")
            self._changed.wait_for(lambda: self._news.error or self._news.state.is_settled, settled_s)
        return self._checked(self._news)

    def _checked(self, news: Known) -> Known:
        if news.error is not None:
            raise news.error
        return news

    def _run(self) -> None:
        parts, last_id, tries = (*OPEN_PARTS, *MANAGED_PARTS), None, 0
        while not self._over.is_set():
            why = "it ended the stream"
            try:
                for event in get_events(self._api, parts, last_id):
                    if self._over.is_set():
                        return
                    last_id, tries = event.last_id or last_id, 0
                    self._take(event)
            except NotForYou as error:
                if parts == OPEN_PARTS:
                    self._tell(replace(self._news, error=error))
                    return
                parts, last_id = OPEN_PARTS, None
                self._tell(replace(self._news, state=replace(self._news.state, requests=None)))
                continue
            except SwarmError as error:
                if self._news.state.view is None:
                    self._tell(replace(self._news, error=error))
                    return
                why = error.reason if isinstance(error, NodeUnreachable) else str(error)
            since = datetime.now(UTC) if self._news.gone is None else self._news.gone[0]
            self._tell(replace(self._news, gone=(since, why)))
            self._over.wait(AGAIN_S[min(tries, len(AGAIN_S) - 1)])
            tries += 1

    def _take(self, event: NodeEvent) -> None:
        state = self._news.state
        if event.kind != "alive":
            state = after(state, event.kind, event.parts)
        self._tell(Known(state))

    def _tell(self, news: Known) -> None:
        with self._changed:
            self._news = news
            self._changed.notify_all()
        self.wake()


class Drawing:
    """Draws what the follower knows, and takes keys and signals."""

    def __init__(self, follower: Follower, keyboard: Keyboard, caught: list[int]) -> None:
        self._follower, self._keyboard, self._caught = follower, keyboard, caught
        self._shown: Shown = Shown()
        self._drawn: tuple[os.terminal_size, list[Text]] | None = None
        self._drawn_at = 0.0
        self._live = Live(
            console=console(sys.stdout),
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def run(self) -> int:
        """Until somebody ends it; the exit code."""
        with suppress(KeyboardInterrupt), self._live:
            while True:
                wait_s = self._draw()
                keys = self._keyboard.descriptor
                ready, _, _ = select.select([self._follower, *([] if keys is None else [keys])], [], [], wait_s)
                if keys is not None and keys in ready and not self._pressed(os.read(keys, 1024)):
                    return 0
                while self._caught:
                    number = self._caught.pop(0)
                    if number == signal.SIGTSTP:
                        self._stopped()
                    elif number == signal.SIGWINCH:
                        self._drawn = None
                    else:
                        return 128 + number
        return 0

    def _draw(self) -> float:
        """Draw what has changed, unless that is too soon; the seconds after which to look again."""
        news = self._follower.look()
        if (early_s := REDRAW_S - (time.monotonic() - self._drawn_at)) > 0 and self._drawn is not None:
            return early_s
        size = terminal_size(sys.stdout)
        self._shown = replace(self._shown, gone=news.gone)
        lines = picture(news.state, datetime.now().astimezone(), size.columns, size.lines, self._shown)
        if self._drawn != (size, lines):
            self._live.update(Group(*lines), refresh=True)
            self._drawn, self._drawn_at = (size, lines), time.monotonic()
        return CLOCK_S if news.gone is None else 1.0

    def _pressed(self, keys: bytes) -> bool:
        """Do what keys say; whether to go on."""
        if not keys:  # the terminal has gone
            return False
        rows = max(1, terminal_size(sys.stdout).lines - 6)
        for key in split_keys(keys):
            if key in (b"q", b"Q", b"\x03", b"\x04"):
                return False
            self._shown = after_key(self._shown, key, rows)
            last = sum(len(node.models) for node in self._follower.look().state.nodes.values()) - 1
            self._shown = replace(self._shown, first_model=max(0, min(self._shown.first_model, last)))
        self._drawn_at = 0.0  # who presses a key waits for it
        return True

    def _stopped(self) -> None:
        """Ctrl-Z: leave the terminal as it was until this program goes on."""
        self._live.stop()
        self._keyboard.__exit__()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._keyboard.__enter__()
        self._live.start()
        self._drawn = None


def after_key(shown: Shown, key: bytes, rows: int) -> Shown:
    """What is shown once `key` was pressed; `rows` are those of a page of models."""
    match key:
        case b"s":
            return replace(shown, order=ORDERS[(ORDERS.index(shown.order) + 1) % len(ORDERS)])
        case b"m":
            return replace(shown, models=not shown.models, first_model=0)
        case b"\x1b[A" | b"k" | b"\x1bOA":
            return replace(shown, first_model=max(0, shown.first_model - 1))
        case b"\x1b[B" | b"j" | b"\x1bOB":
            return replace(shown, first_model=shown.first_model + 1)
        case b"\x1b[5~" | b"b":
            return replace(shown, first_model=max(0, shown.first_model - rows))
        case b"\x1b[6~" | b" ":
            return replace(shown, first_model=shown.first_model + rows)
        case b"\x1b[H" | b"g":
            return replace(shown, first_model=0)
        case _:
            return shown


def split_keys(typed: bytes) -> Iterator[bytes]:
    """Each key of what was typed: letters one by one, the sequences of arrows whole."""
    while typed:
        length = 1
        if typed[:2] in (b"\x1b[", b"\x1bO"):
            length = next((at + 1 for at in range(2, len(typed)) if 0x40 <= typed[at] <= 0x7E), len(typed))
        yield typed[:length]
        typed = typed[length:]


class Keyboard:
    """Standard input key by key and without echo while the block runs. `descriptor` None: nobody types there."""

    def __init__(self) -> None:
        self.descriptor = sys.stdin.fileno() if is_terminal(sys.stdin) else None
        self._before: list[Any] = []

    def __enter__(self) -> Keyboard:
        if self.descriptor is not None:
            import termios
            import tty

            self._before = termios.tcgetattr(self.descriptor)
            tty.setcbreak(self.descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self.descriptor is not None:
            import termios

            with suppress(termios.error):  # it has gone
                termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._before)


@contextmanager
def signals(wake: Any) -> Generator[list[int]]:
    """The signals that come while the block runs, in a list, instead of what they do; each wakes who waits."""
    caught: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        caught.append(number)
        wake()

    watched = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP", "SIGWINCH", "SIGTSTP")]
    before: Mapping[int, Any] = {number: signal.signal(number, on_signal) for number in watched if number is not None}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
