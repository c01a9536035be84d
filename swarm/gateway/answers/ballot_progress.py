"""A ballot's progress for clients that ask for it: OpenAI's streams have chunks without choices, other APIs nothing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from swarm.gateway.answers.answer_form import AnswerWriter
from swarm.generation import JsonObject


@runtime_checkable
class BallotWriter(Protocol):
    """A writer of a stream in which a ballot can be shown beside the answer."""

    async def ballot(self, standing: JsonObject) -> None:
        """How the vote stands."""
        ...


async def show_standing(writer: AnswerWriter, standing: JsonObject) -> None:
    """Tell the client how the vote stands, if its stream has room for that: events of other APIs are not extended."""
    if isinstance(writer, BallotWriter):
        await writer.ballot(standing)
