"""Questions with known answers, one JSON object a line, and when an answer is right.

Two sets come with the product, of questions that the embedded models were never trained on: files of the same form as
anybody's, made by `models/recipe/question_files.py` in the repository.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from swarm.consensus.options import Kind, Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import Tally, tally
from swarm.errors import SetupError
from swarm.generation import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Candidate,
    Frozen,
    GenerationRequest,
    JsonObject,
    ResponseFormat,
    ToolCall,
    ToolSpec,
)
from swarm.registry.weights_file import OPEN_OPTIONS

SHIPPED = ("arithmetic", "tools")
MAX_QUESTIONS = 20_000  # the largest public sets have about 14,000; drawing them takes days on one machine
MAX_LINE_CHARS = 1_000_000  # a prompt of 250,000 tokens

_FOLDER = Path(__file__).parent / "question_sets"
_MAX_TOKENS = 256  # of a shipped question: the longest right answer has about 130
_GOLD_VOTERS = ("gold", "gold again")  # "gold": the known right answer


class Call(Frozen):
    """A tool call that is expected."""

    name: str
    arguments: JsonObject = Field(default_factory=dict)


class QuestionLine(Frozen):
    """One line of a file. `question` stands for a single user message; `options` is how many choices an answer has."""

    question: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[tuple[JsonObject, ...], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    answer: JsonValue
    kind: Kind | None = None
    tools: Annotated[tuple[ToolSpec, ...], Field(max_length=MAX_TOOLS)] = ()
    tool_choice: Literal["auto", "required"] | None = None
    response_format: ResponseFormat | None = None
    options: Annotated[int, Field(ge=2, le=1000)] | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> QuestionLine:
        if (self.question is None) == (self.messages is None):
            raise ValueError('give either "question" or "messages"')
        if any(not isinstance(message.get("role"), str) for message in self.messages or ()):
            raise ValueError('every message needs a "role"')
        return self


@dataclass(frozen=True, slots=True)
class AcceptedCall:
    """A call that has several right forms: each argument takes any of its values; "" among them: it may be left out."""

    name: str
    arguments: Mapping[str, tuple[JsonValue, ...]]

    def example(self) -> JsonObject:
        """Arguments that are right: of each the first value, without those that may be left out."""
        return {key: _plain(values[0]) for key, values in self.arguments.items() if values and "" not in values}

    def is_made_by(self, candidate: Candidate) -> bool:
        """Whether `candidate` makes this call, once and nothing else."""
        if len(candidate.tool_calls) != 1 or candidate.tool_calls[0].name != self.name:
            return False
        try:
            given: JsonValue = json.loads(candidate.tool_calls[0].arguments or "{}")
        except ValueError:
            return False
        if not isinstance(given, dict) or not given.keys() <= self.arguments.keys():
            return False
        return all(
            _is_one_of(given[key], values) if key in given else "" in values for key, values in self.arguments.items()
        )


def _is_one_of(value: JsonValue, values: Sequence[JsonValue]) -> bool:
    return any(_folded(value) == _folded(_plain(each)) for each in values)


def _plain(value: JsonValue) -> JsonValue:
    """A value of a set's answers without the lists of alternatives within objects: the first of each."""
    if isinstance(value, dict):
        firsts = {key: part[0] if isinstance(part, list) and part else part for key, part in value.items()}
        return {key: _plain(part) for key, part in firsts.items() if part != ""}
    return value


def _folded(value: JsonValue) -> JsonValue:
    """As the leaderboard compares: strings without case, spaces and marks; 5 is 5.0, and not true."""
    match value:
        case str():
            return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')
        case bool():
            return str(value)
        case int():
            return float(value) if abs(value) < 2**53 else value
        case list():
            return [_folded(item) for item in value]
        case dict():
            return {key: _folded(item) for key, item in value.items()}
        case _:
            return value


