"""Several answers as one stream, and their seeds."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from swarm.engines.assembly import numbered, together
from swarm.generation import SEED_MASK, Delta, EventStream, Finish, GenerationRequest, Usage


async def answer(*texts: str, ends: bool = True) -> EventStream:
    for text in texts:
        yield Delta(0, text)
    if not ends:
        raise ZeroDivisionError
    yield Finish(0, "stop", Usage())


async def test_each_answer_is_numbered_and_ends_once() -> None:
    async with aclosing(together([answer("a", "b"), answer("c")])) as events:
        read = [event async for event in events]
    for choice, texts in ((0, ["a", "b"]), (1, ["c"])):
        mine = [event for event in read if event.choice == choice]
        assert [event.text for event in mine if isinstance(event, Delta)] == texts
        assert isinstance(mine[-1], Finish)


async def test_the_first_failure_ends_them_all() -> None:
    closed = asyncio.Event()

    async def endless() -> EventStream:
        try:
            yield Delta(0, "x")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with aclosing(together([endless(), answer(ends=False)])) as events:
        with pytest.raises(ZeroDivisionError):
            async for _ in events:
                pass
    assert closed.is_set()


@pytest.mark.parametrize(("seed", "choice", "own"), [(None, 2, None), (7, 0, 7), (7, 2, 9), (SEED_MASK, 1, 0)])
def test_every_answer_has_a_seed_of_its_own(seed: int | None, choice: int, own: int | None) -> None:
    assert numbered(GenerationRequest(model="m", prompt="x", seed=seed), choice).seed == own
