"""What is measured of one model: every ability on held-out items, and arithmetic with votes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models.recipe.abilities.arithmetic import problem
from models.recipe.abilities.chat import chat, unknown
from models.recipe.abilities.counting import counting
from models.recipe.abilities.facts import fact
from models.recipe.abilities.json_objects import json_object
from models.recipe.abilities.paragraphs import paragraph
from models.recipe.abilities.repeat import repeat
from models.recipe.abilities.tools import after_result, no_call, one_call, two_calls
from models.recipe.asking import answers
from models.recipe.document import Document
from models.recipe.intervals import Gain, Share, paired_gain
from models.recipe.splits import Split
from swarm.consensus.final_answer import find_final_answer
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.generation import Candidate

ITEM_SEED = 77  # of the held-out items: the same for every model
SAMPLES = 15
TEMPERATURE = 0.8

Judge = Callable[[Document, Candidate], bool]


def calls_of(candidate: Candidate) -> list[list[Any]] | None:
    """[name, arguments] of each call; None where arguments are no JSON."""
    try:
        return [[call.name, json.loads(call.arguments)] for call in candidate.tool_calls]
    except ValueError:
        return None


def says_expected(document: Document, candidate: Candidate) -> bool:
    return candidate.text.strip() == document.expected and not candidate.tool_calls


def calls_expected(document: Document, candidate: Candidate) -> bool:
    return calls_of(candidate) == document.expected


def names_expected(document: Document, candidate: Candidate) -> bool:
    return [call.name for call in candidate.tool_calls] == [name for name, _ in document.expected]


def calls_nothing(document: Document, candidate: Candidate) -> bool:
    return not candidate.tool_calls and "<tool_call>" not in candidate.text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_object(document: Document, candidate: Candidate) -> bool:
    return isinstance(_parsed(candidate.text), dict)


def is_expected_object(document: Document, candidate: Candidate) -> bool:
    return _parsed(candidate.text) == document.expected


@dataclass(frozen=True, slots=True)
class Trial:
    """Items of one kind with the ways in which their answers are judged."""

    count: int
    make: Callable[[random.Random, Split], Document]
    judges: dict[str, Judge]


def trials(scale: float) -> list[Trial]:
    """All trials; `scale` shortens them for a smoke run."""

    def many(count: int) -> int:
        return max(2, int(count * scale))

    return [
        Trial(many(300), fact, {"facts": says_expected}),
        Trial(many(200), lambda r, s: one_call(r, s, offered=1), {"call exact, one tool": calls_expected}),
        Trial(
            many(250),
            lambda r, s: one_call(r, s, offered=r.choice((2, 3, 4))),
            {"call exact, 2-4 tools": calls_expected, "tool name, 2-4 tools": names_expected},
        ),
        Trial(
            many(200),
            lambda r, s: one_call(r, s, offered=r.choice((1, 2, 3, 4)), arguments=r.choice((2, 3))),
            {"call exact, two or more arguments": calls_expected},
        ),
        Trial(many(100), two_calls, {"two calls exact": calls_expected}),
        Trial(many(200), no_call, {"no call when none is needed": calls_nothing}),
        Trial(many(150), after_result, {"answer after a tool result": says_expected}),
        Trial(many(200), json_object, {"JSON valid": is_object, "JSON exact": is_expected_object}),
        Trial(many(150), repeat, {"repeat after me": says_expected}),
        Trial(many(150), unknown, {"says that it does not know": says_expected}),
        Trial(many(100), chat, {"chat": says_expected}),
        Trial(many(30), paragraph, {"paragraphs": says_expected}),
        Trial(many(50), counting, {"counting": says_expected}),
    ]


async def measure_abilities(engine: LlamaServerEngine, scale: float = 1.0) -> dict[str, Share]:
    """Greedy, on held-out items. Also: of all well-formed calls, how many llama.cpp's parser returned as such."""
    shares: dict[str, Share] = {}
    formed = parsed = 0
    for trial in trials(scale):
        source = random.Random(ITEM_SEED)
        items = [trial.make(source, Split.HELD_OUT) for _ in range(trial.count)]
        given = [row[0] for row in await answers(engine, items)]
        for name, judge in trial.judges.items():
            right = sum(judge(item, candidate) for item, candidate in zip(items, given, strict=True))
            shares[name] = Share(right, trial.count)
        for candidate in given:
            returned = bool(candidate.tool_calls) and candidate.finish_reason in ("tool_calls", "length")
            formed += bool(candidate.tool_calls) or _well_formed_raw_call(candidate.text)
            parsed += returned
    if formed:
        shares["well-formed calls returned as tool_calls"] = Share(parsed, formed)
    return shares


