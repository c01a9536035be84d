"""A vote as lines: what they say at each width, and that nothing gets out of them."""

from __future__ import annotations

from typing import Any

import pytest

from federation.printable_text import columns_of
from swarm.commands.ballot_view import arrival_line, asked_line, ballot, bar, letter, outcome_rows, verdict
from swarm.commands.screen import lines_of
from swarm.commands.vote_stream import CascadePart, PendingSeats, VoterPart, VoteState, read_state, with_answers
from swarm.errors import SwarmError

ZEUS = VoterPart(voter="Zeus@kitchen", model="demo", group=0, weight=1, tokens=31, ms=412, answer="16")
LUNA = VoterPart(voter="Luna@study", model="demo:b", group=0, weight=1, tokens=28, ms=398, answer="16")
ATLAS = VoterPart(voter="Atlas@attic", model="demo:c", group=1, weight=0.5, tokens=30, ms=1501, answer="18")
NOVA = VoterPart(voter="Nova@attic", model="demo:c", abstained="cut by length", tokens=64, ms=800)
RUNNING = VoteState(
    strategy="majority", kind="number", votes=3, asked=5, wanted=5, winner="Zeus@kitchen", quorum=True,
    candidates=(ZEUS, LUNA, ATLAS, NOVA), out=(PendingSeats(node="kitchen", model="demo"),), final=False,
)  # fmt: skip
OVER = RUNNING.model_copy(
    update={
        "final": True, "stopped_by": "unbeatable_lead", "agreement": 0.8, "elapsed_ms": 1503,
        "total_completion_tokens": 153,
    }
)  # fmt: skip


def standing_lines(state: VoteState, columns: int, elapsed_ms: int, rows: int | None = None) -> list[str]:
    return lines_of(ballot(state, elapsed_ms, columns, rows), columns)


def verdict_lines(state: VoteState, columns: int) -> list[str]:
    return lines_of(verdict(state, columns), columns)


def test_a_running_vote_at_80_columns() -> None:
    assert standing_lines(RUNNING, 80, 1234) == [
        "5 voters · majority · number · 1 out · 1.2 s",
        "",
        " A  Zeus@kitchen  demo    16                                      31 tok  412 ms",
        " A  Luna@study    demo:b  16                                      28 tok  398 ms",
        " B  Atlas@attic   demo:c  18                                      30 tok   1.5 s",
        " –  Nova@attic    demo:c  abstains: cut by length                 64 tok  800 ms",
        " …  kitchen       demo    still out",
        "",
        " A  █████████████████▏                 2   80%  16",
        " B  ████▎                            0.5   20%  18",
    ]


def test_a_running_vote_at_40_columns_has_neither_models_nor_costs() -> None:
    assert standing_lines(RUNNING, 40, 1234)[2:6] == [
        " A  Zeus@kitchen  16",
        " A  Luna@study    16",
        " B  Atlas@attic   18",
        " –  Nova@attic    abstains: cut by leng…",
    ]


def test_the_end_says_what_stopped_it_who_disagreed_and_what_it_cost() -> None:
    assert verdict_lines(OVER, 80)[-5:] == [
        "",
        " stopped  the lead cannot be beaten, so the rest was not waited for",
        " verdict  A: 80% agree, of 3 votes; in Zeus@kitchen's words",
        " dissent  B  Atlas@attic: 18",
        "    cost  153 tokens, 1 answer saved, 1.5 s",
    ]
    assert any("not waited for" in line for line in verdict_lines(OVER, 80) if "…" in line)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"degraded": True, "quorum": False}, "no consensus, 3 of 5 voted (no quorum); the best there is: Zeus"),
        ({"degraded": True, "shortfall": "too few agree"}, "(too few agree)"),
        ({"winner": None}, "nobody gave an answer"),
        ({"agreement": None}, "compared with no other"),
        ({"similarity": 0.8349}, "likeness to the others 0.83"),
        ({"weights": "measured"}, "weights as measured"),
        ({"strategy": "judge", "judge": "Vega@attic"}, "   judge  Vega@attic"),
        ({"strategy": "judge"}, "none decided: the vote stands"),
        ({"cascade": {"strong": None, "why_not": "one model"}}, " cascade  a plain vote: one model"),
        (
            {"cascade": {"strong": "large", "asked": True, "agreement": 0.5, "threshold": 0.75, "measured": True}},
            "large was asked; 50% of the smaller models' votes agree, 75% must (as measured)",
        ),
        ({"stopped_by": "agreed"}, "nobody else was asked"),
        ({"stopped_by": "deadline"}, "time was up"),
        ({"stopped_by": "posterior"}, "95 % sure"),
        ({"stopped_by": "some\x1b[31mthing new"}, " stopped  something new"),
        ({"saved": 0}, "153 tokens, 1.5 s"),
        ({"wasted_tokens": 12}, "12 wasted on cancelled answers"),
    ],
)
def test_the_outcome_in_words(changes: dict[str, Any], words: str) -> None:
    rows = outcome_rows(VoteState.model_validate({**OVER.model_dump(), **changes}))
    assert words in "\n".join(row.line for row in rows)


