"""Clients that go on asking while something happens to the swarm, and an account of every request.

Nothing is asked again here: what fails has failed, with its reason.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from load import CHAT, Endpoint, Json, body_of, post

ANSWER_TIMEOUT_S = 30.0  # the embedded model takes a tenth of a second; whoever waits longer was forgotten
PAUSE_S = 0.05  # between an answer and the same client's next question: load, not saturation
MOST_REASONS = 5  # shown of what went wrong


@dataclass(slots=True)
class Account:
    """Every request that ended: answered, or why not."""

    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter[str])
    slowest_s: float = 0.0

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def percent(self) -> float:
        """Of all requests, those answered."""
        return 100 * self.answered / max(1, self.answered + self.failed)

    def took(self, seconds: float) -> None:
        self.answered += 1
        self.slowest_s = max(self.slowest_s, seconds)

    def summary(self) -> str:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in self.failures.most_common(MOST_REASONS))
        all_of_them = self.answered + self.failed
        return f"{self.answered} of {all_of_them} answered, slowest {self.slowest_s:.2f} s" + (
            f", failed: {reasons}" if reasons else ""
        )


def arithmetic(dice: random.Random) -> list[Json]:
    """A conversation that the embedded model answers in a few tokens, another one each time."""
    one, two, three = (dice.randint(1, 50) for _ in range(3))
    return [{"role": "user", "content": f"Calculate {one} + {two} - {three}"}]


async def ask_once(endpoint: Endpoint, body: Json, account: Account) -> None:
    """One whole answer, into the account."""
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = json.loads(body_of(await post(endpoint, CHAT, body)))
        if not answer["choices"][0]["finish_reason"]:
            raise ValueError("an answer without an end")
    except (OSError, RuntimeError, TimeoutError, ValueError, LookupError) as error:
        account.failures[f"{type(error).__name__}: {str(error)[:160]}"] += 1
    else:
        account.took(time.perf_counter() - begun)


async def _client(
    endpoint: Endpoint, kind: Json, dice: random.Random, account: Account, stop: asyncio.Event, pause_s: float
) -> None:
    while not stop.is_set():
        await ask_once(endpoint, {"max_tokens": 48, **kind, "messages": arithmetic(dice)}, account)
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def asking(
    endpoints: Sequence[Endpoint], kinds: Sequence[Json], pause_s: float = PAUSE_S
) -> AsyncGenerator[Account]:
    """One client at each endpoint for each kind of request, until the block ends; all finish what they asked."""
    account, stop = Account(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for number, (endpoint, kind) in enumerate((endpoint, kind) for endpoint in endpoints for kind in kinds):
            tasks.create_task(_client(endpoint, kind, random.Random(number), account, stop, pause_s))
        try:
            yield account
        finally:
            stop.set()
