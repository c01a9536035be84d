"""Several answers of which each is a request of its own, as the one stream of events that an engine promises."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from swarm.generation import SEED_MASK, Delta, EventStream, Finish, GenerationRequest

MAX_UNREAD = 256  # events of answers that run at once; beyond it they wait, and who generates them behind them


async def together(answers: Sequence[EventStream]) -> EventStream:
    """The events of `answers` as they come, each numbered by its place. The first that fails ends them all."""
    events: asyncio.Queue[Delta | Finish | Exception] = asyncio.Queue(MAX_UNREAD)

    async def follow(choice: int, answer: EventStream) -> None:
        try:
            async with aclosing(answer) as stream:
                async for event in stream:
                    await events.put(replace(event, choice=choice))
        except Exception as error:  # noqa: BLE001 - raised below, where somebody hears it
            await events.put(error)

    following = [follow(choice, answer) for choice, answer in enumerate(answers)]
    tasks = [asyncio.create_task(each, name="answer of several") for each in following]
    unfinished = len(tasks)
    try:
        while unfinished:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            unfinished -= isinstance(event, Finish)
            yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def numbered(request: GenerationRequest, choice: int) -> GenerationRequest:
    """The request for answer number `choice` of several: where there is a seed, with one of its own."""
    if request.seed is None or choice == 0:
        return request
    return request.model_copy(update={"seed": (request.seed + choice) & SEED_MASK})
