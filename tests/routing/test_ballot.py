"""A ballot in progress, with voters that a test conducts: arrivals, failures, time, and a reader that is slow."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from swarm.consensus.judge import judge_request
from swarm.consensus.options import Ahead, Strategy
from swarm.consensus.question import Question
from swarm.consensus.strategies import Group
from swarm.consensus.waves import SamplingChange
from swarm.errors import BadRequest, DeadlineExceeded, EngineDied, EngineFailed, PeerFailed, SwarmError, Unavailable
from swarm.generation import GAVE_WAY, Candidate, Delta, Finish, GenerationRequest, Usage
from swarm.routing.ballot import MAX_UNREAD, hold_ballot
from swarm.routing.ballot_box import BallotBox, BallotCall, BallotResult, Failure, Report, no_candidate
from swarm.routing.peer_answers import OnEvent
from swarm.routing.policy import Batch
from swarm.routing.replica_client import Meter
from swarm.routing.replicas import Replica
from tests.doubles.waiting import eventually

SHORT_S = 0.03
LONG_S = 30.0

# What a voter does: says a text, waits, fails, streams a delta (if somebody listens), or has a candidate of its own.
Step = str | asyncio.Event | Exception | Delta | Candidate


def replica(node: str) -> Replica:
    return Replica(node, node, "m", slots=4, slots_free=4, url=None if node == "here" else f"http://{node}")


def sampling(temperature: float | None = None, seed: int = 0) -> SamplingChange:
    return SamplingChange(temperature, seed)


def candidate(text: str, voter: str, node: str, prompt_tokens: int = 1) -> Candidate:
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=1)
    return Candidate(voter=f"{voter}@{node}", node=node, model="m", text=text, finish_reason="stop", usage=usage)


@dataclass
class Hall:
    """Plays each node's steps; every text is one voter's candidate, named after its turn unless `names` says else."""

    steps: dict[str, Sequence[Step]]
    names: dict[str, Sequence[str]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    runs: list[str] = field(default_factory=list)

    async def run(self, batch: Batch, on_event: OnEvent | None, meter: Meter) -> AsyncGenerator[Candidate, None]:
        place = batch.replica
        self.running.add(place.node)
        self.runs.append(place.node)
        turn = 0
        try:
            for step in self.steps[place.node]:
                match step:
                    case str():
                        if on_event is not None and turn == 0:
                            await on_event(Finish(0, "stop", Usage()))
                        meter.count(Finish(turn, "stop", Usage()))
                        names = self.names.get(place.node, ())
                        yield candidate(step, names[turn] if turn < len(names) else f"v{turn}", place.node)
                        turn += 1
                    case Delta():
                        meter.count(replace(step, choice=turn))
                        if on_event is not None:
                            await on_event(step)
                    case Candidate():
                        yield step
                    case asyncio.Event():
                        await step.wait()
                    case _:
                        raise step
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.add(place.node)
            raise
        finally:
            self.running.discard(place.node)

    def call(
        self,
        *seats: tuple[str, int],
        strategy: Strategy = Strategy.MAJORITY,
        deadline_s: float = LONG_S,
        replacement: Callable[[Failure, Mapping[str, int]], Batch | None] = lambda *_: None,
        stream_leader: bool = False,
        min_votes: int = 1,
    ) -> BallotCall:
        return BallotCall(
            question=Question(strategy),
            wanted=sum(count for _, count in seats),
            batches=tuple(Batch(replica(node), (sampling(),) * count) for node, count in seats),
            deadline=time.monotonic() + deadline_s,
            run=self.run,
            replace=replacement,
            stream_leader=stream_leader,
            min_votes=min_votes,
        )


async def outcome_of(call: BallotCall, **limits: Any) -> BallotResult:
    async with aclosing(hold_ballot(call, **limits)) as progress:
        items = [item async for item in progress]
    (outcome,) = items
    assert isinstance(outcome, BallotResult)
    return outcome


async def test_a_ballot_ends_when_everybody_has_answered() -> None:
    hall = Hall({"here": ["Answer: 1", "Answer: 2"]})
    verdict = (await outcome_of(hall.call(("here", 2)))).verdict
    assert (verdict.stopped_by, verdict.votes, verdict.asked) == ("all_in", 2, 2)


async def test_voters_run_side_by_side() -> None:
    meet = asyncio.Barrier(2)

    class Meeting(asyncio.Event):
        async def wait(self) -> bool:  # type: ignore[override]
            await meet.wait()
            return True

    hall = Hall({"a": [Meeting(), "Answer: 1"], "b": [Meeting(), "Answer: 1"]})
    async with asyncio.timeout(5):
        assert (await outcome_of(hall.call(("a", 1), ("b", 1)))).verdict.votes == 2


async def test_an_unbeatable_lead_stops_who_is_left() -> None:
    hall = Hall({"here": ["Answer: 1", "Answer: 1"], "a": [asyncio.Event()]})
    verdict = (await outcome_of(hall.call(("here", 2), ("a", 1)))).verdict
    assert verdict.stopped_by == "unbeatable_lead"
    assert hall.cancelled == {"a"}


async def test_what_has_come_in_by_the_deadline_counts_even_if_nobody_has_read_it_yet() -> None:
    """A slow reader holds the ballot up in a delta until the deadline has passed; all answers are there by then."""
    hall = Hall({"here": [Delta(0, "word"), "yes"], "a": ["yes"], "b": [asyncio.Event()]})
    call = hall.call(("here", 1), ("a", 1), ("b", 1), strategy=Strategy.MEDOID, deadline_s=SHORT_S, stream_leader=True)
    async with aclosing(hold_ballot(call)) as progress:
        assert await anext(progress) == Delta(0, "word")
        await eventually(lambda: time.monotonic() > call.deadline)
        outcome = await anext(progress)
    assert isinstance(outcome, BallotResult)
    assert outcome.leader is not None
    assert outcome.verdict.votes == 2
    assert hall.cancelled == {"b"}


async def test_a_stream_that_never_pauses_cannot_outrun_the_deadline() -> None:
    endless = [Delta(0, "x")] * 1_000_000
    hall = Hall({"here": endless, "a": [asyncio.Event()]})
    call = hall.call(("here", 1), ("a", 1), strategy=Strategy.MEDOID, deadline_s=SHORT_S, stream_leader=True)
    late = 0

    async def read() -> None:
        nonlocal late
        async with aclosing(hold_ballot(call)) as progress:
            async for _ in progress:
                late += time.monotonic() > call.deadline
                await asyncio.sleep(0)  # a reader slow enough that the queue never runs dry by itself

    with pytest.raises(DeadlineExceeded):
        await read()
    assert late <= MAX_UNREAD + 1
    assert not hall.running


async def test_a_reader_that_stops_leaves_no_voter_stuck() -> None:
    """The queue is full and the voter waits in it when the ballot is closed."""
    hall = Hall({"here": [Delta(0, "x")] * 100, "a": ["yes"], "b": [asyncio.Event()]})
    call = hall.call(("here", 1), ("a", 1), ("b", 1), strategy=Strategy.MEDOID, stream_leader=True)
    async with asyncio.timeout(5):
        async with aclosing(hold_ballot(call, most_unread=3)) as progress:
            await anext(progress)
            for _ in range(20):
                await asyncio.sleep(0)
            assert hall.running == {"here", "a", "b"} or hall.running == {"here", "b"}
    assert not hall.running


async def test_the_leaders_words_come_live_and_its_candidate_with_the_outcome() -> None:
    gate = asyncio.Event()
    hall = Hall({"here": [Delta(0, "ye"), Delta(0, "s"), "yes"], "a": [gate, "yes"]})
    call = hall.call(("here", 1), ("a", 1), strategy=Strategy.MEDOID, stream_leader=True)
    async with aclosing(hold_ballot(call)) as progress:
        assert [await anext(progress), await anext(progress)] == [Delta(0, "ye"), Delta(0, "s")]
        gate.set()
        outcome = await anext(progress)
    assert isinstance(outcome, BallotResult)
    assert outcome.leader is not None
    assert outcome.leader.voter == "v0@here"


async def test_a_won_vote_waits_for_its_leader() -> None:
    gate = asyncio.Event()
    hall = Hall({"here": [Delta(0, "ye"), gate, "Answer: 1"], "a": ["Answer: 2"] * 3})
    call = hall.call(("here", 1), ("a", 3), stream_leader=True)
    async with aclosing(hold_ballot(call)) as progress:
        await anext(progress)
        last = asyncio.ensure_future(anext(progress))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not last.done()
        gate.set()
        outcome = await last
    assert isinstance(outcome, BallotResult)
    assert outcome.verdict.votes == 4


async def test_a_leader_that_fails_before_its_first_word_is_replaced_by_the_winner() -> None:
    hall = Hall({"here": [EngineFailed("broke")], "a": ["yes", "yes"]})
    outcome = await outcome_of(hall.call(("here", 1), ("a", 2), strategy=Strategy.MEDOID, stream_leader=True))
    assert outcome.leader is None
    assert outcome.verdict.votes == 2


async def test_a_leader_that_fails_in_mid_answer_ends_the_ballot_with_its_error() -> None:
    hall = Hall({"here": [Delta(0, "half"), EngineFailed("broke")], "a": ["yes", asyncio.Event()]})
    call = hall.call(("here", 1), ("a", 2), strategy=Strategy.MEDOID, stream_leader=True)
    with pytest.raises(EngineFailed, match="broke"):
        await outcome_of(call)
    assert not hall.running


async def test_one_lost_batch_is_replaced_and_a_second_is_not() -> None:
    failures: list[Failure] = []

    def replacement(failure: Failure, seated: Mapping[str, int]) -> Batch:
        failures.append(failure)
        return Batch(replica("spare"), failure.batch.samplings[: failure.missing])

    hall = Hall(
        {
            "a": ["Answer: 1", PeerFailed("a", "gone")],
            "b": [PeerFailed("b", "gone")],
            "here": ["Answer: 1"],
            "spare": ["Answer: 2"],
        }
    )
    verdict = (
        await outcome_of(hall.call(("here", 1), ("a", 2), ("b", 1), replacement=replacement, min_votes=3))
    ).verdict
    assert len(failures) == 1
    assert failures[0].missing == 1, "what it had answered stays"
    assert verdict.votes == 3
    assert verdict.asked == 4
    (lost,) = [summary for summary in verdict.candidates if summary.group is None]
    assert (lost.voter, lost.abstained) == ("lost@b", "failed: peer b: gone")


def stopped(node: str) -> Candidate:
    """A vote that gave way, as who ran it sends it: nothing of it has ended before."""
    return Candidate(voter=f"idle@{node}", node=node, model="m", error=GAVE_WAY)


def giving_way(call: BallotCall, replacement: str) -> BallotCall:
    """`call`, in which all but the first give way, and whoever is lost is replaced at `replacement`."""

    def replaced(failure: Failure, _: Mapping[str, int]) -> Batch:
        return replace(failure.batch, replica=replica(replacement))

    first, *others = call.batches
    return replace(call, batches=(first, *(replace(each, gives_way=True) for each in others)), replace=replaced)


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_replaces_a_vote_that_gives_way_leads_nothing(streamed: bool) -> None:
    """It may be stopped in mid-answer: the vote goes on without it, whatever it had said."""
    gate = asyncio.Event()
    lost_first = PeerFailed("here", "gone") if streamed else "Answer: 1"
    hall = Hall(
        {
            "here": [lost_first] if streamed else [gate, lost_first],
            "a": [PeerFailed("a", "gone")],
            "b": ["Answer: 2"] if streamed else [],
            "spare": [Delta(0, "half"), stopped("spare")],
        }
    )
    seats = [("here", 1), ("a", 1), ("b", 1)][: 3 if streamed else 2]
    call = giving_way(hall.call(*seats, strategy=Strategy.MEDOID, stream_leader=streamed), "spare")
    if streamed:  # nobody was found for the first
        found = call.replace
        call = replace(call, replace=lambda failure, _: found(failure, _) if failure.batch.gives_way else None)
    asking = asyncio.create_task(outcome_of(call))
    await eventually(lambda: "spare" in hall.runs and "spare" not in hall.running)
    gate.set()
    outcome = await asking
    assert (outcome.verdict.votes, outcome.leader, outcome.shown) == (1, None, "buffer")


async def test_the_vote_that_does_not_give_way_is_replaced_beside_one_that_does() -> None:
    gate = asyncio.Event()
    hall = Hall(
        {
            "here": [gate, PeerFailed("here", "gone")],
            "a": [PeerFailed("a", "gone")],
            "b": [PeerFailed("b", "gone")],
            "spare": ["Answer: 1"],
        }
    )
    asking = asyncio.create_task(outcome_of(giving_way(hall.call(("here", 1), ("a", 1), ("b", 1)), "spare")))
    await eventually(lambda: hall.runs.count("spare") == 1)
    gate.set()
    outcome = await asking
    assert (hall.runs.count("spare"), outcome.verdict.votes) == (2, 2)


async def test_where_all_that_are_left_gave_way_the_client_is_told_to_come_back() -> None:
    hall = Hall({"here": [PeerFailed("here", "gone")], "a": [stopped("a")]})
    call = hall.call(("here", 1), ("a", 1))
    call = replace(giving_way(call, "a"), replace=lambda *_: None)
    with pytest.raises(Unavailable, match="peer here: gone; the others gave way to other requests: try again"):
        await outcome_of(call)


def never(*_: object) -> None:
    raise AssertionError("somebody else would have been asked")


async def test_where_an_engine_ended_nobody_else_is_asked_and_those_who_have_it_may_finish() -> None:
    gate = asyncio.Event()
    hall = Hall({"a": [EngineDied("ended")], "here": ["Answer: 1", gate, "Answer: 1"], "later": ["Answer: 2"] * 2})
    call = hall.call(("a", 1), ("here", 2), replacement=never, min_votes=5)
    call = dataclasses.replace(call, later=wave(("later", 2)), reseat=never, progress=True)  # type: ignore[arg-type]
    async with aclosing(hold_ballot(call)) as progress:
        items = []
        async for item in progress:
            items.append(item)
            gate.set()  # once the loss has been told
    outcome = items[-1]
    assert isinstance(outcome, BallotResult)
    assert sorted(hall.runs) == ["a", "here"]
    assert (outcome.verdict.asked, outcome.verdict.votes, outcome.verdict.degraded) == (3, 2, True)
    (lost,) = [summary for summary in outcome.verdict.candidates if summary.group is None]
    assert (lost.voter, lost.abstained) == ("lost@a", "failed: ended")


async def test_where_an_engine_ended_the_others_that_fail_are_not_replaced() -> None:
    gate = asyncio.Event()
    hall = Hall({"a": [EngineDied("ended")], "b": [gate, PeerFailed("b", "gone")]})
    call = dataclasses.replace(hall.call(("a", 1), ("b", 1), replacement=never), progress=True)

    async def hold() -> None:
        async with aclosing(hold_ballot(call)) as progress:
            async for _ in progress:
                gate.set()

    with pytest.raises(EngineDied, match="ended"):
        await hold()


async def test_no_judge_is_asked_about_a_question_over_which_an_engine_ended() -> None:
    async def judge(_: Sequence[Group]) -> Candidate:
        raise AssertionError("asked")

    hall = Hall({"a": [EngineDied("ended")], "here": ["one thing", "quite another"]})
    call = dataclasses.replace(hall.call(("a", 1), ("here", 2), strategy=Strategy.JUDGE), ask_judge=judge)
    assert (await outcome_of(call)).verdict.votes == 2


async def test_a_defect_in_one_voter_costs_only_its_part() -> None:
    hall = Hall({"here": ["Answer: 1"], "a": [ZeroDivisionError("a defect")]})
    assert (await outcome_of(hall.call(("here", 1), ("a", 1)))).verdict.votes == 1


async def test_voters_of_one_name_are_told_apart() -> None:
    hall = Hall({"a": ["Answer: 1", "Answer: 1", "Answer: 1"]}, names={"a": ["Rex", "Rex", "Rex"]})
    verdict = (await outcome_of(hall.call(("a", 3), min_votes=3))).verdict
    assert sorted(summary.voter for summary in verdict.candidates) == ["Rex#2@a", "Rex#3@a", "Rex@a"]
    assert verdict.votes == 3


async def test_the_grace_begins_with_the_quorum_and_is_not_extended() -> None:
    hall = Hall({"here": ["Answer: 1", "Answer: 2"], "a": [asyncio.Event()], "b": [asyncio.Event()]})
    started = time.monotonic()
    verdict = (await outcome_of(hall.call(("here", 2), ("a", 1), ("b", 1)), min_grace_s=SHORT_S)).verdict
    assert (verdict.stopped_by, verdict.votes) == ("deadline", 2)
    assert SHORT_S <= time.monotonic() - started < LONG_S / 2
    assert hall.cancelled == {"a", "b"}


@pytest.mark.parametrize(
    ("failures", "late", "kind", "message"),
    [
        ([], True, DeadlineExceeded, "none of the 3 voters answered by the request's deadline$"),
        ([EngineFailed("broke")], True, DeadlineExceeded, r"deadline \(broke\)$"),
        ([EngineFailed("broke"), BadRequest("no")], False, BadRequest, "^no$"),
        ([EngineFailed("broke")] * 3, False, EngineFailed, "^every voter failed: broke$"),
        ([EngineFailed("broke"), BadRequest("no"), EngineDied("ended")], False, EngineDied, "^ended$"),
        ([EngineDied("ended"), Unavailable("full")], True, EngineDied, "^ended$"),
        ([EngineFailed("broke"), Unavailable("full")], False, EngineFailed, "broke; full"),
        ([Unavailable("full", 9), Unavailable("reloading", 4)], False, Unavailable, "^full; reloading$"),
    ],
)
def test_without_any_candidate_the_client_is_told_why(
    failures: list[SwarmError], late: bool, kind: type[SwarmError], message: str
) -> None:
    error = no_candidate(failures, asked=3, late=late)
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error
    if type(error) is Unavailable:
        assert error.retry_after_s == 4


def wave(*seats: tuple[str, int]) -> tuple[Batch, ...]:
    return tuple(Batch(replica(node), (sampling(),) * count) for node, count in seats)


async def test_a_first_wave_that_agrees_is_the_whole_vote() -> None:
    hall = Hall({"here": ["Answer: 1"] * 3, "a": ["Answer: 2"] * 2})
    verdict = (await outcome_of(dataclasses.replace(hall.call(("here", 3)), later=wave(("a", 2))))).verdict
    assert (verdict.stopped_by, verdict.asked, verdict.votes, verdict.saved) == ("unbeatable_lead", 3, 3, 2)
    assert (verdict.quorum, verdict.agreement) == (True, 1.0)


async def test_the_rest_is_asked_as_soon_as_the_first_wave_cannot_decide_alone() -> None:
    """The third voter of the first wave is still at it when the second wave begins, and ends the vote."""
    gate = asyncio.Event()
    hall = Hall({"here": ["Answer: 1", "Answer: 2"], "b": [gate, "Answer: 9"], "a": ["Answer: 1"] * 2})
    call = dataclasses.replace(hall.call(("here", 2), ("b", 1)), later=wave(("a", 2)))
    verdict = (await outcome_of(call)).verdict
    assert (verdict.stopped_by, verdict.asked, verdict.votes, verdict.saved) == ("unbeatable_lead", 5, 4, 1)
    assert hall.cancelled == {"b"}


async def test_a_straggler_in_the_first_wave_is_not_waited_for() -> None:
    hall = Hall({"here": ["Answer: 1", "Answer: 1"], "b": [asyncio.Event()], "a": ["Answer: 1"] * 2})
    call = dataclasses.replace(hall.call(("here", 2), ("b", 1)), later=wave(("a", 2)))
    started = time.monotonic()
    verdict = (await outcome_of(call)).verdict
    assert (verdict.stopped_by, verdict.winner is not None and verdict.winner.text) == ("unbeatable_lead", "Answer: 1")
    assert verdict.votes >= 3
    assert hall.cancelled == {"b"}
    assert time.monotonic() - started < LONG_S / 2


async def test_a_second_wave_that_finds_no_room_is_not_asked() -> None:
    hall = Hall({"here": ["Answer: 1", "Answer: 1", "Answer: 2"], "a": ["Answer: 2"] * 2})
    call = dataclasses.replace(hall.call(("here", 3)), later=wave(("a", 2)), reseat=lambda *_: ())
    verdict = (await outcome_of(call)).verdict
    assert (verdict.stopped_by, verdict.asked, verdict.saved) == ("all_in", 3, 0)


async def test_min_votes_reaches_into_the_second_wave() -> None:
    hall = Hall({"here": ["Answer: 1"] * 2 + ["no number"], "a": ["Answer: 1"] * 2})
    call = dataclasses.replace(hall.call(("here", 3), min_votes=3), later=wave(("a", 2)))
    verdict = (await outcome_of(call)).verdict
    assert verdict.votes >= 3
    assert verdict.asked == 5


async def test_a_long_prompt_is_not_read_again_beside_the_voter_that_holds_it() -> None:
    """Two have answered and differ; the second wave waits for the voter whose slot has the prompt."""
    call = dataclasses.replace(Hall({}).call(("here", 1), ("a", 2)), later=wave(("here", 2)))
    box = BallotBox(call)
    for turn in "12":
        box.take(Report(call.batches[1], candidate(f"Answer: {turn}", f"v{turn}", "a", prompt_tokens=500)))
    assert box.due(frozenset(), at_once=False) == ()
    box.take(Report(call.batches[0], candidate("Answer: 2", "v", "here", prompt_tokens=500)))
    assert box.due(frozenset({("here", "m")}), at_once=False) == call.later


async def test_a_short_prompt_is_read_again_and_a_late_wave_too() -> None:
    hall = Hall({})
    for prompt_tokens, at_once in ((1, False), (500, True)):
        call = dataclasses.replace(hall.call(("here", 1), ("a", 2)), later=wave(("here", 2)))
        box = BallotBox(call)
        for turn in "12":
            answer = candidate(f"Answer: {turn}", f"v{turn}", "a", prompt_tokens=prompt_tokens)
            box.take(Report(call.batches[1], answer))
        assert box.due(frozenset(), at_once) == call.later


async def test_the_posterior_stop_ends_a_long_vote_earlier() -> None:
    votes = ["Answer: 1"] * 4
    hall = Hall({"here": [*votes, asyncio.Event()], "a": []})
    call = dataclasses.replace(hall.call(("here", 5)), later=wave(("a", 4)), stop="posterior")
    verdict = (await outcome_of(call)).verdict
    assert (verdict.stopped_by, verdict.votes, verdict.saved) == ("posterior", 4, 5)


def a_race(hall: Hall, first: tuple[str, int], *later: str, ahead: int, **fields: Any) -> BallotCall:
    """`first` are asked at once; of `later` each has one seat."""
    held = tuple(Batch(replica(node), (sampling(),)) for node in later)
    return dataclasses.replace(hall.call(first, **fields), later=held, stop=Ahead(ahead), wanted=first[1] + len(later))


@pytest.mark.parametrize(
    ("said", "runs", "ended"),
    [
        (["1", "1", "1"], 3, ("ahead", "consensus", 4)),
        (["1", "1", "2", "1", "1"], 5, ("ahead", "consensus", 2)),
        (["1", "2", "2", "1", "1", "1", "1"], 7, ("all_in", "consensus", 0)),
        (["1", "2", "2", "2", "1", "2", "2"], 7, ("all_in", "consensus", 0)),
        (["1", "2", "3", "1", "2", "3"], 6, ("out_of_reach", "undecided", 2)),
        (["1", "1", "2", "2", "1", "2", "1"], 7, ("out_of_reach", "undecided", 1)),
    ],
)
async def test_a_race_asks_the_least_that_can_decide_until_one_answer_is_ahead(
    said: list[str], runs: int, ended: tuple[str, str, int]
) -> None:
    first, later = said[:3], [*said[3:], *["never"] * (7 - len(said))]
    nodes = [f"n{number}" for number in range(len(later))]
    hall = Hall(
        {
            "here": [f"Answer: {one}" for one in first],
            **{n: [f"Answer: {a}"] for n, a in zip(nodes, later, strict=True)},
        }
    )
    verdict = (await outcome_of(a_race(hall, ("here", 3), *nodes, ahead=3))).verdict
    assert verdict.asked == runs == 2 + len(hall.runs)
    assert (verdict.stopped_by, verdict.outcome, verdict.saved) == ended


async def test_who_is_frozen_in_a_race_is_not_waited_for() -> None:
    """The rest of the wave has half as long again as the first took; then another is asked in its place."""
    hall = Hall({"here": ["Answer: 1"], "a": [asyncio.Event()], "b": ["Answer: 1"], "c": ["never"]})
    call = a_race(hall, ("here", 1), "b", "c", ahead=2)
    call = dataclasses.replace(call, batches=(*call.batches, Batch(replica("a"), (sampling(),))))
    async with asyncio.timeout(LONG_S / 2):
        verdict = (await outcome_of(call)).verdict
    assert (verdict.stopped_by, verdict.asked, hall.runs) == ("ahead", 3, ["here", "a", "b"])
    assert hall.cancelled == {"a"}


async def test_a_lost_voter_is_not_replaced_when_half_of_the_time_is_gone() -> None:
    gate = asyncio.Event()
    hall = Hall({"here": ["Answer: 1"], "a": [gate, PeerFailed("a", "gone")], "spare": ["Answer: 1"]})
    call = hall.call(
        ("here", 1),
        ("a", 1),
        deadline_s=0.4,
        min_votes=2,
        replacement=lambda *_: Batch(replica("spare"), (sampling(),)),
    )
    outcome = asyncio.create_task(outcome_of(call))
    await eventually(lambda: time.monotonic() > call.deadline - 0.19)
    gate.set()
    verdict = (await outcome).verdict
    assert verdict.votes == 1
    assert "spare" not in hall.runs


async def test_what_cancelled_voters_had_generated_is_counted_where_it_is_seen() -> None:
    unfinished = [Delta(0, "a "), Delta(0, "b "), asyncio.Event()]
    hall = Hall({"here": ["Answer: 1"] * 2, "a": unfinished})
    assert (await outcome_of(hall.call(("here", 2), ("a", 1)))).verdict.wasted_tokens == 2
    hall = Hall({"here": ["Answer: 1"] * 2, "a": [asyncio.Event()]})
    assert (await outcome_of(hall.call(("here", 2), ("a", 1)))).verdict.wasted_tokens is None


async def test_the_judge_is_asked_where_no_answer_has_over_half() -> None:
    shown: list[int] = []

    async def judge(groups: Sequence[Group]) -> Candidate:
        shown.append(len(groups))
        texts = sorted((group.ballots[0].candidate.text for group in groups), key=lambda t: t)
        options = judge_request(GenerationRequest(model="m", prompt="?"), groups).messages
        assert options is not None
        line = next(x for x in str(options[1]["content"]).splitlines() if texts[-1] in x)
        return candidate(line[0], "judge", "here")

    hall = Hall({"here": ["Answer: 1", "Answer: 2"]})
    call = dataclasses.replace(hall.call(("here", 2), strategy=Strategy.JUDGE), ask_judge=judge)
    verdict = (await outcome_of(call)).verdict
    assert shown == [2]
    assert verdict.winner is not None
    assert (verdict.winner.text, verdict.judge) == ("Answer: 2", "judge@here")
    assert verdict.total_completion_tokens == 3


async def test_no_judge_is_asked_where_the_voters_agree() -> None:
    async def judge(_: Sequence[Group]) -> Candidate:
        raise AssertionError("there is nothing to judge")

    hall = Hall({"here": ["Answer: 1", "Answer: 1"]})
    call = dataclasses.replace(hall.call(("here", 2), strategy=Strategy.JUDGE), ask_judge=judge)
    assert (await outcome_of(call)).verdict.agreement == 1.0


def in_stages(hall: Hall, first: tuple[str, int], *later: tuple[str, int], enough: int = 3) -> BallotCall:
    """A vote weighed by confidence: `first` are asked at once, and of `later` as many as `enough` votes need."""
    question = Question(Strategy.CONFIDENT, wants_final_answer=True, by_confidence=True)
    wanted = first[1] + sum(seats for _, seats in later)
    held = wave(*later)
    return dataclasses.replace(hall.call(first), question=question, later=held, enough=enough, wanted=wanted)


@pytest.mark.parametrize(
    ("said", "runs", "ended"),
    [
        (["1", "1", "1", "2", "2"], ["here"], ("agreed", "consensus", 3, 2)),
        (["1", "2", "1", "1", "1"], ["here", "a"], ("all_in", "consensus", 5, 0)),
        (["1", "1", "no number", "1", "1"], ["here", "a"], ("all_in", "consensus", 5, 0)),
    ],
    ids=["agreed", "contradicted", "an abstention"],
)
async def test_the_least_that_can_decide_is_enough_where_it_agrees(
    said: list[str], runs: list[str], ended: tuple[str, str, int, int]
) -> None:
    answers = [f"Answer: {one}" if one.isdigit() else one for one in said]
    hall = Hall({"here": answers[:3], "a": answers[3:]})
    verdict = (await outcome_of(in_stages(hall, ("here", 3), ("a", 2)))).verdict
    assert hall.runs == runs
    assert (verdict.stopped_by, verdict.outcome, verdict.asked, verdict.saved) == ended


async def test_of_votes_that_follow_the_first_no_more_are_asked_than_are_enough() -> None:
    """As where the others give way, and begin when the prompt is in the cache."""
    hall = Hall({"here": ["Answer: 1"], "a": ["Answer: 1", "Answer: 1"], "b": ["never", "never"]})
    verdict = (await outcome_of(in_stages(hall, ("here", 1), ("a", 2), ("b", 2)))).verdict
    assert (verdict.stopped_by, verdict.asked, verdict.saved, hall.runs) == ("agreed", 3, 2, ["here", "a"])


async def test_the_rest_is_asked_as_soon_as_two_differ() -> None:
    hall = Hall({"here": ["Answer: 1", "Answer: 2", asyncio.Event()], "a": ["Answer: 1", "Answer: 1"]})
    box = BallotBox(in_stages(hall, ("here", 3), ("a", 2)))
    batch = box.call.batches[0]
    box.take(Report(batch, candidate("Answer: 1", "v1", "here")))
    assert box.due(frozenset(), at_once=False) == ()
    box.take(Report(batch, candidate("Answer: 2", "v2", "here")))
    assert box.due(frozenset(), at_once=False) == box.call.later
