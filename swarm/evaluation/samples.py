"""Samples: one answer for each (question, model, index), drawn once; everything else is computed from them.

They are kept in a file, one JSON object a line, so that a run can go on where it was interrupted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

from pydantic import ValidationError

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.errors import SetupError
from swarm.evaluation.questions import Problem, QuestionSet
from swarm.generation import Candidate, FinishReason, Frozen, ToolCall, Usage

GREEDY = -1  # the index of the one sample at temperature 0
_BEGINNING = b'{"key":{'  # of every line, so that no other file is taken for a damaged one of ours


class SampleKey(Frozen):
    """Which sample it is, and everything that decides how it is drawn: another temperature is another sample."""

    source: str
    problem: str
    model: str
    index: int
    temperature: float
    max_tokens: int
    seed: int


class Sample(Frozen):
    """One answer as it came. An unusable answer is a sample, too; only a request without any answer gives none."""

    key: SampleKey
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    elapsed_ms: int = 0  # of the request that it came with, and every other sample of it
    confidence: float | None = None  # where the endpoint gave log-probabilities

    def candidate(self) -> Candidate:
        """The sample as a voter's answer. The voter's name is a hash, since the tally settles ties by names."""
        name = hashlib.sha256(f"{self.key.problem}/{self.key.model}/{self.key.index}".encode()).hexdigest()[:12]
        return Candidate(
            voter=name,
            model=self.key.model,
            text=self.text,
            tool_calls=self.tool_calls,
            finish_reason=self.finish_reason,
            usage=Usage(prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens),
            elapsed_ms=self.elapsed_ms,
            confidence=self.confidence,
            temperature=self.key.temperature,
        )


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """A sample, and whether it is right."""

    candidate: Candidate
    right: bool

    @property
    def tokens(self) -> int:
        return self.candidate.usage.completion_tokens


@dataclass(frozen=True, slots=True)
class VoteOutcome:
    """Whether a vote's winner is right, and the share of votes that agreed with it (0 where there is no agreement)."""

    right: bool
    agreement: float


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """One problem with every model's samples, as many of each, and their greedy answers.

    `question` is what votes on it are counted by, unless another strategy is named. It remembers how each answer reads,
    and `outcomes` what each vote decided, so that nothing is computed twice.
    """

    problem: Problem
    question: Question
    samples: Mapping[str, tuple[GradedAnswer, ...]]
    greedy: Mapping[str, GradedAnswer]
    outcomes: dict[Hashable, VoteOutcome] = field(default_factory=dict[Hashable, "VoteOutcome"], init=False, repr=False)
    _others: dict[Strategy, Question] = field(default_factory=dict[Strategy, "Question"], init=False, repr=False)

    def under(self, strategy: Strategy | None) -> Question:
        """The question with answers chosen by `strategy`; None: as the run has it."""
        if strategy is None or strategy == self.question.strategy:
            return self.question
        if strategy not in self._others:
            self._others[strategy] = self.problem.question(strategy)
        return self._others[strategy]

    @property
    def knows_confidence(self) -> bool:
        """Whether every answer has one: the endpoint gave log-probabilities."""
        answers = [*self.greedy.values(), *(answer for several in self.samples.values() for answer in several)]
        return all(answer.candidate.confidence is not None for answer in answers)


@dataclass(frozen=True, slots=True)
class DrawPlan:
    """Which samples are wanted: of every model, `samples` at the set's temperature and one that is greedy."""

    questions: QuestionSet
    source: str
    models: tuple[str, ...]
    samples: int
    seed: int

    def keys(self, problem: Problem) -> list[SampleKey]:
        """The samples that are wanted of one problem."""
        return [self._key(problem, model, index) for model in self.models for index in range(GREEDY, self.samples)]

    def _key(self, problem: Problem, model: str, index: int) -> SampleKey:
        return SampleKey(
            source=self.source,
            problem=problem.key,
            model=model,
            index=index,
            temperature=0.0 if index == GREEDY else self.questions.temperature,
            max_tokens=self.questions.max_tokens,
            seed=self.seed,
        )

    def answered(self, drawn: Mapping[SampleKey, Sample], strategy: Strategy) -> list[Answered]:
        """The problems with all of their samples, in order; an interrupted run has fewer of them."""
        complete: list[Answered] = []
        for problem in self.questions.problems:
            samples = [sample for key in self.keys(problem) if (sample := drawn.get(key)) is not None]
            if len(samples) == len(self.models) * (self.samples + 1):
                complete.append(_answered(problem, samples, self.models, problem.question(strategy)))
        return complete


def _answered(problem: Problem, samples: Sequence[Sample], models: Sequence[str], question: Question) -> Answered:
    def of(model: str, greedy: bool) -> tuple[GradedAnswer, ...]:
        return answers_of(problem, (s for s in samples if s.key.model == model and (s.key.index == GREEDY) == greedy))

    return Answered(
        problem=problem,
        question=question,
        samples={model: of(model, greedy=False) for model in models},
        greedy={model: of(model, greedy=True)[0] for model in models},
    )


def answers_of(problem: Problem, samples: Iterable[Sample]) -> tuple[GradedAnswer, ...]:
    """The samples as answers to `problem`."""
    candidates = (sample.candidate() for sample in samples)
    return tuple(GradedAnswer(candidate, problem.is_right(candidate)) for candidate in candidates)


def sampling_seed(key: SampleKey) -> int:
    """The seed that the endpoint is given: its own for each sample, in 31 bits."""
    digest = hashlib.sha256(f"{key.seed}/{key.problem}/{key.model}/{key.index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class SampleStore:
    """All samples drawn so far; new ones are appended to the file, if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: TextIOWrapper | None = None
        self._samples: dict[SampleKey, Sample] = {} if path is None else read_samples(path)

    @property
    def samples(self) -> Mapping[SampleKey, Sample]:
        return self._samples

    @contextmanager
    def recording(self) -> Generator[None]:
        """Within the block what is added goes to the file, too. Raises SetupError where it cannot be written."""
        if self._path is None:
            yield
            return
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise SetupError(f"cannot write the samples to {self._path}: {error.strerror}") from error
        with self._file:
            yield
        self._file = None

    def add(self, sample: Sample) -> None:
        """Keep `sample`: in memory, and in the file before the next one is drawn."""
        self._samples[sample.key] = sample
        if self._file is not None:
            self._file.write(sample.model_dump_json(exclude_defaults=True) + "\n")
            self._file.flush()


def read_samples(path: Path) -> dict[SampleKey, Sample]:
    """The samples in a file; none where it does not exist yet. A last line that an interruption cut off is removed.

    Raises SetupError naming the line for anything else that is no sample.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SetupError(f"cannot read the samples in {path}: {error.strerror}") from error
    *lines, rest = data.split(b"\n")
    samples: dict[SampleKey, Sample] = {}
    for number, line in enumerate(lines, 1):
        try:
            sample = Sample.model_validate_json(line)
        except ValidationError as error:
            raise _foreign(path, number) from error
        samples[sample.key] = sample
    if rest and not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
        raise _foreign(path, len(lines) + 1)
    if rest:
        os.truncate(path, len(data) - len(rest))
    return samples


def _foreign(path: Path, number: int) -> SetupError:
    return SetupError(f"{path} line {number} is no sample of `swarm bench votes`: name another file with --store")
