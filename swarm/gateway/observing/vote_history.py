"""The last votes that this node coordinated, live while they are held: in memory only, and never on a disk.

A `VoteRecord` follows one ballot from its start to its end, however it ends. Who voted, in which group, with what
weight and at what cost is for everybody who may read the node's status; the words of the answers are for those who
manage it, and the prompt is kept only by a node that was started with `--record`. `VoteHistory` holds the newest
MAX_KEPT votes, and words of MAX_WORDS_BYTES at most: the oldest votes lose theirs first.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from aiohttp import web
from pydantic import JsonValue

from swarm.consensus.swarm_object import BallotStanding
from swarm.consensus.verdict import Verdict
from swarm.consensus.weights import WEIGHT_DECIMALS
from swarm.errors import DeadlineExceeded, NoConsensus, RequestCancelled, SwarmError
from swarm.gateway.observing.board import EventBoard
from swarm.generation import Candidate, GenerationRequest
from swarm.logs import current_request_id
from swarm.routing.ballot_box import BallotResult

MAX_KEPT: Final = 200  # votes
MAX_ANSWER_CHARS: Final = 4000  # of each answer that is kept
MAX_PROMPT_CHARS: Final = 16_000  # of one recorded prompt, all its turns together; the newest turns come first
MAX_WORDS_BYTES: Final = 8 * 2**20  # of answers and prompts of all votes together
MAX_NAME_CHARS: Final = 256  # of what nodes, voters and models are called: others choose these names
READ_S: Final = 10.0  # after somebody has asked for the votes, those that are held are followed for so long

CUT_OFF: Final = "cut_off"  # the client left
NOT_FOR_YOU: Final = "the words of answers are for those who manage this node"
NOT_KEPT: Final = "the words of this vote were let go to make room for those of newer ones"
NOT_YET: Final = "nobody has answered yet, as far as it was followed"
NOBODY: Final = "no voter gave an answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCandidate:
    """One voter's part. `group` counts from the winner's, 0; null for one that `abstained`, with the reason.

    `answer` is there only where it is given: the words, at most MAX_ANSWER_CHARS of them.
    """

    voter: str
    model: str
    group: int | None
    weight: float
    tokens: int
    ms: int
    abstained: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteEntry:
    """One vote, without words. `out` are those that were asked and have not answered, each as MODEL@NODE.

    `stopped_by` of a vote that failed says why: cut_off (the client left), cancelled, deadline, no_quorum or error.
    `confirmed`: whether the vote came out for what was streamed while it was held; null where nothing was.
    """

    id: str
    request_id: str
    began: str
    elapsed_ms: int
    state: Literal["running", "done", "failed"]
    model: str
    strategy: str
    kind: str | None = None
    outcome: str | None = None
    votes: int = 0
    asked: int = 0
    wanted: int | None = None
    agreement: float | None = None
    margin: float | None = None
    stopped_by: str | None = None
    winner: str | None = None
    coordinator: str
    confirmed: bool | None = None
    total_completion_tokens: int = 0
    wasted_tokens: int = 0
    candidates: tuple[VoteCandidate, ...] = ()
    out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTurn:
    """A turn of a recorded prompt."""

    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteInFull(VoteEntry):
    """`answers`: whether the words of its answers are here, and `why` not. `prompt`: only of a node with --record."""

    answers: bool
    why: str | None
    prompt: tuple[PromptTurn, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteListing:
    """The votes, the newest first."""

    object: Literal["list"]
    data: tuple[VoteEntry, ...]


def vote_object(entry: VoteEntry) -> dict[str, object]:
    """An entry as JSON; of a candidate only what it has is there."""
    shown = asdict(entry)
    for candidate in shown["candidates"]:
        for name in ("abstained", "answer"):
            if candidate[name] is None:
                del candidate[name]
    return shown


@dataclass(slots=True)
class VoteWords:
    """What was said in one vote: `answers` by voter, and the prompt, where it is recorded."""

    answers: dict[str, str] = field(default_factory=dict[str, str])
    prompt: tuple[PromptTurn, ...] | None = None
    let_go: bool = False

    @property
    def size_bytes(self) -> int:
        said = sum(len(answer.encode(errors="replace")) for answer in self.answers.values())
        return said + sum(len(turn.text.encode(errors="replace")) for turn in self.prompt or ())


class VoteRecord:
    """One vote while it is held; what it tells is in `entry`. A `BallotObserver`. `clock` is monotonic seconds."""

    def __init__(self, history: VoteHistory, entry: VoteEntry, words: VoteWords, clock: Callable[[], float]) -> None:
        self._history = history
        self._clock = clock
        self._began_s = clock()
        self.entry = entry
        self.words = words

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants to know how it stands: that is worked out only then."""
        return self._history.is_watched

    def stands(self, standing: BallotStanding) -> None:
        """Somebody has answered, was asked, or was lost."""
        self.words.answers.update(bounded_answers(standing.answers.items()))
        out = tuple(name for seat in standing.out for name in [bounded(f"{seat.model}@{seat.node}")] * seat.seats)
        self._now(replace(of_verdict(self.entry, standing.verdict), stopped_by=None, outcome=None, out=out))

    def counted(self, result: BallotResult) -> None:
        """The ballot has its result; whether the client takes it is another matter."""
        said = ((candidate.voter, answer_words(candidate)) for candidate in result.candidates)
        self.words.answers = bounded_answers(said)
        self._now(replace(of_verdict(self.entry, result.verdict), out=()))

    def done(self, confirmed: bool | None = None) -> None:
        """It has come out, and the client has its answer or is being sent it."""
        if self.entry.state == "running":
            self._now(replace(self.entry, state="done", confirmed=confirmed))

    def failed(self, error: BaseException) -> None:
        """It ended without an answer. Nothing, where it has ended already."""
        if self.entry.state == "running":
            self._now(replace(self.entry, state="failed", stopped_by=why_failed(error), out=()))

    def _now(self, entry: VoteEntry) -> None:
        elapsed_ms = round((self._clock() - self._began_s) * 1000)
        self.entry = replace(entry, elapsed_ms=elapsed_ms)
        self._history.changed(self)


