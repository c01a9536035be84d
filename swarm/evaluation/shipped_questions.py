"""The questions that come with the product: what the embedded models were never trained on.

They are files of the same form as anybody's; `models/recipe/question_files.py` in the repository makes them.
"""

from __future__ import annotations

from pathlib import Path

from swarm.evaluation.questions import QuestionSet, read_questions

_FOLDER = Path(__file__).parent / "question_sets"
_MAX_TOKENS = 256  # the longest right answer has about 130

SHIPPED = ("arithmetic", "tools")


def shipped_questions(name: str) -> QuestionSet:
    """The set called so: 300 sums of eight terms, or 200 requests for calls of tools never seen before."""
    problems = read_questions(_FOLDER / f"{name}.jsonl")
    if name == "tools":  # the tail of the distribution is where calls go wrong: hence all of it
        return QuestionSet(name, problems, temperature=1.0, max_tokens=_MAX_TOKENS, samples=9)
    return QuestionSet(name, problems, temperature=0.8, max_tokens=_MAX_TOKENS, samples=15)
