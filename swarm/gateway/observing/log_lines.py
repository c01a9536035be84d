"""The last log lines, for those who manage the node: which of them are asked for, and the board's part `log`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from swarm.errors import BadRequest
from swarm.gateway.observing.view import json_object
from swarm.logs import LEVELS, MAX_KEPT_LINES, LogLine, LogRing

MAX_TEXT_CHARS: Final = 256
FILTERS: Final = ("level", "text", "after", "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogListing:
    """The lines asked for, the oldest first. `last` is the number of the newest line there is, for `after`."""

    object: Literal["list"]
    data: tuple[LogLine, ...]
    last: int


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Lines of `level` and above with `text` in them (small letters are as good), after number `after`.

    Of more than `limit` the newest.
    """

    level: str = "debug"
    text: str = ""
    after: int = 0
    limit: int = MAX_KEPT_LINES


def wanted_lines(query: Mapping[str, str]) -> LogFilter:
    """What a query asks for. Raises BadRequest for a filter that there is not, or that takes no such value."""
    for name in query:
        if name not in FILTERS:
            raise BadRequest(f"there is no filter {name[:MAX_TEXT_CHARS]!r}: take {', '.join(FILTERS)}", name)
    level, text = query.get("level") or "debug", query.get("text", "")
    if level not in LEVELS:
        raise BadRequest(f"level is {level[:MAX_TEXT_CHARS]!r}: take {', '.join(LEVELS)}", "level")
    if len(text) > MAX_TEXT_CHARS:
        raise BadRequest(f"text has {len(text)} characters: at most {MAX_TEXT_CHARS} are looked for", "text")
    return LogFilter(
        level=level,
        text=text.casefold(),
        after=_number(query.get("after") or "0", "after", 0, 10**15),
        limit=_number(query.get("limit") or str(MAX_KEPT_LINES), "limit", 1, MAX_KEPT_LINES),
    )


def _number(text: str, name: str, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else least - 1
    if not least <= number <= most:
        raise BadRequest(f"{name} is {text[:MAX_TEXT_CHARS]!r}: it must be from {least} to {most}", name)
    return number


def chosen(lines: Iterable[LogLine], wanted: LogFilter) -> tuple[LogLine, ...]:
    """Those of `lines` that `wanted` means."""
    least = LEVELS.index(wanted.level)
    found = [
        line
        for line in lines
        if LEVELS.index(line.level) >= least
        and (not wanted.text or wanted.text in f"{line.logger} {line.request_id or ''} {line.text}".casefold())
    ]
    return tuple(found[-wanted.limit :])


def look_at(ring: LogRing, wanted: LogFilter) -> LogListing:
    """The answer of `GET /swarm/v1/logs`."""
    last, lines = ring.number, ring.lines(wanted.after)
    return LogListing(object="list", data=chosen(lines, wanted), last=max(last, lines[-1].number if lines else 0))


class LogPart:
    """The ring as the board's part, by number; each line becomes JSON once."""

    def __init__(self, ring: LogRing) -> None:
        self._ring = ring
        self._entries: dict[str, object] = {}
        self._seen = 0

    def entries(self) -> dict[str, object]:
        """All that there are."""
        for line in self._ring.lines(self._seen):
            self._entries[str(line.number)] = json_object(line)
            self._seen = line.number
        for old in list(self._entries)[: len(self._entries) - MAX_KEPT_LINES]:
            del self._entries[old]
        return self._entries
