"""A ballot's moments: answers in a line."""

from __future__ import annotations

import pytest

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.swarm_object import MAX_SHOWN_CHARS, short_answer
from swarm.generation import Candidate, ToolCall

CALL = ToolCall(id="1", name="weather", arguments='{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (Candidate(voter="v", text="9 + 7 is 16.\nAnswer: 16"), "16"),
        (Candidate(voter="v", text="Answer: 1/2"), "0.5"),
        (Candidate(voter="v", text="Answer: 1/3"), "1/3"),
        (Candidate(voter="v", text="Answer: 1,234.50"), "1234.5"),
        (Candidate(voter="v", text="Answer: (b)"), "B"),
        (Candidate(voter="v", text="Two\n\n lines"), "Two lines"),
        (Candidate(voter="v", text="<think>long</think> So it is."), "So it is."),
        (Candidate(voter="v", text="<think>never closed"), "<think>never closed"),
        (Candidate(voter="v", tool_calls=(CALL, CALL)), 'weather({"city": "Oslo"}); weather({"city": "Oslo"})'),
        (Candidate(voter="v", error="out of memory"), ""),
        (Candidate(voter="v", text="x" * 5000), "x" * (MAX_SHOWN_CHARS - 1) + "…"),
        (Candidate(voter="v", text="a " * 5000), "a " * 99 + "a…"),
        (Candidate(voter="v", text=" " * 5000 + "late"), "…"),
    ],
)
def test_an_answer_in_a_line(candidate: Candidate, said: str) -> None:
    assert short_answer(Question(Strategy.AUTO), candidate) == said
