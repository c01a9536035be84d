"""An answer whose node is lost, continued as a turn that has begun: reading is faster than writing it again. Pure.

A replay (`resumption.py`) is exact, and takes as long as what it repeats took. A continuation sends what the client
has, but for its last tokens, as the beginning of the assistant's turn, and lets the model go on. It is taken where

* the text is all that there is of the answer (no thoughts, no calls, no form that a grammar keeps), it is greedy, and
  the model is none that thinks: its turns look otherwise in a history than while they are written;
* what is sent is read as *the tokens that were written*: the engine is asked how it cuts that text, and each of its
  pieces must be one of the steps in which the text came;
* the *seam* holds: the last tokens that the client has come again, held against them as in a replay. They are as long
  as the longest stop string, so that one which begins before them is found. A second, shorter seam is tried.

Where any of it does not hold the answer is replayed. What remains: tokens that are read in a batch are computed with
other roundings than such as were written one by one, so that what follows may, once in a long while, be another answer
than the one that broke off. Nothing is lost, doubled or put together from two texts that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from swarm.engines.engine import Tokens
from swarm.generation import Delta, Finish, GenerationRequest, JsonObject, Usage, is_greedy

# How many tokens come again. Eight say the most; one of them may be a near tie, which another rounding turns: then
# three are tried, behind it. Fewer could be right by chance.
SEAMS: Final = (8, 3)
READS_TIMES: Final = 4  # as fast as it writes one answer, at least: on a processor; GPUs a hundred times
LEAST_SAVED_S: Final = 1.5  # of a client's waiting; for less the exact way is taken


@dataclass(frozen=True, slots=True)
class Seam:
    """Where a continuation begins: after the first `steps` steps of what was shown, whose `text` is sent."""

    steps: int
    text: str


@dataclass(frozen=True, slots=True)
class Continued:
    """A request that goes on with an answer from a seam; `written` tokens of it are in what it sends."""

    request: GenerationRequest
    seam: Seam
    written: int

    def whole(self, finish: Finish) -> Finish:
        """The end of the continuation as that of the whole answer. How long that took nobody measured."""
        usage = finish.usage
        prompt = max(usage.prompt_tokens - self.written, 0)
        counted = Usage(
            prompt_tokens=prompt,
            completion_tokens=usage.completion_tokens + self.written,
            cached_tokens=min(usage.cached_tokens, prompt),
        )
        return replace(finish, usage=counted, timings=None)


def can_continue(request: GenerationRequest, thinks: bool) -> bool:
    """Whether a model (that `thinks` or not) can go on with an answer to `request` as with a turn of a history."""
    turns = request.messages
    plain_form = request.response_format is None or request.response_format.type == "text"
    return (
        bool(turns)
        and turns[-1]["role"] != "assistant"  # one that was begun already is another turn
        and is_greedy(request)
        and plain_form
        and not (request.tools or thinks)
    )


def saved_s(shown_steps: int, took_s: float) -> float:
    """How much sooner a continuation is expected to come than a replay of what took so long; negative: later.

    It reads what a replay writes, but for the seam. Where a slow reader held the first part up it is more than is true.
    """
    return took_s * (1 - 1 / READS_TIMES - SEAMS[0] / shown_steps) if shown_steps else 0.0


def seam_of(shown: Sequence[Delta], stops: Sequence[str], tokens: int = SEAMS[0]) -> Seam | None:
    """Where an answer can be continued, so many `tokens` before the end of what is `shown`; None where it cannot.

    The text that is sent neither begins nor ends with white space, which templates take away.
    """
    if not all(step.text and not (step.reasoning or step.tool_calls) for step in shown):
        return None
    tail_chars, least_chars = 0, max(map(len, stops), default=0)
    for steps in range(len(shown) - 1, 0, -1):
        tail_chars += len(shown[steps].text)
        if len(shown) - steps < tokens or tail_chars < least_chars or shown[steps - 1].text[-1].isspace():
            continue
        text = "".join(step.text for step in shown[:steps])
        return None if text[0].isspace() else Seam(steps, text)
    return None


def is_cut_alike(shown: Sequence[Delta], tokens: Tokens) -> bool:
    """Whether an engine reads the steps of `shown` as the tokens that they were.

    A character that took several tokens came in one step; a step of ASCII is one token.
    """
    if tokens.pieces is None:
        return False
    pieces = [as_bytes(piece) for piece in tokens.pieces]
    steps = [as_bytes(step.text) for step in shown]
    if b"".join(pieces) != b"".join(steps):
        return False
    left = iter(pieces)
    for step in steps:
        taken, count = b"", 0
        while len(taken) < len(step):
            taken, count = taken + next(left), count + 1
        if taken != step or (count > 1 and step.isascii()):
            return False
    return True


def as_bytes(piece: str | tuple[int, ...]) -> bytes:
    return piece.encode(errors="surrogatepass") if isinstance(piece, str) else bytes(piece)


def continued(request: GenerationRequest, seam: Seam, tokens: Tokens) -> Continued | None:
    """The request that goes on from `seam`, of which the engine has cut the text into `tokens`.

    None where there would be nothing left to write.
    """
    written = len(tokens.ids)
    left = None if request.max_tokens is None else request.max_tokens - written
    if request.messages is None or (left is not None and left <= 0):
        return None
    begun: JsonObject = {"role": "assistant", "content": seam.text}
    turns = (*request.messages, begun)
    return Continued(
        request.model_copy(update={"messages": turns, "max_tokens": left, "original": None}), seam, written
    )
