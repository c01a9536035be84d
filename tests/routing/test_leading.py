"""Who leads a ballot, what of it may be shown, and what becomes of the ballot when the leader is lost."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from swarm.consensus.options import Strategy, StreamMode
from swarm.consensus.question import Question
from swarm.consensus.waves import SamplingChange
from swarm.errors import EngineDied, EngineFailed, PeerFailed, PeerSilent, PeerVanished, SwarmError
from swarm.generation import Candidate, Delta, Finish, GenerationRequest, JsonObject, ToolCallDelta, Usage
from swarm.registry.weights_file import Measured, Weights
from swarm.routing.ballot_box import Begun, Leader
from swarm.routing.peer_answers import LeaderLine, LeaderStep
from swarm.routing.policy import Batch, measured_odds, stream_mode, strongest_first
from swarm.routing.replicas import Replica
from swarm.routing.resumption import Resumption

WORD, THOUGHT, BOTH = Delta(0, "word"), Delta(0, reasoning="hm"), Delta(0, "word", "hm")
END = Finish(0, "stop", Usage())
BROKE = EngineFailed("broke")


def replica(node: str, params: int | None = 1, here: bool = False, model: str = "m") -> Replica:
    return Replica(node, node, model, 4, 4, None if here else f"http://{node}", params=params)


def batch(node: str = "a", seats: int = 1) -> Batch:
    return Batch(replica(node), tuple(SamplingChange(0.7, seed) for seed in range(seats)))


def question(strategy: Strategy = Strategy.AUTO, text: str = "Tell me a story", **fields: object) -> Question:
    body: JsonObject = {"role": "user", "content": text}
    return Question.of(GenerationRequest.model_validate({"model": "m", "messages": [body], **fields}), strategy)


PROSE = question()
ACTED_ON = {
    "json": question(response_format={"type": "json_object"}),
    "a number": question(text="Reply with only a number: 4 + 4"),
}


@pytest.mark.parametrize(
    ("strategy", "mode", "shown"),
    [
        (Strategy.AUTO, None, StreamMode.LEADER),
        (Strategy.MEDOID, None, StreamMode.LEADER),
        (Strategy.MAJORITY, None, StreamMode.BUFFER),
        (Strategy.MAJORITY, StreamMode.LEADER, StreamMode.LEADER),
        (Strategy.FIRST, None, StreamMode.BUFFER),
        (Strategy.FIRST, StreamMode.LEADER, StreamMode.BUFFER),
        (Strategy.FIRST, StreamMode.REASONING, StreamMode.BUFFER),
        (Strategy.AUTO, StreamMode.BUFFER, StreamMode.BUFFER),
        (Strategy.AUTO, StreamMode.REASONING, StreamMode.REASONING),
        (Strategy.AUTO, StreamMode.LEADER, StreamMode.LEADER),
    ],
)
def test_what_is_shown_of_a_leader_in_prose(strategy: Strategy, mode: StreamMode | None, shown: StreamMode) -> None:
    assert stream_mode(question(strategy), mode) == shown


@pytest.mark.parametrize("kind", ["json", "a number"])
@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        (None, StreamMode.BUFFER),
        (StreamMode.LEADER, StreamMode.BUFFER),
        (StreamMode.BUFFER, StreamMode.BUFFER),
        (StreamMode.REASONING, StreamMode.REASONING),
    ],
)
def test_what_would_be_acted_on_is_shown_when_it_is_decided(
    kind: str, mode: StreamMode | None, shown: StreamMode
) -> None:
    assert stream_mode(ACTED_ON[kind], mode) == shown


@pytest.mark.parametrize(
    ("strategy", "mode", "shown"),
    [
        (Strategy.AUTO, None, StreamMode.WORDS),
        (Strategy.AUTO, StreamMode.LEADER, StreamMode.WORDS),
        (Strategy.AUTO, StreamMode.WORDS, StreamMode.WORDS),
        (Strategy.AUTO, StreamMode.BUFFER, StreamMode.BUFFER),
        (Strategy.AUTO, StreamMode.REASONING, StreamMode.REASONING),
        (Strategy.MAJORITY, None, StreamMode.BUFFER),
        (Strategy.MAJORITY, StreamMode.LEADER, StreamMode.WORDS),
        (Strategy.CASCADE, None, StreamMode.BUFFER),
    ],
)
def test_words_are_shown_where_tools_are_offered(
    strategy: Strategy, mode: StreamMode | None, shown: StreamMode
) -> None:
    assert stream_mode(question(strategy, tools=[{"function": {"name": "f"}}]), mode) == shown


def test_of_words_and_calls_the_words_are_shown() -> None:
    call = ToolCallDelta(0, "c", "f", "{}")
    leading = batch()
    leader = Leader(leading, StreamMode.WORDS)
    assert leader.take(leading, Delta(0, "I look. ", tool_calls=(call,))) == Delta(0, "I look. ")
    assert leader.take(leading, Delta(0, tool_calls=(call,))) is None
    assert (leader.shown, leader.pending) == (StreamMode.WORDS, True)
    silent = Leader(leading, StreamMode.WORDS)
    assert isinstance(silent.take(leading, Delta(0, tool_calls=(call,))), Begun)
    assert (silent.shown, silent.pending) == (StreamMode.BUFFER, False), "the vote need not wait for it"


def test_the_strongest_leads_by_weight_then_size_then_nearness() -> None:
    small_here, large, unknown = replica("here", 2, here=True), replica("a", 9), replica("b", None, model="odd")
    large_here = replica("here", 9, here=True, model="large")
    for order in itertools.permutations([small_here, large, unknown, large_here]):
        others = [each for each in order if each is not large_here]
        assert strongest_first(order) == (large_here, *others), "the order of the rest is the plan's"
        assert strongest_first(order, {"m": 1.0, "odd": 2.0, "large": 1.0})[0] is unknown
        assert strongest_first(others)[0] is large


def test_of_equals_the_one_who_knows_the_conversation_leads() -> None:
    here, knowing, large = replica("here", here=True), replace(replica("a"), warm=True), replica("b", 9)
    assert strongest_first([here, knowing])[0] is knowing
    assert strongest_first([here, knowing, large])[0] is large


def test_strength_is_what_was_measured_in_the_kind_that_is_asked_for() -> None:
    good, bad = Measured(45, 50, 5), Measured(10, 50, 5)
    measured = {"small": {"text": good, "number": bad}, "large": {"text": bad}}
    small, large = replica("a", 1, model="small"), replica("b", 9, model="large")
    seats = [small, large]
    odds = measured_odds(Weights(measured), PROSE, seats)
    assert strongest_first(seats, odds.of)[0] is small
    odds = measured_odds(Weights(measured), ACTED_ON["a number"], seats)
    assert strongest_first(seats, odds.of)[0] is large, "not all were measured, so size decides"


def test_of_prose_that_nobody_measures_the_measured_kinds_speak() -> None:
    good, bad = Measured(45, 50, 5), Measured(10, 50, 5)
    measured = {"small": {"number": good, "tool_calls": bad}, "large": {"number": bad}}
    known, seats = Weights(measured), [replica(model, model=model) for model in ("small", "large", "new")]
    prose = measured_odds(known, PROSE, seats[:2])
    assert (prose.of["small"] > prose.of["large"], prose.weighed) == (True, False)
    assert not measured_odds(known, PROSE, seats).of
    assert not measured_odds(known, ACTED_ON["json"], seats[:2]).of, "what is counted has a kind of its own"
    assert measured_odds(known, ACTED_ON["a number"], seats[:2]).weighed


@pytest.mark.parametrize(
    ("mode", "events", "heard", "shown"),
    [
        (StreamMode.LEADER, [WORD, THOUGHT], [WORD, THOUGHT], StreamMode.LEADER),
        (StreamMode.LEADER, [END], [None], StreamMode.BUFFER),
        (StreamMode.REASONING, [THOUGHT, WORD, BOTH], [THOUGHT, None, THOUGHT], StreamMode.REASONING),
        (StreamMode.REASONING, [WORD, THOUGHT], [Begun(), THOUGHT], StreamMode.REASONING),
        (StreamMode.REASONING, [WORD, WORD], [Begun(), None], StreamMode.BUFFER),
        (StreamMode.BUFFER, [THOUGHT, WORD, END], [Begun(), None, None], StreamMode.BUFFER),
    ],
)
def test_what_a_client_gets_of_a_leaders_events(
    mode: StreamMode, events: list[Delta | Finish], heard: list[object], shown: StreamMode
) -> None:
    mine = batch()
    lead = Leader(mine, mode)
    assert lead.take(batch("b"), WORD) is None, "another's events are nobody's business"
    assert [lead.take(mine, event) for event in events] == heard
    assert lead.shown == shown


def test_a_peer_that_never_ends_the_answer_that_was_shown_is_caught() -> None:
    mine = batch()
    lead = Leader(mine)
    lead.take(mine, WORD)
    with pytest.raises(PeerFailed, match="did not end the answer"):
        lead.arrived(mine, Candidate(voter="whose?"))


def test_nothing_is_shown_after_the_end_of_an_answer() -> None:
    mine = batch()
    lead = Leader(mine)
    assert [lead.take(mine, event) for event in (WORD, END, WORD)] == [WORD, None, None]


def test_the_leaders_candidate_is_the_one_after_its_finish() -> None:
    mine, other = batch(seats=2), batch("b")
    lead = Leader(mine)
    lead.arrived(mine, Candidate(voter="another of the same batch"))
    lead.take(mine, WORD)
    lead.take(mine, END)
    assert lead.pending
    lead.arrived(other, Candidate(voter="another's"))
    lead.arrived(mine, Candidate(voter="the leader"))
    assert not lead.pending
    assert lead.candidate is not None
    assert lead.candidate.voter == "the leader"


def test_a_leader_lost_before_its_first_word_is_succeeded() -> None:
    mine, other = batch(), batch("b")
    lead = Leader(mine)
    lead.lost(other, BROKE)
    lead.passes_to(other)
    assert lead.is_in(mine), "it was another that was lost"
    lead.lost(mine, BROKE)
    lead.passes_to(other)
    assert lead.is_in(other)
    assert lead.take(other, WORD) == WORD


def test_a_leader_lost_in_mid_answer_is_an_error() -> None:
    mine = batch()
    lead = Leader(mine)
    lead.take(mine, WORD)
    with pytest.raises(EngineFailed, match="broke"):
        lead.lost(mine, BROKE)


LOST = PeerSilent("a", "silent")


def resuming(*events: Delta, live: StreamMode = StreamMode.LEADER) -> tuple[Leader, Batch]:
    """A leader that goes on elsewhere, lost after `events`, a second each; and who was found for it."""
    mine, other = batch(seats=2), batch("b")
    lead = Leader(mine, live, resumes=True)
    for number, event in enumerate(events):
        lead.take(mine, event, float(number))
    lead.lost(mine, LOST)
    assert lead.to_go_on is LOST
    lead.passes_to(other)
    assert lead.to_go_on is None
    assert lead.pending, "the vote waits for it"
    return lead, other


def test_a_leader_lost_in_mid_answer_goes_on_where_it_is_the_same() -> None:
    lead, other = resuming(Delta(0, "one "), Delta(0, "two "))
    assert lead.take(other, Delta(0, "one tw"), 5.0) is None
    assert lead.take(other, Delta(0, "o three"), 6.0) == Delta(0, "three")
    assert lead.take(other, END, 7.0) is None
    lead.arrived(other, Candidate(voter="v", text="one two three"))
    assert lead.candidate is not None
    assert lead.resumed == Resumption("a", "b", 8, 5.0)


def test_a_leader_that_says_something_else_the_second_time_is_the_loss_of_the_first() -> None:
    lead, other = resuming(Delta(0, "one "), Delta(0, "two "))
    with pytest.raises(PeerSilent, match="b answers otherwise after 5 characters"):
        lead.take(other, Delta(0, "one three"), 5.0)


def test_a_leader_that_is_lost_while_it_says_it_again_is_an_error() -> None:
    lead, other = resuming(Delta(0, "one "))
    with pytest.raises(PeerFailed, match="gone, too"):
        lead.lost(other, PeerVanished("b", "gone, too"))


def test_of_a_leader_that_may_call_the_words_are_held_against_what_was_shown() -> None:
    """Its calls do not travel while they are made, and are not shown."""
    call = Delta(0, tool_calls=(ToolCallDelta(0, "c", "f", "{}"),))
    lead, other = resuming(Delta(0, "one "), call, live=StreamMode.WORDS)
    assert lead.take(other, Delta(0, "one "), 5.0) is None
    assert lead.take(other, call, 5.0) is None
    assert lead.take(other, Delta(0, "two"), 6.0) == Delta(0, "two")


@pytest.mark.parametrize(
    ("resumes", "error"), [(False, LOST), (True, BROKE), (True, EngineDied("died")), (True, PeerFailed("a", "rubbish"))]
)
def test_a_leader_lost_otherwise_is_an_error(resumes: bool, error: SwarmError) -> None:
    mine = batch()
    lead = Leader(mine, resumes=resumes)
    lead.take(mine, WORD)
    with pytest.raises(type(error)) as raised:
        lead.lost(mine, error)
    assert raised.value is error


def test_a_leader_lost_while_it_thinks_costs_its_thoughts_alone() -> None:
    mine, other = batch(), batch("b")
    lead = Leader(mine, StreamMode.REASONING)
    lead.take(mine, THOUGHT)
    lead.lost(mine, BROKE)
    lead.passes_to(other)
    assert lead.take(other, THOUGHT) is None, "two voters' thoughts are not one train of thought"
    assert lead.shown == StreamMode.REASONING


def test_who_has_said_nothing_when_everybody_is_stopped_does_not_begin() -> None:
    mine = batch()
    late, begun = Leader(mine), Leader(mine)
    begun.take(mine, WORD)
    for lead in (late, begun):
        lead.begins_no_more()
    assert late.take(mine, WORD) == Begun()
    assert not late.pending
    assert begun.take(mine, WORD) == WORD


@pytest.mark.parametrize("event", [WORD, THOUGHT, BOTH, Delta(0, "x", logprobs={"content": []}), END], ids=str)
def test_a_step_survives_the_way_between_nodes(event: Delta | Finish) -> None:
    line = LeaderLine(leader=LeaderStep.of(event)).model_dump_json(exclude_defaults=True)
    assert LeaderLine.model_validate_json(line).leader.event() == event
