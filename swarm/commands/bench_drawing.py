"""Draw the samples that a plan wants and the store does not have, many at once, with a line of progress."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from swarm.commands.bench_endpoint import Endpoint
from swarm.commands.output import complain, draw
from swarm.errors import SwarmError
from swarm.evaluation.questions import Problem
from swarm.evaluation.sample_store import SampleStore
from swarm.evaluation.samples import DrawPlan, SampleKey

REDRAW_S = 0.5  # of the progress line in a terminal
LOG_EVERY_S = 10.0  # between two lines of progress where nobody watches

Wanted = tuple[SampleKey, Problem]


def missing(plans: Sequence[DrawPlan], store: SampleStore) -> list[Wanted]:
    """What is still to be drawn, problem by problem, so that an interrupted run has whole ones."""
    wanted = ((key, problem) for plan in plans for problem in plan.questions.problems for key in plan.keys(problem))
    return [(key, problem) for key, problem in wanted if key not in store.samples]


async def draw_samples(
    wanted: Sequence[Wanted], doors: Mapping[str, Endpoint], parallel: int, store: SampleStore
) -> None:
    """Draw all that is `wanted`, at most `parallel` at once from each of `doors` (by model); an error ends it."""
    progress = Progress(len(wanted))

    async def work(door: Endpoint, queue: Iterator[Wanted]) -> None:
        for key, problem in queue:
            store.add(await door.sample(problem, key))
            progress.step()

    try:
        async with asyncio.TaskGroup() as group:
            for door in set(doors.values()):
                queue = iter([entry for entry in wanted if doors[entry[0].model] is door])
                for _ in range(parallel):
                    group.create_task(work(door, queue))
    except* SwarmError as errors:
        raise errors.exceptions[0] from None
    finally:
        progress.end()


class Progress:
    """How many samples are drawn, on standard error."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._live = sys.stderr.isatty()
        self._began = time.monotonic()
        self._said_at = self._began

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said_at >= (REDRAW_S if self._live else LOG_EVERY_S):
            self._said_at = now
            self._say(now)

    def end(self) -> None:
        if self._total:
            self._say(time.monotonic())
        if self._live:
            complain()

    def _say(self, now: float) -> None:
        rate = self._done / max(now - self._began, 1e-3)
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        line = f"  {self._done} of {self._total} samples, {rate:.1f}/s{left}"
        if self._live:
            draw(sys.stderr, f"\r\x1b[K{line}")
        else:
            complain(line)
