"""A streamed answer whose node is lost goes on elsewhere from what its client has. Pure: the caller brings the time.

Only an answer that is the same again can be gone on with: temperature 0, or a seed, and another place with the same
content of the model and the same computation. There it is made anew from its beginning (a *replay*), and what comes is
held against what the client has, piece by piece, however it is cut: what it has is left out, what follows goes on. At
the first difference the replay ends, before anything of it is shown: two answers are never joined. Where that would
take long a text may be *continued* near its end (`continuation.py`), which is held against what the client has alike.

| phase  | an event                                                                                       |
|--------|------------------------------------------------------------------------------------------------|
| given  | goes to the client, and is kept                                                                |
| replay | is left out, as far as the client has it; what is new goes to the client, and ends this phase  |

What comes to nothing in one way is tried in the other at the same place, and then at the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pydantic import JsonValue

from swarm.errors import (
    DeadlineExceeded,
    LenderLost,
    PeerDeparted,
    PeerSilent,
    PeerVanished,
    SwarmError,
    Unavailable,
)
from swarm.generation import Delta, Finish, GenerationRequest, ToolCallDelta, is_greedy
from swarm.routing.continuation import LEAST_SAVED_S, SEAMS, Continued, Seam, can_continue, saved_s, seam_of
from swarm.routing.replicas import Content, Replica

# The node, or a machine with a part of the model, is gone, and nothing says that the request ended it. A peer that
# vanished may be its victim: it is counted (`poison_pills.py`), and the second one ends the answer. An engine that
# ended by itself (EngineDied) is never gone on from.
GONE_FROM_UNDER_IT: Final[tuple[type[SwarmError], ...]] = (
    PeerVanished,
    PeerSilent,
    PeerDeparted,
    LenderLost,
    Unavailable,
)

REPLAY_TIMES: Final = 4  # as long as the shown part took: a slower machine, or one with more company
LEAST_REPLAY_S: Final = 10.0  # what a short answer gets all the same

HowResumed = Literal["replay", "continued"]
GrowingPart = tuple[str, int]  # of an answer: its text, its thoughts, the name or the arguments of call number N


class ReplayFailed(Exception):
    """An answer that is made anew cannot go on for the first one. `why` goes after the name of who made it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class AnswersDiffer(ReplayFailed):
    """It is another answer after its first `at_chars` characters."""

    def __init__(self, at_chars: int) -> None:
        super().__init__(f"answers otherwise after {at_chars} characters")
        self.at_chars = at_chars


class ReplayTooSlow(ReplayFailed):
    """It takes far longer than the first one took."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"did not come as far within {limit_s:.0f} s")


@dataclass(frozen=True, slots=True)
class Resumption:
    """An answer that went on: what `lost` and then `to` made, of which the client had `at_chars` characters.

    They are those of text, thoughts and calls. `gap_s` is from the last event that the client got to the next.
    """

    lost: str
    to: str
    at_chars: int
    gap_s: float
    how: HowResumed = "replay"


def says_the_same_again(request: GenerationRequest) -> bool:
    """Whether nothing is left to chance that is not told: one model answers twice in the same words."""
    return is_greedy(request) or request.seed is not None


def computes_alike(lost: Replica, other: Replica) -> bool:
    """Whether `other` is known to run the same content by the same computation, and is asked in the same words."""
    content = Content(lost.fingerprint or "", lost.sha256 or "")
    return (
        not (lost.upstream or other.upstream)
        and lost.computed_by is not None
        and lost.computed_by == other.computed_by
        and content.agrees(Content(other.fingerprint or "", other.sha256 or ""))
        and (lost.capabilities.tools, lost.capabilities.vision) == (other.capabilities.tools, other.capabilities.vision)
    )


def goes_on_after(failure: SwarmError) -> bool:
    """Whether an answer that ended so may go on elsewhere."""
    return isinstance(failure, GONE_FROM_UNDER_IT) and not isinstance(failure, DeadlineExceeded)


def not_resumed(failure: SwarmError, tries: Sequence[str]) -> SwarmError:
    """`failure`, by which an answer broke off, with what became of the `tries` to go on with it."""
    if not tries:
        return failure
    again = type(failure).__new__(type(failure), f"{failure}; it could not go on elsewhere: {'; '.join(tries)}")
    again.__dict__.update(failure.__dict__)
    return again


class ShownAnswer:
    """What a client has of one answer, and how long it took to come."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._first_s: float | None = None
        self.last_s = 0.0  # when the last event went to the client

    def add(self, event: Delta | Finish, now_s: float) -> None:
        if isinstance(event, Delta):
            self._deltas.append(event)
        if self._first_s is None:
            self._first_s = now_s
        self.last_s = now_s

    @property
    def begun(self) -> bool:
        return self._first_s is not None

    @property
    def chars(self) -> int:
        """Of all that it says."""
        return sum(len(text) for delta in self._deltas for _, text in pieces_of(delta))

    @property
    def took_s(self) -> float:
        return 0.0 if self._first_s is None else self.last_s - self._first_s

    @property
    def steps(self) -> Sequence[Delta]:
        return self._deltas

    def replay(self, first: int = 0) -> Replay:
        """What tells the new part of the same answer, made anew from step number `first` on."""
        return Replay(self._deltas[first:])