class VoteHistory:
    """The votes of this node as coordinator, called `node`, the oldest first; `records`: with their prompts."""

    def __init__(
        self,
        node: str,
        records: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        most_words_bytes: int = MAX_WORDS_BYTES,
    ) -> None:
        self._node = bounded(node)
        self.records = records
        self._clock = clock
        self._now = now
        self._most_words_bytes = most_words_bytes
        self._votes: dict[str, VoteRecord] = {}
        self._sizes: dict[str, int] = {}  # bytes of words, by vote
        self._words_bytes = 0
        self._board: EventBoard | None = None
        self._read_at: float | None = None

    def begin(self, request: GenerationRequest, strategy: str, wanted: int | None) -> VoteRecord:
        """A vote begins now, for the request in whose context this is called."""
        entry = VoteEntry(
            id=f"vote_{secrets.token_hex(8)}",
            request_id=current_request_id.get(),
            began=self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            elapsed_ms=0,
            state="running",
            model=bounded(request.model),
            strategy=strategy,
            wanted=wanted,
            coordinator=self._node,
        )
        words = VoteWords(prompt=recorded_prompt(request) if self.records else None)
        record = VoteRecord(self, entry, words, self._clock)
        self._votes[entry.id] = record
        self.changed(record)
        while len(self._votes) > MAX_KEPT:
            self._drop(next((key for key, one in self._votes.items() if one.entry.state != "running"), entry.id))
        return record

    def single(self, request: GenerationRequest, verdict: Verdict, answers: Sequence[Candidate]) -> None:
        """A vote was asked for, and one answer was given: told as a vote of one."""
        record = self.begin(request, str(verdict.strategy), verdict.wanted)
        record.counted(BallotResult(verdict, None, candidates=tuple(answers)))
        took_ms = max((candidate.elapsed_ms for candidate in answers), default=0)
        record.done()
        record.entry = replace(record.entry, elapsed_ms=took_ms)
        self.changed(record)

    def changed(self, record: VoteRecord) -> None:
        """A record tells something new: the board has it, and the bound of the words holds."""
        key = record.entry.id
        if key not in self._votes:
            return
        size = record.words.size_bytes
        self._words_bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        for old in self._votes.values():
            if self._words_bytes <= self._most_words_bytes:
                break
            if old is not record:
                self._let_go(old)
        if self._board is not None and self._board.watched("vote"):
            self._board.put("vote", key, vote_object(record.entry))

    def _let_go(self, record: VoteRecord) -> None:
        key = record.entry.id
        if self._sizes[key]:
            record.words = VoteWords(let_go=True)
            self._words_bytes -= self._sizes[key]
            self._sizes[key] = 0

    def _drop(self, key: str) -> None:
        del self._votes[key]
        self._words_bytes -= self._sizes.pop(key)
        if self._board is not None:
            self._board.drop("vote", key)

    def show(self, board: EventBoard) -> None:
        """Keep the board's part `vote` while anybody watches it."""
        self._board = board

        def watched(begins: bool) -> None:
            if begins:
                board.only("vote", {key: vote_object(record.entry) for key, record in self._votes.items()})

        board.on_watch("vote", watched)

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks on, or has just asked for the votes."""
        if self._board is not None and self._board.watched("vote"):
            return True
        return self._read_at is not None and self._clock() - self._read_at < READ_S

    def entries(
        self, limit: int = MAX_KEPT, kind: str | None = None, outcome: str | None = None, model: str | None = None
    ) -> tuple[VoteEntry, ...]:
        """The newest first, `limit` of those that are of this kind, outcome and model; None means any."""
        self._read_at = self._clock()
        wanted = (
            record.entry
            for record in reversed(self._votes.values())
            if kind in (None, record.entry.kind)
            and outcome in (None, record.entry.outcome)
            and model in (None, record.entry.model)
        )
        return tuple(itertools.islice(wanted, limit))

    def in_full(self, vote_id: str, with_words: bool) -> VoteInFull | None:
        """One vote, with what was said in it for those who may know; None where there is none by that id."""
        self._read_at = self._clock()
        record = self._votes.get(vote_id)
        if record is None:
            return None
        entry, words = record.entry, record.words
        given = with_words and bool(words.answers)
        candidates = entry.candidates
        if given:
            candidates = tuple(replace(part, answer=words.answers.get(part.voter)) for part in candidates)
        why = None if given else why_no_words(entry, words, with_words)
        shown: dict[str, Any] = {each.name: getattr(entry, each.name) for each in fields(VoteEntry)}
        shown |= {"candidates": candidates, "prompt": words.prompt if with_words else None}
        return VoteInFull(**shown, answers=given, why=why)


def why_no_words(entry: VoteEntry, words: VoteWords, allowed: bool) -> str:
    """Why the words of a vote are not told."""
    if not allowed:
        return NOT_FOR_YOU
    if words.let_go:
        return NOT_KEPT
    return NOT_YET if entry.state == "running" else NOBODY


def of_verdict(entry: VoteEntry, verdict: Verdict) -> VoteEntry:
    """`entry` with what `verdict` says."""
    return replace(
        entry,
        strategy=str(verdict.strategy),
        kind=str(verdict.kind),
        outcome=verdict.outcome,
        votes=verdict.votes,
        asked=verdict.asked,
        wanted=verdict.wanted,
        agreement=None if verdict.agreement is None else round(verdict.agreement, WEIGHT_DECIMALS),
        margin=round(verdict.margin, WEIGHT_DECIMALS),
        stopped_by=verdict.stopped_by,
        winner=None if verdict.winner is None else bounded(verdict.winner.voter),
        total_completion_tokens=verdict.total_completion_tokens,
        wasted_tokens=verdict.wasted_tokens or 0,
        candidates=tuple(
            VoteCandidate(
                voter=bounded(part.voter),
                model=bounded(part.model),
                group=part.group,
                weight=round(part.weight, WEIGHT_DECIMALS),
                tokens=part.tokens,
                ms=part.elapsed_ms,
                abstained=None if part.abstained is None else bounded(part.abstained),
            )
            for part in verdict.candidates
        ),
    )


def why_failed(error: BaseException) -> str:
    """What ended a vote that has no answer, in a word."""
    match error:
        case RequestCancelled():
            return "cancelled"
        case DeadlineExceeded():
            return "deadline"
        case NoConsensus():
            return "no_quorum"
        case SwarmError():
            return "error"
        case Exception():
            return "error"
        case _:  # its task was cancelled, or its generator closed
            return CUT_OFF


def bounded(text: str, most_chars: int = MAX_NAME_CHARS) -> str:
    """`text`, with an ellipsis where it is longer."""
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"


def bounded_answers(answers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Answers by voter, each as far as it is kept."""
    return {bounded(voter): bounded(answer, MAX_ANSWER_CHARS) for voter, answer in answers}


