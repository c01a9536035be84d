"""How one candidate reads, whatever the others say: every form of answer it carries, or why it has no say.

One without a say is neither for nor against anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swarm.consensus.answers import AbstainReason, Flaw
from swarm.consensus.code_answer import CodeAnswer, read_code
from swarm.consensus.final_answer import FinalAnswer, find_final_answer
from swarm.consensus.json_answer import (
    JsonAnswer,
    ToolCallAnswer,
    read_demanded_json,
    read_tool_calls,
    read_volunteered_json,
)
from swarm.consensus.question import Question, lists_choices
from swarm.consensus.text_answer import TextAnswer, read_text
from swarm.engines.thoughts import CLOSING, OPENING, answer_in
from swarm.generation import GAVE_WAY, Candidate

MAX_ANSWER_CHARS = 500_000  # about 125,000 tokens; also bounds what Unicode normalisation may swell to

MAX_REMEMBERED = 256  # readings per question; a ballot has at most 128 candidates


@dataclass(frozen=True, slots=True)
class Reading:
    """The forms of answer in one candidate. A call has only `call`; prose has `text`, unless JSON was demanded.

    `cut`: it ran into the length limit, so it counts half and only as prose.
    """

    call: ToolCallAnswer | None = None
    json: JsonAnswer | None = None
    code: CodeAnswer | None = None
    final: FinalAnswer | None = None
    text: TextAnswer | None = None
    cut: bool = False


def read(question: Question, candidate: Candidate) -> Reading | Flaw:
    """What `candidate` answers to `question`. Never raises, whatever a model or peer has put in it."""
    known = question.readings.get(id(candidate))
    if known is not None:  # the entry holds the candidate, so no other object can have its id
        return known[1]
    if len(question.readings) >= MAX_REMEMBERED:
        question.readings.clear()
    reading = _read(question, candidate)
    question.readings[id(candidate)] = candidate, reading
    return reading


def _read(question: Question, candidate: Candidate) -> Reading | Flaw:
    cut = candidate.finish_reason == "length"
    if candidate.error == GAVE_WAY:
        return Flaw(AbstainReason.GAVE_WAY)
    if candidate.error is not None:
        return Flaw(AbstainReason.FAILED, candidate.error)
    if candidate.finish_reason == "content_filter":
        return Flaw(AbstainReason.FILTERED)
    text = candidate.text
    if len(text) + sum(len(call.arguments) for call in candidate.tool_calls) > MAX_ANSWER_CHARS:
        return Flaw(AbstainReason.TOO_LARGE, f"over {MAX_ANSWER_CHARS} characters")
    if candidate.tool_calls:
        if cut:
            return Flaw(AbstainReason.CUT)
        call = read_tool_calls(candidate.tool_calls, question.tools, question.parallel_tool_calls)
        return call if isinstance(call, Flaw) else Reading(call=call)
    said = answer_of(candidate)
    if said is None:
        return Flaw(AbstainReason.UNCLOSED_REASONING)
    if not said.strip():
        return Flaw(AbstainReason.CUT if cut else AbstainReason.EMPTY)
    return _read_words(question, said, cut)


def answer_of(candidate: Candidate) -> str | None:
    """The text of `candidate` without a thought; None if that never closes. Where it was parted already, as it is."""
    text = candidate.text
    if candidate.reasoning or not (OPENING in text or CLOSING in text):
        return text
    return answer_in(text)


def _read_words(question: Question, said: str, cut: bool) -> Reading | Flaw:
    if question.wants_json and question.response_format is not None:
        answer = Flaw(AbstainReason.CUT) if cut else read_demanded_json(said, question.response_format)
        return answer if isinstance(answer, Flaw) else Reading(json=answer)
    prose = Reading(text=read_text(said), cut=cut)
    if cut:
        return prose
    if lists_choices(question.response_format):
        return replace(prose, final=FinalAnswer("choice", said.strip()))
    return replace(
        prose,
        json=read_volunteered_json(said),
        code=read_code(said),
        final=find_final_answer(said, question.wants_final_answer),
    )