@dataclass(frozen=True)
class Problem:
    """A question, its right answer (`gold`), and the kind of answer it takes. `accepted`: what else is right."""

    asked: QuestionLine
    kind: Kind
    gold: Candidate = field(compare=False)
    accepted: AcceptedCall | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """A short hash of question and answer: it stays the same wherever the question stands in a file."""
        text = self.asked.model_dump_json(exclude_none=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def options(self) -> int:
        return self.asked.options or OPEN_OPTIONS

    @property
    def messages(self) -> list[JsonObject]:
        if self.asked.messages is not None:
            return list(self.asked.messages)
        return [{"role": "user", "content": self.asked.question}]

    def question(self, strategy: Strategy) -> Question:
        """What the product compares the answers by."""
        return Question.of(
            GenerationRequest(
                model="any",
                messages=tuple(self.messages),
                tools=self.asked.tools,
                tool_choice=self.asked.tool_choice or "auto",
                response_format=self.asked.response_format,
            ),
            strategy,
        )

    def is_right(self, candidate: Candidate) -> bool:
        """Whether `candidate` gives the known answer, as the product reads answers of this kind."""
        if self.accepted is not None:
            return candidate.error is None and self.accepted.is_made_by(candidate)
        if self.kind == "tool_calls" and not self.gold.tool_calls:
            return candidate.error is None and not candidate.tool_calls
        counted = self._beside_gold(candidate)
        return any(ballot.candidate.voter == candidate.voter for ballot in counted.groups[0].ballots)

    @property
    def is_answerable(self) -> bool:
        """The known answer is one of its kind, as the product reads it."""
        if self.kind == "tool_calls" and not self.gold.tool_calls:
            return True
        counted = self._beside_gold(self.gold.model_copy(update={"voter": "check"}))
        return counted.kind == self.kind and len(counted.groups) == 1 and counted.votes == len(_GOLD_VOTERS) + 1

    def _beside_gold(self, candidate: Candidate) -> Tally:
        """The vote of `candidate` and of two that give the known answer, and so decide the kind and the winner."""
        gold = [self.gold.model_copy(update={"voter": voter}) for voter in _GOLD_VOTERS]
        return tally(self._judging, [*gold, candidate])

    @cached_property
    def _judging(self) -> Question:
        """As `question`, but a final answer is looked for even where the prompt did not ask for its form."""
        question = self.question(Strategy.MAJORITY)
        return replace(question, wants_final_answer=True) if self.kind in ("number", "choice") else question


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions that belong together, and how they are asked."""

    name: str
    problems: tuple[Problem, ...]
    temperature: float
    max_tokens: int
    samples: int


def read_problem(line: str, accepted: AcceptedCall | None = None) -> Problem:
    """The problem in one line. Raises ValueError with what is wrong with it. `accepted` says what is right instead."""
    if len(line) > MAX_LINE_CHARS:
        raise ValueError(f"over {MAX_LINE_CHARS} characters")
    try:
        asked = QuestionLine.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
    kind = asked.kind or _kind_of(asked)
    problem = Problem(asked, kind, _gold(asked.answer, kind), accepted)
    if accepted is None and not problem.is_answerable:
        raise ValueError(f"answer {json.dumps(asked.answer)[:80]} does not read as {kind}")
    return problem


def read_questions(path: Path) -> tuple[Problem, ...]:
    """All problems of a file. Raises SetupError naming the file and the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read the questions in {path}: {getattr(error, 'strerror', None) or error}") from error
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            problems.append(read_problem(line))
        except ValueError as error:
            raise SetupError(f"{path} line {number}: {error}") from error
        if len(problems) > MAX_QUESTIONS:
            raise SetupError(f"{path} has more than {MAX_QUESTIONS} questions: split it")
    if not problems:
        raise SetupError(f"{path} has no questions: one JSON object a line, with question and answer")
    if len({problem.key for problem in problems}) < len(problems):
        raise SetupError(f"{path} has a question twice: the intervals would count it as two")
    return tuple(problems)


def _kind_of(asked: QuestionLine) -> Kind:
    """What an answer without a `kind` is."""
    match asked.answer:
        case list() if asked.tools:
            return "tool_calls"
        case dict() | list():
            return "json"
        case bool():
            return "choice"
        case int() | float():
            return "number"
        case str() as text if len(text) == 1 and text.isalpha():
            return "choice"
        case _:
            return "text"


def _gold(answer: JsonValue, kind: Kind) -> Candidate:
    """The known answer as a voter would give it."""
    match kind:
        case "number" | "choice":
            return Candidate(voter="gold", text=f"Answer: {answer}", finish_reason="stop")
        case "tool_calls":
            return Candidate(voter="gold", tool_calls=_calls(answer), finish_reason="tool_calls")
        case "json":
            return Candidate(voter="gold", text=json.dumps(answer), finish_reason="stop")
        case "code":
            text = str(answer)
            return Candidate(voter="gold", text=text if "```" in text else f"```\n{text}\n```", finish_reason="stop")
        case "text":
            return Candidate(voter="gold", text=str(answer), finish_reason="stop")


def _calls(answer: JsonValue) -> tuple[ToolCall, ...]:
    listed: Sequence[JsonValue] = answer if isinstance(answer, list) else [answer]
    try:
        calls = [Call.model_validate(call) for call in listed]
    except ValidationError as error:
        raise ValueError('answer: expected calls as {"name": ..., "arguments": {...}}') from error
    return tuple(
        ToolCall(id=f"call_{at}", name=call.name, arguments=json.dumps(call.arguments)) for at, call in enumerate(calls)
    )


def shipped_questions(name: str) -> QuestionSet:
    """`arithmetic` (300 sums of eight terms) or `tools` (200 requests to call tools that no model has seen)."""
    problems = read_questions(_FOLDER / f"{name}.jsonl")
    if name == "tools":  # the tail of the distribution is where calls go wrong: hence all of it
        return QuestionSet(name, problems, temperature=0.5, max_tokens=_MAX_TOKENS, samples=9)
    return QuestionSet(name, problems, temperature=0.5, max_tokens=_MAX_TOKENS, samples=15)
