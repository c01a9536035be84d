"""What is counted of each peer, and when a person is told: tables of cases, and what holds for any counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.consensus.verdict import Verdict, decide
from swarm.generation import Candidate, Delta, GenerationRequest, ToolCall, ToolCallDelta, Usage
from swarm.routing.observations import (
    MAX_COUNT,
    MAX_PEERS_COUNTED,
    MIN_VOTES,
    UNSEEN_TOKENS,
    Conduct,
    ConductCounts,
    dissents,
    findings,
    possible_tokens,
    size_mismatch,
    wilson,
)
from tests.doubles.replicas import replica

NOBODY = ConductCounts()
REST = ConductCounts(votes=200, dissent=20)


@pytest.mark.parametrize(
    ("account", "others", "told"),
    [
        (ConductCounts(), NOBODY, []),
        (ConductCounts(answers=1000, votes=400, dissent=40), REST, []),
        (ConductCounts(votes=MIN_VOTES - 1, dissent=MIN_VOTES - 1), REST, []),
        (ConductCounts(votes=40, dissent=31), REST,
         ["31 of 40 countable votes against the rest; all others together 20 of 200"]),
        (ConductCounts(votes=20, dissent=20), NOBODY, ["20 of 20 countable votes against the rest"]),
        (ConductCounts(votes=40, dissent=22), REST, []),
        (ConductCounts(votes=40, dissent=31), ConductCounts(votes=200, dissent=150), []),
        (ConductCounts(answers=10, malformed=2), REST, []),
        (ConductCounts(answers=10, malformed=3), REST, ["3 of 13 answers were none"]),
        (ConductCounts(answers=300, malformed=3), REST, []),
        (ConductCounts(answers=10, overstated=4), REST, ["4 of 10 answers named more tokens than they have bytes"]),
        (ConductCounts(answers=10, paced=4, refuted=4), REST, []),
        (ConductCounts(answers=10, paced=8, refuted=7), REST,
         ["claims over 4 times the speed measured in 7 of 8 answers"]),
        (ConductCounts(answers=10, paced=8, refuted=3), REST, []),
    ],
    ids=[
        "nothing known", "one in ten", "too few votes", "three in four", "all, and no others", "half may be chance",
        "the others are alike", "two may be chance", "three", "of very many", "tokens", "too few measured", "a boast",
        "now and then",
    ],
)  # fmt: skip
def test_what_a_person_is_told(account: ConductCounts, others: ConductCounts, told: list[str]) -> None:
    assert list(findings(account, others)) == told


@given(votes=st.integers(1, 400), share=st.floats(0, 1))
def test_the_interval_holds_the_share_and_gets_no_wider_with_more_votes(votes: int, share: float) -> None:
    dissent = round(votes * share)
    least, most = wilson(dissent, votes)
    assert -1e-9 <= least <= dissent / votes + 1e-9 <= most + 2e-9 <= 1 + 3e-9
    twice_least, twice_most = wilson(2 * dissent, 2 * votes)
    assert twice_most - twice_least <= most - least + 1e-9


def test_accounts_are_bounded_in_number_and_in_size_and_keep_their_shares() -> None:
    conduct = Conduct()
    for number in range(3 * MAX_PEERS_COUNTED):
        conduct.note(f"n{number}", answers=1)
    assert conduct.of("n0") == ConductCounts()
    for turn in range(10 * MAX_COUNT):
        conduct.note("attic", votes=1, dissent=turn % 2)
    account = conduct.of("attic")
    assert account.votes <= MAX_COUNT
    assert abs(account.dissent / account.votes - 0.5) < 0.05
    conduct.note("study", votes=5, dissent=1)
    assert conduct.others("attic") == ConductCounts(votes=5, dissent=1)


def vote(*answers: str, strategy: Strategy = Strategy.MAJORITY, peers: dict[str, str] | None = None) -> Verdict:
    """A verdict on these answers of voters at kitchen, attic, study, ..., in this order."""
    nodes = ("kitchen", "attic", "study", "cellar", "loft")
    question = Question.of(
        GenerationRequest(model="m", messages=({"role": "user", "content": "What is 40 + 2?"},)), strategy
    )
    heard = [
        Candidate(voter=f"Rex@{node}", node=node, text=text, finish_reason="stop")
        for node, text in zip(nodes, answers, strict=False)
    ]
    known = {node: node for node in nodes[1:]} if peers is None else peers
    return decide(question, heard, asked=len(heard), wanted=5, stopped_by="all_in", peers=known)


IDS = {"attic": "id-attic", "study": "id-study", "cellar": "id-cellar"}


@pytest.mark.parametrize(
    ("verdict", "counted"),
    [
        (vote("Answer: 42", "Answer: 13", "Answer: 42"), [("id-study", False), ("id-attic", True)]),
        (vote("Answer: 42", "", "Answer: 42"), [("id-study", False)]),
        (vote("Answer: 42", "Answer: 13", "Answer: 14"), []),
        (vote("Answer: 42", "Answer: 13"), []),
        (vote("The sky is blue", "It is blue", "Bananas sing"), []),
        (vote("Answer: 42", "Answer: 13", "Answer: 42", strategy=Strategy.FIRST), []),
    ],
    ids=["against two", "who abstains does not dissent", "nobody agrees", "one against one", "prose", "a race"],
)
def test_only_ballots_in_a_settled_countable_vote_are_counted(
    verdict: Verdict, counted: list[tuple[str, bool]]
) -> None:
    assert dissents(verdict, IDS) == counted


def test_a_crowd_of_one_node_settles_nothing_against_others() -> None:
    """Else a node with many workers would make dissenters of all that are right."""
    question = Question.of(
        GenerationRequest(model="m", messages=({"role": "user", "content": "1 + 1?"},)), Strategy.MAJORITY
    )
    heard = [
        Candidate(voter=f"{name}@{name[:1]}", node=name[:1], text=text, finish_reason="stop")
        for name, text in (("k1", "Answer: 3"), ("k2", "Answer: 3"), ("k3", "Answer: 3"), ("a1", "Answer: 2"))
    ]
    verdict = decide(question, heard, asked=4, wanted=4, stopped_by="all_in", peers={"a": "a"})
    assert verdict.outcome == "consensus"
    assert dissents(verdict, {"a": "id-a"}) == []


@pytest.mark.parametrize(
    ("told", "sent_bytes", "possible"),
    [(5, 20, 5), (84, 20, 20 + UNSEEN_TOKENS), (2**31, 20, 20 + UNSEEN_TOKENS), (0, 0, 0), (64, 0, 64)],
)
def test_an_answer_has_no_more_tokens_than_bytes(told: int, sent_bytes: int, possible: int) -> None:
    assert possible_tokens(told, sent_bytes) == possible


def test_a_size_that_is_not_that_of_the_name_is_a_lie_and_a_rounded_one_is_none() -> None:
    for told, lies in ((None, 0), (2_166_720, 0), (2_000_000, 0), (10**15, 1), (1000, 1)):
        assert len(size_mismatch(replica("a", model="demo", params=2_166_720, reported_params=told))) == lies
    assert size_mismatch(replica("a", model="made-up", reported_params=10**15)) == (), "nobody knows better"


def test_the_bytes_of_an_answer_are_all_that_was_written() -> None:
    written = Candidate(voter="a", text="é", reasoning="ab", usage=Usage(completion_tokens=1))
    assert written.size_bytes == 4


@given(st.lists(st.text(st.characters(exclude_categories=())), min_size=4, max_size=4))
@settings(deadline=None)
def test_the_bytes_of_a_step_are_those_of_its_utf_8_whatever_a_model_writes(texts: list[str]) -> None:
    text, reasoning, name, arguments = texts
    whole_bytes = sum(len(each.encode(errors="replace")) for each in texts)
    step = Delta(0, text, reasoning, (ToolCallDelta(0, "id", name, arguments),))
    written = Candidate(
        voter="a", text=text, reasoning=reasoning, tool_calls=(ToolCall(id="", name=name, arguments=arguments),)
    )
    assert (step.size_bytes, written.size_bytes) == (whole_bytes, whole_bytes)
    later = Delta(0, tool_calls=(ToolCallDelta(0, None, None, arguments),))
    assert later.size_bytes == len(arguments.encode(errors="replace"))