class Replay:
    """Holds an answer that is made anew against what of it was `shown`. One use; `covered` once all of that came.

    Ids of calls are no part of an answer: they are drawn anew each time, and the client keeps those that it has.
    """

    def __init__(self, shown: Sequence[Delta]) -> None:
        parts: defaultdict[GrowingPart, list[str]] = defaultdict(list)
        self._tokens: list[JsonValue] = []  # of the log-probabilities
        for delta in shown:
            for piece, text in pieces_of(delta):
                parts[piece].append(text)
            self._tokens += [entry_token(entry) for entry in entries_of(delta.logprobs)]
        self._shown = {piece: "".join(texts) for piece, texts in parts.items()}
        self._calls = {call.index for delta in shown for call in delta.tool_calls}
        self._at: defaultdict[GrowingPart, int] = defaultdict(int)
        self._tokens_at = 0
        self._left = sum(map(len, self._shown.values())) + len(self._tokens)

    @property
    def covered(self) -> bool:
        return not self._left

    def new_in(self, event: Delta | Finish) -> Delta | Finish | None:
        """What of `event` the client has not; None where that is nothing. Raises AnswersDiffer."""
        if isinstance(event, Finish):
            if self._left:
                raise self._difference()
            return event
        if not self._left and not event.tool_calls:
            return event
        text, reasoning = self._rest(("text", 0), event.text), self._rest(("reasoning", 0), event.reasoning)
        calls = tuple(filter(None, [self._rest_of_call(call) for call in event.tool_calls]))
        logprobs = self._rest_of_logprobs(event.logprobs)
        if not (text or reasoning or calls or logprobs):
            return None
        if self._left:  # something else comes before what is missing
            raise self._difference()
        return replace(event, text=text, reasoning=reasoning, tool_calls=calls, logprobs=logprobs)

    def _rest(self, piece: GrowingPart, text: str) -> str:
        """What of `text` is beyond what was shown of that piece."""
        shown, at = self._shown.get(piece, ""), self._at[piece]
        known = shown[at : at + len(text)]
        if not text.startswith(known):
            self._at[piece] = at + next(n for n, (had, got) in enumerate(zip(known, text, strict=False)) if had != got)
            raise self._difference()
        self._at[piece] = at + len(text)
        self._left -= len(known)
        return text[len(known) :]

    def _rest_of_call(self, call: ToolCallDelta) -> ToolCallDelta | None:
        if call.index not in self._calls:
            return call
        name = self._rest(("name", call.index), call.name or "")
        if name:  # a name comes whole: the client has another one
            raise self._difference()
        arguments = self._rest(("arguments", call.index), call.arguments)
        return ToolCallDelta(call.index, None, None, arguments) if arguments else None

    def _rest_of_logprobs(self, logprobs: JsonValue) -> JsonValue:
        entries = entries_of(logprobs)
        known = self._tokens[self._tokens_at : self._tokens_at + len(entries)]
        if known != [entry_token(entry) for entry in entries[: len(known)]]:
            raise self._difference()
        self._tokens_at += len(entries)
        self._left -= len(known)
        rest = entries[len(known) :]
        return {**logprobs, "content": rest} if rest and isinstance(logprobs, dict) else None

    def _difference(self) -> AnswersDiffer:
        return AnswersDiffer(sum(min(self._at[piece], len(shown)) for piece, shown in self._shown.items()))


def pieces_of(delta: Delta) -> Iterator[tuple[GrowingPart, str]]:
    """Everything that a step added to, and what it added."""
    yield ("text", 0), delta.text
    yield ("reasoning", 0), delta.reasoning
    for call in delta.tool_calls:
        yield ("name", call.index), call.name or ""
        yield ("arguments", call.index), call.arguments


