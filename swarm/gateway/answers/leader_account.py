"""What a streamed vote tells of its leader, and which answer it has given in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.gateway.answers.request_context import winner_of
from swarm.gateway.openai.shapes import message_object
from swarm.generation import Candidate, JsonObject
from swarm.routing.ballot_box import Outcome
from swarm.routing.leading import Live
from swarm.routing.vote_modes import StreamMode

MODE_OF: Mapping[Live, StreamMode] = {"answer": "leader", "thoughts": "reasoning", "nothing": "buffer"}


@dataclass(frozen=True, slots=True)
class Told:
    """The answer that the client has in the end, what of it is still to be sent, and what to say of how it came."""

    answer: Candidate
    unsent: Candidate | None
    fields: JsonObject


def told(outcome: Outcome) -> Told:
    """What follows from a streamed ballot. `fields` belong into the `swarm` object, over what the verdict says."""
    winner, leader = winner_of(outcome.verdict), outcome.leader
    fields: JsonObject = {"stream": MODE_OF[outcome.shown]}
    if outcome.shown == "nothing":
        return Told(winner, winner, fields)
    confirmed = _confirmed(outcome)
    fields.update(leader=None if leader is None else leader.voter, confirmed=confirmed)
    if confirmed and leader is not None:  # its words are as good as the winner's, and go with what the client has
        winner = leader
        fields["winner"] = leader.voter
    if outcome.shown == "thoughts":
        return Told(winner, winner.model_copy(update={"reasoning": ""}), fields)
    if leader is None or leader.voter == winner.voter:
        return Told(leader or winner, None, fields)
    return Told(leader, None, {**fields, "winner_message": message_object(winner)})


def _confirmed(outcome: Outcome) -> bool | None:
    """Whether the vote came out for what the leader said; None without its answer, and without a quorum."""
    leader, verdict = outcome.leader, outcome.verdict
    if leader is None or verdict.degraded:
        return None
    return any(part.voter == leader.voter and part.group == 0 for part in verdict.candidates)
