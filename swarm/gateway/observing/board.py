"""What those who watch a node see: entries by part and key, each with the version at which it changed last.

A part is a table (`node`: by node id; `vote`: by vote) or one entry with the key "". Whoever watches is told what has
changed since the version that it has seen, so there is nothing to queue for it: one that is slow, or comes back after a
break, gets the newest of each entry and misses nothing but what was replaced meanwhile. All memory is what the parts
hold, whoever watches. For the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from swarm.gateway.http.bodies import compact

MAX_REMOVED: Final = 4000  # entries that went, remembered for those who come back; who was away longer gets a snapshot

log = logging.getLogger(__name__)

JsonText = str


class BoardEntry:
    """One value; its JSON is made when somebody first reads it."""

    __slots__ = ("_text", "_value", "version")

    def __init__(self, value: object, version: int) -> None:
        self.version = version
        self._value = value
        self._text: JsonText | None = None

    @property
    def value(self) -> object:
        return self._value

    @property
    def text(self) -> JsonText:
        if self._text is None:
            self._text = compact(self._value)
        return self._text


class EventBoard:
    """The entries of all parts. `bounds`: how many a part holds at most; the oldest go."""

    def __init__(self, bounds: Mapping[str, int] | None = None) -> None:
        self.instance = secrets.token_hex(4)  # versions of an earlier start mean nothing now
        self.version = 0
        self._bounds = dict(bounds or {})
        self._parts: dict[str, dict[str, BoardEntry]] = {}
        self._removed: dict[tuple[str, str], int] = {}
        self._forgotten = 0  # removals up to this version are remembered no longer
        self._watching: dict[str, int] = {}
        self._producers: list[tuple[str, Callable[[bool], None]]] = []
        self._failed: set[Callable[[bool], None]] = set()  # their first failure has been logged
        self._waiting: set[asyncio.Event] = set()
        self._made: dict[tuple[int, tuple[str, ...]], JsonText | None] = {}  # for readers who have seen as much
        self._made_at = 0

    def put(self, part: str, key: str, value: object) -> None:
        """Set an entry to what JSON can have; the same value again is no change."""
        entries = self._parts.setdefault(part, {})
        known = entries.get(key)
        if known is not None and known.value == value:
            return
        entries.pop(key, None)  # so that the oldest change comes first
        entries[key] = BoardEntry(value, self._next())
        self._removed.pop((part, key), None)
        bound = self._bounds.get(part)
        while bound is not None and len(entries) > bound:
            self.drop(part, next(iter(entries)))
        self._tell()

    def drop(self, part: str, key: str) -> None:
        """Remove an entry, if it is there."""
        if self._parts.get(part, {}).pop(key, None) is None:
            return
        self._removed[part, key] = self._next()
        while len(self._removed) > MAX_REMOVED:
            self._forgotten = self._removed.pop(next(iter(self._removed)))
        self._tell()

    def only(self, part: str, entries: Mapping[str, object]) -> None:
        """Set a whole part: what is not in `entries` goes."""
        for key in [key for key in self._parts.get(part, {}) if key not in entries]:
            self.drop(part, key)
        for key, value in entries.items():
            self.put(part, key, value)

    def can_resume(self, instance: str, version: int) -> bool:
        """Whether `since(version)` tells somebody everything who has seen `version` of `instance`."""
        return instance == self.instance and self._forgotten <= version <= self.version

    def since(self, version: int, parts: Collection[str]) -> JsonText | None:
        """What changed in `parts` after `version`: {part: {key: value or null}}; None for nothing. 0: all there is."""
        asked = (version, tuple(parts))
        if self._made_at != self.version:
            self._made, self._made_at = {}, self.version
        if asked not in self._made:
            self._made[asked] = self._changes(version, asked[1])
        return self._made[asked]

    def _changes(self, version: int, parts: Sequence[str]) -> JsonText | None:
        told: list[str] = []
        for part in parts:
            lines = [f"{compact(key)}:null" for (of, key), at in self._removed.items() if of == part and at > version]
            for key, entry in reversed(self._parts.get(part, {}).items()):
                if entry.version <= version:
                    break
                lines.append(f"{compact(key)}:{entry.text}")
            if lines:
                told.append(f"{compact(part)}:{{{','.join(reversed(lines))}}}")
        return f"{{{','.join(told)}}}" if told else None

    def watched(self, part: str) -> bool:
        """Whether anybody looks at it: what is dear to make is made only then."""
        return self._watching.get(part, 0) > 0

    def on_watch(self, part: str, call: Callable[[bool], None]) -> None:
        """Call with True when the first one watches `part`, and with False when the last one has gone.

        A call that raises stops nobody from watching; its first failure is logged.
        """
        self._producers.append((part, call))

    @contextmanager
    def watching(self, parts: Collection[str]) -> Generator[None]:
        """Somebody looks at `parts` while the block runs."""
        for part in parts:
            self._watching[part] = self._watching.get(part, 0) + 1
            if self._watching[part] == 1:
                self._call(part, True)
        try:
            yield
        finally:
            for part in parts:
                self._watching[part] -= 1
                if self._watching[part] == 0:
                    self._call(part, False)

    async def changed(self, version: int) -> None:
        """Return when the board is newer than `version`, or whoever waits is to look at something else."""
        if self.version > version:
            return
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)

    def wake(self) -> None:
        """Have all who wait for a change go on."""
        self._tell()

    def _call(self, part: str, watched: bool) -> None:
        for of, call in self._producers:
            if of != part:
                continue
            try:
                call(watched)
            except Exception:
                if call not in self._failed:
                    doing = "begun" if watched else "ended"
                    log.exception("the part %r of the page cannot be %s; it shows what is there", part, doing)
                self._failed.add(call)

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _tell(self) -> None:
        for event in self._waiting:
            event.set()


def refreshing(
    board: EventBoard, part: str, make: Callable[[], Mapping[str, object]], every_s: float
) -> Callable[[web.Application], Awaitable[None]]:
    """Make all entries of `part` anew every so often while anybody watches it, and no longer; for `on_cleanup`."""
    tasks: list[asyncio.Task[None]] = []

    async def look() -> None:
        while True:
            await asyncio.sleep(every_s)
            board.only(part, make())

    def watched(begins: bool) -> None:
        if begins:
            board.only(part, make())
            tasks.append(asyncio.create_task(look(), name=f"makes the part {part}"))
            return
        tasks.pop().cancel()

    async def end(_: web.Application) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    board.on_watch(part, watched)
    return end


BOARD = web.AppKey("board", EventBoard)