def answer_words(candidate: Candidate) -> str:
    """What a voter said: its words, and the calls that it made."""
    calls = (f"{call.name}({call.arguments[:MAX_ANSWER_CHARS]})" for call in candidate.tool_calls)
    return "\n".join(filter(None, [candidate.text[: MAX_ANSWER_CHARS + 1], *calls]))


def recorded_prompt(request: GenerationRequest) -> tuple[PromptTurn, ...]:
    """What is kept of a prompt: the newest turns, as many as have room, in the order in which they were said."""
    turns: list[PromptTurn] = []
    room = MAX_PROMPT_CHARS
    for role, text in reversed(spoken_turns(request)):
        if room <= 0:
            break
        kept = bounded(text, room)
        room -= len(kept)
        turns.append(PromptTurn(role=bounded(role), text=kept))
    return tuple(reversed(turns))


def spoken_turns(request: GenerationRequest) -> list[tuple[str, str]]:
    """Role and words of every turn of a request, the oldest first; images are not among the words."""
    if request.messages is None:
        prompt = request.prompt
        return [("prompt", prompt if isinstance(prompt, str) else f"({len(prompt or ())} tokens)")]
    return [(str(message.get("role", "")), _words_in(message.get("content"))) for message in request.messages]


def _words_in(content: JsonValue) -> str:
    """The text of a turn, which is that or a list of parts."""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


VOTES: web.AppKey[VoteHistory] = web.AppKey("votes", VoteHistory)