def hostile(count: int) -> VoteState:
    """Voters whose every word tries to get out of its line."""
    evil = "\x1b[2J\x1b]0;x\x07" + "日本語\u202e" * 40 + "\r\n\n" + "a" * 5000
    voters = [
        VoterPart(voter=f"{evil}{n}", model=evil, group=n % 7, weight=1.5, tokens=10**9, ms=10**8, answer=evil)
        for n in range(count)
    ]
    failed = VoterPart(voter="x", model=evil, abstained=f"failed: {evil}")
    out = (PendingSeats(node=evil, model=evil, seats=30),)
    return VoteState(
        strategy=evil, kind=evil, votes=count, asked=count + 31, wanted=64, winner=voters[0].voter, judge=evil,
        agreement=0.3, quorum=True, stopped_by=evil, cascade=CascadePart(why_not=evil),
        candidates=(*voters, failed), out=out, final=False,
    )  # fmt: skip


@pytest.mark.parametrize("columns", [1, 7, 20, 40, 63, 64, 80, 120, 400])
@pytest.mark.parametrize("voters", [1, 32])
def test_nothing_gets_out_of_its_line(columns: int, voters: int) -> None:
    account = hostile(voters)
    lines = [*standing_lines(account, columns, 10**8), *verdict_lines(account, columns)]
    assert all(line.isprintable() for line in lines)
    assert max(map(columns_of, lines)) <= columns
    assert arrival_line(account, account.candidates[0]).isprintable()
    assert asked_line(account).isprintable()


@pytest.mark.parametrize("rows", [1, 5, 10, 24])
def test_many_voters_fit_a_low_terminal(rows: int) -> None:
    lines = standing_lines(hostile(32), 80, 0, rows)
    assert len(lines) <= max(rows, 16), "the tally stays whole; what no terminal has room for is cut where it is drawn"
    if rows == 24:
        assert any("… and " in line for line in lines)
        assert any("█" in line for line in lines), "the tally stays in sight"


def test_the_lines_of_a_log() -> None:
    assert asked_line(RUNNING) == "   asked  5 voters: 1 demo@kitchen"
    assert arrival_line(RUNNING, ATLAS) == "    0 ms  Atlas@attic (demo:c): 18  [2–0.5, 1 out]"
    assert "Nova@attic (demo:c): abstains: cut by length" in arrival_line(RUNNING, NOVA)


@pytest.mark.parametrize(("group", "name"), [(0, "A"), (1, "B"), (25, "Z"), (26, "AA"), (51, "AZ"), (52, "BA")])
def test_groups_have_letters(group: int, name: str) -> None:
    assert letter(group) == name


@pytest.mark.parametrize(
    ("share", "drawn"), [(0, "    "), (1, "████"), (0.5, "██  "), (0.53, "██▏ "), (2, "████"), (-1, "    ")]
)
def test_a_bar_is_drawn_to_an_eighth_of_a_column(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn


def test_a_vote_without_a_vote_has_no_tally() -> None:
    lone = VoteState(strategy="single", kind="text", asked=1, wanted=5, votes=1, winner=ZEUS.voter, candidates=(ZEUS,))
    assert not any("█" in line for line in standing_lines(lone, 80, 5))
    assert standing_lines(lone, 80, 5)[0] == "1 of 5 voters · single · text · 5 ms"


def test_the_end_knows_each_answer_from_the_moments_before() -> None:
    last = {"strategy": "auto", "candidates": [{"voter": "a", "answer": "7"}], "out": [{"node": "n"}]}
    final = {"strategy": "auto", "winner": "a", "new": 1, "candidates": [{"voter": "a"}, {"voter": "b"}]}
    merged = with_answers(final, last, "whole")
    assert merged == {**final, "candidates": [{"voter": "a", "answer": "7"}, {"voter": "b"}], "out": [{"node": "n"}]}
    assert read_state(with_answers(final, None, "whole")).candidates[0].answer == "whole"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {"strategy": 7},
        {"strategy": "auto", "candidates": [{"group": 1}]},
        {"strategy": "auto", "candidates": [{"voter": "a", "group": -1}]},
        {"strategy": "auto", "candidates": [{"voter": "a", "weight": float("nan")}]},
    ],
)
def test_an_unreadable_account_is_said_to_be_one(raw: Any) -> None:
    with pytest.raises(SwarmError, match="what the node says of the vote is unreadable"):
        read_state(raw)
