"""An answer as far as it has come: words, thoughts, calls of tools, the vote. Pure; nothing here shows anything.

What comes is a node's, perhaps one of another version: what is not of the shape that is known is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from federation.printable_text import clean_line, cut
from swarm.commands.conversation import ChatTurn

MOST_CALLS: Final = 128  # of tools, in one answer
MOST_SHORT_COLUMNS: Final = 200  # of a lone answer in the list of voters, as of those that nodes shorten
NO_VOTE: Final = ("single", "first")

VoteAccount = Mapping[str, Any]


class AnswerSoFar:
    """`account` is the node's `swarm` object at the end, `ballot` the last one before it; `tokens` all that were
    in the context, None where the node does not say."""

    def __init__(self) -> None:
        self.text = ""
        self.thoughts = ""
        self.calls: list[dict[str, str]] = []
        self.account: VoteAccount = {}
        self.ballot: VoteAccount = {}
        self.reason: str | None = None
        self.tokens: int | None = None

    def take(self, event: Mapping[str, Any]) -> None:
        """One more event of the stream."""
        for choice in _objects(event.get("choices")):
            delta = _object(choice.get("delta"))
            self.text += _text(delta.get("content"))
            self.thoughts += _text(delta.get("reasoning_content"))
            for call in _objects(delta.get("tool_calls")):
                self._take_call(call)
            self.reason = _text(choice.get("finish_reason")) or self.reason
        account = _object(event.get("swarm"))
        if "ballot" in account:
            self.ballot = _object(account["ballot"]) or self.ballot
        else:
            self.account = account or self.account
        tokens = _object(event.get("usage")).get("total_tokens")
        self.tokens = tokens if isinstance(tokens, int) else self.tokens

    def _take_call(self, piece: Mapping[str, Any]) -> None:
        at = piece.get("index")
        if not isinstance(at, int) or not 0 <= at <= len(self.calls):
            at = len(self.calls)
        if at == MOST_CALLS:
            return
        if at == len(self.calls):
            self.calls.append({"name": "", "arguments": ""})
        function = _object(piece.get("function"))
        for name, known in self.calls[at].items():
            self.calls[at][name] = known + _text(function.get(name))

    @property
    def winner(self) -> str | None:
        """The winner's words where they are not those that were shown."""
        message = _object(self.account.get("winner_message"))
        content = message.get("content")
        if isinstance(content, str):
            return content
        return "" if _objects(message.get("tool_calls")) else None

    def turn(self, **more: Any) -> ChatTurn:
        """What the conversation keeps: the winner's words where there are such. `more`: `stopped` or `problem`."""
        turn: ChatTurn = {"role": "assistant", "content": self.text}
        calls = self.calls
        if (winner := self.winner) is not None:
            turn |= {"content": winner, "replaced": self.text}
            calls = _calls(self.account)
        found = {"reasoning": self.thoughts, "tool_calls": calls, "reason": self.reason, "ballot": self._whole_vote()}
        return {**turn, **{name: value for name, value in found.items() if value}, **more}

    def _whole_vote(self) -> dict[str, Any]:
        """The account with the voters' short answers and who was out, which only the ballots before it say."""
        if not self.account:
            return {}
        answers = {str(one.get("voter")): one.get("answer") for one in _objects(self.ballot.get("candidates"))}
        if not self.ballot:  # no vote was held: the one answer is the winner's
            answers = {str(self.account.get("winner")): cut(clean_line(self.text), MOST_SHORT_COLUMNS)}
        candidates = [
            {**one, "answer": answers[voter]} if answers.get(voter := str(one.get("voter"))) else one
            for one in _objects(self.account.get("candidates"))
        ]
        kept = {name: value for name, value in self.account.items() if name != "winner_message"}
        return {**kept, "candidates": candidates, "out": self.ballot.get("out", []), "final": True}


def _calls(account: VoteAccount) -> list[dict[str, str]]:
    calls = _objects(_object(account.get("winner_message")).get("tool_calls"))
    return [
        {name: _text(_object(call.get("function")).get(name)) for name in ("name", "arguments")}
        for call in calls[:MOST_CALLS]
    ]


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [_object(item) for item in cast("list[object]", value)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# In words


def call_line(call: Mapping[str, Any]) -> str:
    return f"calls {call.get('name', '')} {call.get('arguments', '')}"


def overruled_line(account: VoteAccount) -> str:
    """What is said between the answer that was shown and the one that counts."""
    winner = account.get("winner", "another voter")
    if account.get("confirmed") is False:
        return f"the vote preferred the answer of {winner}:"
    return f"this was not put to the vote in time; the best answer is that of {winner}:"


def standing_line(ballot: VoteAccount) -> str:
    """How a vote stands while it is held: `3 of 5 have answered`."""
    voters = _objects(ballot.get("candidates"))
    votes = [one for one in voters if isinstance(one.get("group"), int)]
    out = sum(seats for one in _objects(ballot.get("out")) if isinstance(seats := one.get("seats", 1), int))
    line = f"{len(voters)} of {len(voters) + out} have answered"
    agree = sum(one.get("group") == 0 for one in votes)
    return f"{line}, {agree} agree" if agree > 1 else line


def vote_line(account: VoteAccount) -> str:
    """One line on the vote: `4 of 5 agree · 312 tokens · 1.2 s`; "" where the node says nothing that is understood.

    A lone answer's has its voter in the place of the vote.
    """
    from swarm.commands.ballot_view import counted, duration  # loads what `swarm chat` needs for its first answer only
    from swarm.commands.vote_stream import read_state
    from swarm.errors import SwarmError

    try:
        state = read_state(dict(account))
    except SwarmError:
        return ""
    cost = [counted(state.total_completion_tokens, "token"), duration(state.elapsed_ms)]
    if state.winner is None:
        said = "nobody gave an answer"
    elif state.strategy in NO_VOTE or state.stopped_by in NO_VOTE or state.asked < 2:
        said = state.winner
    elif state.degraded or not state.quorum:
        said = f"no consensus, {state.votes} of {state.asked} voted" + (
            f" ({state.shortfall})" if state.shortfall else ""
        )
    else:
        agree = len(state.groups[0]) if state.groups else state.votes
        said = f"{agree} of {state.votes} agree" + (", no majority" if state.outcome == "plurality" else "")
        if state.stopped_by == "strongest":
            said += ", the strongest decides"
        if state.similarity is not None:
            said += f", likeness {state.similarity:.2f}"
    return " · ".join([said, *cost])


def is_vote(account: VoteAccount) -> bool:
    """Whether it tells of a vote, and not of one answer that stands for itself."""
    asked = account.get("asked")
    alone = "single" in (account.get("strategy"), account.get("outcome"))
    return not alone and isinstance(asked, int) and asked > 1
