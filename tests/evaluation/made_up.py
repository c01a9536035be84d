"""Problems with made-up answers: what was sampled is known, so every figure can be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from swarm.consensus.options import Strategy
from swarm.evaluation.questions import Problem, read_problem
from swarm.evaluation.samples import GREEDY, Answered, DrawPlan, GradedAnswer, Sample, SampleKey, answers_of

RIGHT = 42


def problem(number: int = 0) -> Problem:
    """A problem whose answer is `RIGHT`."""
    asked = f"How much is problem {number}? End with the line: Answer: <number>"
    return read_problem(json.dumps({"question": asked, "answer": RIGHT}))


def sample(
    one: Problem, model: str, index: int, said: int | str, tokens: int = 10, confidence: float | None = None
) -> Sample:
    """One that says `Answer: said`; a text is said as it is."""
    key = SampleKey(
        source="made up", problem=one.key, model=model, index=index, temperature=0.8, max_tokens=100, seed=1
    )
    text = said if isinstance(said, str) else f"Answer: {said}"
    return Sample(key=key, text=text, finish_reason="stop", completion_tokens=tokens, confidence=confidence)


def answered(
    said: Mapping[str, Sequence[int | str]],
    number: int = 0,
    strategy: Strategy = Strategy.MAJORITY,
    greedy: Mapping[str, int | str] | None = None,
    sure: Mapping[str, Sequence[float]] | None = None,
) -> Answered:
    """A problem with the samples of each model, in order; the greedy answers are right unless `greedy` says others.

    `sure`: the confidences of each model's answers, the greedy one's first.
    """
    one = problem(number)

    def answer(model: str, index: int, text: int | str) -> GradedAnswer:
        confidence = None if sure is None else sure[model][index - GREEDY]
        [graded] = answers_of(one, [sample(one, model, index, text, confidence=confidence)])
        return graded

    samples = {model: tuple(answer(model, at, text) for at, text in enumerate(texts)) for model, texts in said.items()}
    firsts = {model: answer(model, GREEDY, RIGHT if greedy is None else greedy[model]) for model in said}
    return Answered(one, one.question(strategy), samples, firsts)


def everything_of(plan: DrawPlan, said: int = RIGHT) -> dict[SampleKey, Sample]:
    """Every sample that `plan` wants, all of them saying the same."""
    return {
        key: Sample(key=key, text=f"Answer: {said}", finish_reason="stop", completion_tokens=7)
        for one in plan.questions.problems
        for key in plan.keys(one)
    }
