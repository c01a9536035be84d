"""What was read of prompts is kept, forked and forgotten: with stand-ins for caches, and no library."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.engines.mlx.kept_prompts import Caches, KeptPrompts, common_length

TOKEN_BYTES = 10


@dataclass
class StandIn:
    """A layer's cache that knows how many tokens it holds; `cuts` like attention's, or not, like a recurrent one's."""

    tokens: int
    cuts: bool = True

    @property
    def nbytes(self) -> int:
        return self.tokens * TOKEN_BYTES

    def is_trimmable(self) -> bool:
        return self.cuts

    def trim(self, n: int) -> int:
        n = min(n, self.tokens)
        self.tokens -= n
        return n


def caches(count: int, cuts: bool = True) -> Caches:
    return [StandIn(count), StandIn(count, cuts)]


def kept(*prompts: Sequence[int], most_bytes: int = 10**6, cuts: bool = True) -> KeptPrompts:
    found = KeptPrompts(most_bytes)
    for prompt in prompts:
        found.keep(prompt, caches(len(prompt), cuts))
    return found


def lengths(found: Caches | None) -> list[int] | None:
    return None if found is None else [cache.nbytes // TOKEN_BYTES for cache in found]


@pytest.mark.parametrize(
    ("prompts", "cuts", "asked", "expected"),
    [
        ([], True, (1, 2), (0, None)),
        ([(1, 2, 3)], True, (1, 2, 3, 4), (3, [3, 3])),
        ([(1, 2, 3)], True, (1, 2, 3), (2, [2, 2])),  # the last token is always read: the answer comes from it
        ([(1, 2, 3, 4, 5)], True, (1, 2, 9, 9), (2, [2, 2])),
        ([(1, 2, 3)], True, (9, 2, 3), (0, None)),
        ([(1, 2), (1, 2, 3), (1,)], True, (1, 2, 3, 4), (3, [3, 3])),
        ([(1, 2, 3)], False, (1, 2, 3, 4), (3, [3, 3])),
        ([(1, 2, 3)], False, (1, 2, 9, 9), (0, None)),  # it cannot be cut
        ([(1, 2, 3)], False, (1, 2, 3), (0, None)),
        ([(1,), (1, 2, 3)], False, (1, 2, 9), (1, [1, 1])),
        ([(1, 2, 3)], True, (1,), (0, None)),
    ],
)
def test_what_a_prompt_begins_with_need_not_be_read(
    prompts: list[tuple[int, ...]], cuts: bool, asked: tuple[int, ...], expected: tuple[int, list[int] | None]
) -> None:
    length, found = kept(*prompts, cuts=cuts).fork(asked)
    assert (length, lengths(found)) == expected


def test_a_fork_leaves_what_is_kept_as_it_is() -> None:
    prompts = kept((1, 2, 3, 4))
    for _ in range(2):
        length, found = prompts.fork((1, 2, 9))
        assert (length, lengths(found)) == (2, [2, 2])
    assert prompts.nbytes == 8 * TOKEN_BYTES


def test_a_conversation_that_goes_on_is_kept_once_where_it_can_be_cut() -> None:
    assert len(kept((1, 2), (1, 2, 3), (1, 2, 3, 4))) == 1
    assert len(kept((1, 2), (1, 2, 3), (1, 2, 3, 4), cuts=False)) == 3
    assert len(kept((1, 2), (1, 2), cuts=False)) == 1
    assert len(kept((1, 2, 3), (1, 2, 4))) == 2
    assert len(kept(())) == 0


def test_the_least_lately_used_is_forgotten_first() -> None:
    prompts = kept((1, 1), (2, 2), (3, 3), most_bytes=3 * 2 * 2 * TOKEN_BYTES)
    prompts.fork((1, 1, 1))
    prompts.keep((4, 4), caches(2))
    assert [prompts.fork((first, first, 9))[0] for first in (1, 2, 3, 4)] == [2, 0, 2, 2]
    prompts.shrink(0)
    assert len(prompts) == prompts.nbytes == 0


@pytest.mark.parametrize(
    ("known", "length", "read", "expected"),
    [
        ([], 200, 0, [184]),
        ([range(100)], 200, 0, [100, 184]),  # what two prompts begin with is kept for a third
        ([range(100)], 200, 100, [184]),
        ([range(30)], 200, 0, [184]),  # too little
        ([range(300)], 200, 0, [184]),
        ([], 10, 0, []),
        ([], 200, 190, []),
    ],
)
def test_where_copies_are_kept_of_what_cannot_be_cut(
    known: list[range], length: int, read: int, expected: list[int]
) -> None:
    prompts = kept(*known, cuts=False)
    assert prompts.stops(tuple(range(length)), read) == expected


def test_what_is_larger_than_all_that_may_be_kept_is_not() -> None:
    assert len(kept((1, 2, 3), most_bytes=TOKEN_BYTES)) == 0


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_beginning_is_the_longest(one: list[int], other: list[int]) -> None:
    length = common_length(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), max_size=8),
    st.lists(st.integers(0, 1)),
    st.booleans(),
)
def test_a_fork_holds_exactly_what_it_says(prompts: list[list[int]], asked: list[int], cuts: bool) -> None:
    found = kept(*prompts, cuts=cuts)
    before = copy.deepcopy(found.nbytes)
    length, forked = found.fork(tuple(asked))
    assert length < max(len(asked), 1)
    assert (forked is None) == (length == 0)
    if forked is not None:
        assert lengths(forked) == [length, length]
        assert any(prompt[:length] == asked[:length] for prompt in prompts)
    assert found.nbytes == before
