"""What is being voted on: the parts of a request that decide how its answers are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import JsonValue

from swarm.consensus.options import Strategy
from swarm.consensus.text_answer import Likenesses
from swarm.generation import Candidate, GenerationRequest, ResponseFormat, ToolSpec

if TYPE_CHECKING:
    from swarm.consensus.answers import Flaw
    from swarm.consensus.reading import Reading

MAX_SEARCHED_CHARS = 200_000  # of each message: an instruction about the answer's form is not buried deeper

# An explicit request for a final answer that can be counted. `####` is a Markdown heading too: it needs "answer" near.
_ASKS_FOR_FINAL_ANSWER = re.compile(
    r"\\boxed\b"
    r"|\banswer[*_]{0,4}\s{0,2}[:\uff1a]"
    r"|\bfinal answer\b"
    r"|\b(?:answer|reply|respond)\s+(?:only\s+)?with\s+(?:only\s+|just\s+)?(?:an?|the|one|a single)\s+"
    r"(?:single\s+|correct\s+|final\s+)?(?:number|integer|digit|letter|option)\b"
    r"|####.{0,80}\banswer\b|\banswer\b.{0,80}####",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Question:
    """How one request's answers are to be compared. Made of a request by `Question.of`.

    `tools` is empty where the client forbade calls. `wants_final_answer`: the client asked for an answer that can be
    counted (a number, a letter), so bare ones are recognised too and code blocks beside them do not change the kind.
    `readings` remembers what `reading.read` made of each candidate, by its id(), and `likenesses` how alike two answers
    are, so that a tally on every arrival looks at each answer once; they live and die with the request.
    """

    strategy: Strategy
    tools: tuple[ToolSpec, ...] = ()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    wants_final_answer: bool = False
    readings: dict[int, tuple[Candidate, Reading | Flaw]] = field(
        default_factory=dict[int, "tuple[Candidate, Reading | Flaw]"], init=False, repr=False, compare=False
    )
    likenesses: Likenesses = field(default_factory=Likenesses, init=False, repr=False, compare=False)

    @property
    def wants_json(self) -> bool:
        """The client demanded JSON: whatever is not JSON of that form abstains."""
        return self.response_format is not None and self.response_format.is_json

    @property
    def may_settle_early(self) -> bool:
        """Whether it can be known before all answers are in which one wins: something countable was asked for.

        What is chosen by likeness stands only when everybody has answered.
        """
        counted = self.tools or self.wants_json or self.wants_final_answer
        return bool(counted) or self.strategy == Strategy.MAJORITY

    @staticmethod
    def of(request: GenerationRequest, strategy: Strategy) -> Question:
        """The question that `request` puts, its answers chosen by `strategy`."""
        return Question(
            strategy=strategy,
            tools=() if request.tool_choice == "none" else request.tools,
            parallel_tool_calls=request.parallel_tool_calls,
            response_format=request.response_format,
            wants_final_answer=lists_choices(request.response_format)
            or any(_ASKS_FOR_FINAL_ANSWER.search(text[:MAX_SEARCHED_CHARS]) for text in _instructions(request)),
        )


def lists_choices(form: ResponseFormat | None) -> bool:
    """Whether the client listed the texts that the answer may be: each is a choice, as it stands."""
    return form is not None and form.type == "choice"


def _instructions(request: GenerationRequest) -> Iterator[str]:
    """Where a client says what form it wants: the system messages, the last user message, or the bare prompt."""
    if isinstance(request.prompt, str):
        yield request.prompt
    messages = request.messages or ()
    for message in messages:
        if message.get("role") in ("system", "developer"):
            yield from _texts(message.get("content"))
    for message in reversed(messages):
        if message.get("role") == "user":
            yield from _texts(message.get("content"))
            return


def _texts(content: JsonValue) -> Iterator[str]:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(text := part.get("text"), str):
                yield text
