"""What peers send each other: OpenAI's bodies, and how many answers are wanted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, RootModel, Tag

from swarm.gateway.openai.chat_body import ChatCompletionBody
from swarm.gateway.openai.completion_body import CompletionBody
from swarm.gateway.openai.messages import Part
from swarm.routing.vote_modes import MAX_VOTES


def dialect(body: object) -> str:
    """Which of OpenAI's two request forms a body is."""
    return "chat" if isinstance(body, dict) and "messages" in body else "text"


GenerationBody = Annotated[
    Annotated[ChatCompletionBody, Tag("chat")] | Annotated[CompletionBody, Tag("text")], Discriminator(dialect)
]


class GenerateBody(RootModel[GenerationBody]):
    """`POST /federation/v1/generate`: an OpenAI body of either form."""


class CandidatesBody(Part):
    """`POST /federation/v1/candidates`: run `votes` voters on `request`, an OpenAI body, as it stands.

    With `leader` the first one's answer is told step by step, too.
    """

    request: GenerationBody
    votes: Annotated[int, Field(ge=1, le=MAX_VOTES)]
    leader: bool = False
