"""Patterns of file names, as shells have them, matched in bounded time. Pure, standard library only.

    *  ?  [a-z]     within a name            **     any number of folders
    {py,pyi}        either

A pattern without a slash is about the name alone, wherever the file is.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

MOST_ALTERNATIVES: Final = 64
_BRACES: Final = re.compile(r"\{([^{}]*,[^{}]*)\}")


class GlobPattern:
    """Says which paths a pattern means. ValueError for one that leads out of its folder, or has many alternatives."""

    def __init__(self, pattern: str) -> None:
        self._alternatives = [_segments(one) for one in _alternatives(pattern)]

    def matches(self, parts: Sequence[str]) -> bool:
        """Whether it means the path of these components, counted from the folder that is searched."""
        return any(_matches(segments, parts) for segments in self._alternatives)


def _alternatives(pattern: str) -> list[str]:
    done: list[str] = []
    todo = [pattern]
    while todo:
        one = todo.pop()
        braces = _BRACES.search(one)
        if braces is None:
            done.append(one)
        else:
            todo += [one[: braces.start()] + part + one[braces.end() :] for part in braces[1].split(",")]
        if len(done) + len(todo) > MOST_ALTERNATIVES:
            raise ValueError(f"has more than {MOST_ALTERNATIVES} alternatives")
    return done


def _segments(pattern: str) -> list[re.Pattern[str] | None]:
    """One expression for each name, None for any number of folders."""
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if ".." in names or pattern.startswith("/"):
        raise ValueError("leads out of the folder that is searched")
    if not names:
        raise ValueError("names nothing")
    if "/" not in pattern:
        names = ["**", *names]
    found: list[re.Pattern[str] | None] = []
    for name in names:
        if name != "**":
            found.append(re.compile(fnmatch.translate(name)))
        elif not found or found[-1] is not None:
            found.append(None)
    return found


def _matches(segments: Sequence[re.Pattern[str] | None], parts: Sequence[str]) -> bool:
    """Which numbers of segments can be used up by the parts so far: a set, so that no pattern is tried twice."""
    reached = {0}
    for part in parts:
        reached = _passed(segments, reached)
        following: set[int] = set()
        for at in reached:
            if at < len(segments):
                segment = segments[at]
                if segment is None:
                    following.add(at)
                elif segment.match(part):
                    following.add(at + 1)
        reached = following
    return len(segments) in _passed(segments, reached)


def _passed(segments: Sequence[re.Pattern[str] | None], reached: set[int]) -> set[int]:
    """`**` may stand for no folder at all."""
    return reached | {at + 1 for at in reached if at < len(segments) and segments[at] is None}