def _well_formed_raw_call(text: str) -> bool:
    """Whether a call that the parser should have taken is left in the text."""
    inside = text.partition("<tool_call>")[2].partition("</tool_call>")[0]
    return isinstance(_parsed(inside), dict)


@dataclass(frozen=True, slots=True)
class Problems:
    """A kind of arithmetic problem: so many terms up to so large."""

    terms: int
    largest: int
    count: int = 300

    @property
    def name(self) -> str:
        return f"{self.terms} terms up to {self.largest}"

    def items(self) -> list[Document]:
        source = random.Random(ITEM_SEED + 1000 * self.terms + self.largest)
        return [problem(source, Split.HELD_OUT, self.terms, self.largest) for _ in range(self.count)]


def number_in(candidate: Candidate) -> int | None:
    """The number after `Answer:`, read as the product's vote reads it."""
    found = find_final_answer(candidate.text, asked=False)
    return None if found is None or found.kind != "number" else int(found.value)


def majority(numbers: Sequence[int | None]) -> int | None:
    """The most frequent number; the first one seen where several are equally frequent."""
    counted = Counter(number for number in numbers if number is not None)
    return counted.most_common(1)[0][0] if counted else None


@dataclass(frozen=True, slots=True)
class Vote:
    """One model's sampled arithmetic: a single sample (mean over the samples), and majorities."""

    one: float
    of_5: Share
    of_15: Share
    gain_of_5: Gain
    gain_of_15: Gain


@dataclass(frozen=True, slots=True)
class Greedy:
    """One model's most likely answers to the same problems."""

    share: Share
    numbers: tuple[int | None, ...]


async def measure_greedy(engine: LlamaServerEngine, problems: Problems) -> Greedy:
    """One answer to each problem, always the same."""
    items = problems.items()
    numbers = tuple(number_in(row[0]) for row in await answers(engine, items))
    return Greedy(Share(sum(n == item.expected for n, item in zip(numbers, items, strict=True)), len(items)), numbers)


async def measure_vote(engine: LlamaServerEngine, problems: Problems) -> Vote:
    """`SAMPLES` answers to each problem at `TEMPERATURE`."""
    items = problems.items()
    sampled = [
        [number_in(candidate) for candidate in row] for row in await answers(engine, items, TEMPERATURE, SAMPLES)
    ]
    truth = [item.expected for item in items]
    one = [sum(number == right for number in row) / SAMPLES for row, right in zip(sampled, truth, strict=True)]
    five = [float(majority(row[:5]) == right) for row, right in zip(sampled, truth, strict=True)]
    fifteen = [float(majority(row) == right) for row, right in zip(sampled, truth, strict=True)]
    return Vote(
        one=sum(one) / len(one),
        of_5=Share(int(sum(five)), len(items)),
        of_15=Share(int(sum(fifteen)), len(items)),
        gain_of_5=paired_gain(five, one),
        gain_of_15=paired_gain(fifteen, one),
    )


def measure_siblings(problems: Problems, numbers: Sequence[tuple[int | None, ...]]) -> tuple[Share, Gain]:
    """The majority of several models' greedy answers, and what it gains over the best of them alone."""
    truth = [item.expected for item in problems.items()]
    alone = [[float(n == t) for n, t in zip(row, truth, strict=True)] for row in numbers]
    together = [float(majority(row) == right) for row, right in zip(zip(*numbers, strict=True), truth, strict=True)]
    return Share(int(sum(together)), len(truth)), paired_gain(together, max(alone, key=sum))