def entries_of(logprobs: JsonValue) -> list[JsonValue]:
    """The tokens of log-probabilities in OpenAI's chat form, which all are brought to (`token_logprobs`)."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content if isinstance(content, list) else []


def entry_token(entry: JsonValue) -> JsonValue:
    """Which token it is: how likely it was may differ in the last digits."""
    return entry.get("token") if isinstance(entry, dict) else None


class Continuity:
    """One answer of one choice, over the nodes that make it. It is given events; it says what of them is new.

    A replay may take REPLAY_TIMES as long as what it repeats, `least_s` at least. It is continued where that saves
    `least_saved_s`. `resumption` is the last one, once something new has gone to the client after it.
    """

    def __init__(self, least_s: float = LEAST_REPLAY_S, least_saved_s: float = LEAST_SAVED_S) -> None:
        self._least_s = least_s
        self._least_saved_s = least_saved_s
        self._shown = ShownAnswer()
        self._finished = False
        self._replay: Replay | None = None
        self._replayed_from: float | None = None  # when its first event came
        self._lost: Replica | None = None
        self._failure: SwarmError | None = None
        self._tries: list[str] = []
        self._continued: Continued | None = None
        self._replays = self._seams = 0  # that were tried, of who is asked now
        self.resumption: Resumption | None = None

    @property
    def begun(self) -> bool:
        """The client has a part of it."""
        return self._shown.begun

    @property
    def finished(self) -> bool:
        """The client has all of it."""
        return self._finished

    def may_take_over(self, replica: Replica) -> bool:
        """Whether `replica` may be asked for it as things stand."""
        return self._lost is None or computes_alike(self._lost, replica)

    def lost(self, replica: Replica, failure: SwarmError) -> None:
        """Who made it failed. Raises `failure` where that is nothing after which an answer goes on.

        A replay that fails, however it does, is a try like others.
        """
        if self._replay is not None:
            self.cannot(replica, f"failed ({failure})")
            return
        if not goes_on_after(failure):
            raise failure
        self._lost, self._failure, self._tries = replica, failure, []
        self._begin_again()
        self._replays = self._seams = 0

    def cannot(self, replica: Replica, why: str) -> None:
        """What `replica` was asked for came to nothing."""
        self._tries.append(f"{replica.node} {why}")
        self._begin_again()
        self._replays = self._seams = 0

    def _begin_again(self) -> None:
        self._replay, self._replayed_from = self._shown.replay(), None
        self._continued = None

    def seam(self, request: GenerationRequest, replica: Replica) -> tuple[Seam, Sequence[Delta]] | None:
        """Where `replica` should go on with the answer to `request` as with a turn, and what is before that.

        None where it should make it anew, or nothing was lost.
        """
        steps = self._shown.steps
        if self._replay is None or not can_continue(request, replica.capabilities.reasoning):
            return None
        if not self._replays and saved_s(len(steps), self._shown.took_s) < self._least_saved_s:
            return None
        untried = (seam_of(steps, request.stop, tokens) for tokens in SEAMS[self._seams :])
        seam = next(filter(None, untried), None)
        return None if seam is None else (seam, steps[: seam.steps])

    def begins(self, continued: Continued | None) -> None:
        """Somebody is asked for it: from a seam on, or (None) from its beginning.

        Raises ReplayFailed where that was tried: a seam was found, and its tokens are others there.
        """
        if self._replay is None:
            return
        self._begin_again()
        if continued is not None:
            self._seams += 1
            self._continued, self._replay = continued, self._shown.replay(continued.seam.steps)
            return
        if self._replays:
            self._seams = len(SEAMS)
            raise ReplayFailed("answers otherwise, and reads what was shown as other tokens than were written")
        self._replays = 1

    def asks_anew(self) -> None:
        """Whoever was asked has not begun: somebody else is asked in its place."""
        self._replays = self._seams = 0

    def has_another_way(self, request: GenerationRequest, replica: Replica) -> bool:
        """Whether what failed at `replica` may be tried otherwise there."""
        return not self._replays or self.seam(request, replica) is not None

    @property
    def ended(self) -> SwarmError:
        """The error of an answer that nobody goes on with."""
        assert self._failure is not None
        return not_resumed(self._failure, self._tries)

    @property
    def limit_s(self) -> float:
        """How long a replay may take, from its first event on."""
        return max(self._least_s, REPLAY_TIMES * self._shown.took_s)

    def left_s(self, now_s: float) -> float | None:
        """What is left of that; None where nothing is replayed, or its first event has not come."""
        if self._replay is None or self._replayed_from is None:
            return None
        return self._replayed_from + self.limit_s - now_s

    def new_in(self, event: Delta | Finish, by: Replica, now_s: float) -> Delta | Finish | None:
        """What of `event` the client is given. Raises AnswersDiffer."""
        if self._continued is not None and isinstance(event, Finish):
            event = self._continued.whole(event)
        new: Delta | Finish | None = event
        if self._replay is not None and self._lost is not None:
            if self._replayed_from is None:
                self._replayed_from = now_s
            new = self._replay.new_in(event)
            if new is None:
                return None
            gap_s = now_s - self._shown.last_s
            how: HowResumed = "replay" if self._continued is None else "continued"
            self.resumption = Resumption(self._lost.node, by.node, self._shown.chars, gap_s, how)
            self._replay = None
        self._shown.add(new, now_s)
        self._finished = isinstance(new, Finish)
        return new
