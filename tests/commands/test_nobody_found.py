"""A node that finds nobody says so once, after a while, with what to do; one that finds somebody never does."""

from __future__ import annotations

import pytest

from swarm.commands.status import render
from swarm.gateway.observing.view import parse_view
from swarm.node.discovery import NOBODY_S, nobody_line, say_if_alone


class Clock:
    """`sleep` returns at once; `slept_s` is what would have passed."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds


@pytest.mark.parametrize(("found", "said"), [((), ["nobody"]), (("study",), [])])
async def test_it_is_said_once_after_fifteen_seconds_to_one_that_is_alone(
    found: tuple[str, ...], said: list[str]
) -> None:
    clock, lines = Clock(), list[str]()
    await say_if_alone(lambda: found, lambda: "nobody", lines.append, clock.sleep)
    assert (clock.slept_s, lines) == (NOBODY_S, said)


async def test_whoever_is_found_meanwhile_counts() -> None:
    found: list[str] = []

    async def sleep(_: float) -> None:
        found.append("study")

    lines: list[str] = []
    await say_if_alone(lambda: found, lambda: "nobody", lines.append, sleep)
    assert lines == []


@pytest.mark.parametrize(
    ("by_mdns", "given", "paired", "words"),
    [
        (True, (), False, ["no other node", "`swarm --federation`", "`swarm doctor`", "--peer HOST:PORT"]),
        (True, ("10.0.0.9:17615",), True, ["no other member", "10.0.0.9:17615", "`swarm doctor`"]),
        (False, ("10.0.0.9:17615", "nas:17615"), False, ["10.0.0.9:17615, nas:17615", "`swarm doctor`"]),
        (False, (), False, ["--peer-file"]),
    ],
)
def test_it_is_one_line_with_what_to_do(by_mdns: bool, given: tuple[str, ...], paired: bool, words: list[str]) -> None:
    line = nobody_line(by_mdns, given, paired)
    assert all(word in line for word in words)
    assert "\n" not in line


@pytest.mark.parametrize(("peers", "told"), [("anyone", "`swarm doctor`"), ("none", "`swarm --federation`")])
def test_status_says_it_too(peers: str, told: str) -> None:
    node = {"name": "kitchen", "url": "http://10.0.0.1:17615", "version": "1", "mode": "open", "id": "y"}
    view = {"status": "ok", "node": node, "peers": [], "models": {}}
    access = {"api": "anyone", "peers": peers, "management": "this machine"}
    (line,) = [line for line in render(parse_view({**view, "access": access})).splitlines() if "no peers" in line]
    assert told in line
