"""What keeps a result from being called a consensus, in words that a client can act on."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.consensus.tally import Tally, models_heard


def no_quorum(counted: Tally, outstanding: Sequence[str | None], min_votes: int) -> str | None:
    """Why the valid ballots are no quorum; None if they are one.

    A quorum is half of the voters asked and half of their weight, and `min_votes` where so many were asked. Those
    `outstanding` (their models; None: not known, so the heaviest) were asked and have not voted.
    """
    asked = [*models_heard(counted.groups, counted.abstentions), *outstanding]
    needed = max((len(asked) + 1) // 2, min(min_votes, len(asked)), 1)
    if counted.votes < needed:
        return f"{counted.votes} of {len(asked)} voters gave a valid answer, and a quorum is {needed}"
    if 2 * counted.voting_weight < counted.weights.outstanding(asked, counted.kinds):
        return f"the {counted.votes} valid answers of {len(asked)} voters have less than half of the weight asked"
    return None


def disagreement(counted: Tally, min_agreement: float | None, one_peer: bool = False) -> str | None:
    """Why a verdict on tool calls is not agreed on as widely as was asked for; None if it is, or is no call.

    A lone call is agreed on by nobody, and neither are those of `one_peer`: `min_agreement` asks for a second opinion
    before a tool runs.
    """
    if not min_agreement or counted.kind != "tool_calls" or not counted.groups:
        return None
    if counted.votes == 1:
        return f"one voter alone made this call, and min_agreement is {min_agreement:g}"
    if one_peer:
        return f"one peer alone made these calls, and min_agreement is {min_agreement:g}"
    agreement = float(counted.groups[0].weight / counted.voting_weight)
    if agreement >= min_agreement:
        return None
    return f"{agreement:.2f} of the votes agree on the call, and min_agreement is {min_agreement:g}"
