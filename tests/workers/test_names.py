"""Names of workers."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from swarm.workers.slots import NAMES, worker_names


@given(node_id=st.text(max_size=10), count=st.integers(0, 4 * len(NAMES)))
def test_names_are_different_however_many(node_id: str, count: int) -> None:
    names = list(islice(worker_names(node_id), count))
    assert len(set(names)) == count


def test_a_node_keeps_its_names_and_others_have_others() -> None:
    first, again, other = (tuple(islice(worker_names(node), 4)) for node in ("a", "a", "b"))
    assert first == again
    assert first != other


def test_the_names_themselves_are_words_without_the_marks_that_votes_use() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(name.isalpha() for name in NAMES)
