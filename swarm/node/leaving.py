"""How a node leaves: it says goodbye, passes new requests on, lets running answers finish, and closes its port last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from swarm.gateway.http.in_progress import Condition

DRAIN_S: Final = 30.0  # what every answer gets: from the stop signal, or from its own beginning if that is later
LINGER_S: Final = (
    5.0  # balancers that ask /readyz each second or two have noticed by then, and so have idle connections
)
ASKED_LATELY_S: Final = 30.0  # whoever was silent longer has closed its connections: they are kept open for 15 s
CUT_S: Final = 2.0  # for the last words to those who are cut off
GONE_S: Final = 79.0  # the 75 s that `docs/deploy.md` promises, and a moment; service managers kill after 80


class Port(Protocol):
    """A port that is listened on."""

    async def stop(self, leave_waiting: bool = False) -> None:
        """Accept nobody new. Those who wait are taken in, or left to whoever listens on the same socket next."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingPace:
    """How long a node that leaves waits, in seconds."""

    drain_s: float = DRAIN_S
    linger_s: float = LINGER_S


def linger_s(others_serve: bool, asked_s_ago: float | None, most_s: float = LINGER_S) -> float:
    """How long a node with nothing left to do goes on taking requests, which it passes on.

    Nothing where it cannot, and where nobody would come.
    """
    return most_s if others_serve and asked_s_ago is not None and asked_s_ago < ASKED_LATELY_S else 0.0


def stopping_lines(in_progress: int, left_s: float, drain_s: float = DRAIN_S) -> Iterator[str]:
    """What is shown to the person who stops the node, where it does not end at once."""
    waits = [f"{in_progress} in progress, with {drain_s:.0f} s to end"] if in_progress else []
    waits += [f"new requests go to the other nodes for {left_s:.0f} s"] if left_s else []
    if waits:
        yield f"stopping: {'; '.join(waits)}; press Ctrl-C again to end now"


async def leave(
    condition: Condition,
    ports: tuple[Port, ...],
    say_goodbye: Callable[[], Awaitable[None]],
    others_serve: Callable[[], bool],
    has_successor: bool,
    say: Callable[[str], None],
    pace: LeavingPace | None = None,
) -> None:
    """Return when nobody is served any more. What is to be closed after that is the caller's."""
    pace = pace or LeavingPace()
    in_progress = condition.in_progress
    begun, since, asked_at = in_progress.now(), time.monotonic(), in_progress.asked_at
    condition.draining = True
    left_s = linger_s(others_serve(), None if asked_at is None else since - asked_at, pace.linger_s)
    for line in stopping_lines(len(begun), left_s, pace.drain_s):
        say(line)
    if has_successor and not others_serve():
        await _close(ports, has_successor)  # better a second's wait for the next process than a refusal
    await say_goodbye()
    waited_s = time.monotonic() - since
    await asyncio.gather(asyncio.sleep(left_s - waited_s), in_progress.over(begun, pace.drain_s - waited_s))
    in_progress.cut(begun)
    await _close(ports, has_successor)
    await asyncio.sleep(0)  # those who were let in last begin
    await in_progress.over(begun, CUT_S)
    closed = time.monotonic()
    while late := in_progress.now():  # who is still connected may ask once more
        if not await in_progress.over(late, closed + pace.drain_s - time.monotonic()):
            in_progress.cut(late)
            await in_progress.over(late, CUT_S)
            break


async def _close(ports: tuple[Port, ...], has_successor: bool) -> None:
    for port in ports:
        await port.stop(leave_waiting=has_successor)
