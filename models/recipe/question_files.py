"""Write the held-out questions that `swarm bench votes` asks the embedded models, in the form that anybody's may have.

    python -m models.recipe.question_files swarm/evaluation/question_sets

The recipe is not part of the installed product, its questions are. They are the same for every run.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.recipe.abilities.tools import one_call, two_calls
from models.recipe.document import Document
from models.recipe.measures import ITEM_SEED, Problems
from models.recipe.splits import Split

ARITHMETIC = Problems(terms=8, largest=99, count=300)  # the kind that votes are judged by
CALLS = 150  # of one tool among two to four
TWO_CALLS = 50  # in one answer


def arithmetic_questions() -> Iterator[dict[str, Any]]:
    for item in ARITHMETIC.items():
        yield {"question": item.messages[0]["content"], "answer": item.expected, "kind": "number"}


def tool_questions() -> Iterator[dict[str, Any]]:
    source = random.Random(ITEM_SEED)
    for _ in range(CALLS):
        yield _calling(one_call(source, Split.HELD_OUT, offered=source.choice((2, 3, 4))))
    for _ in range(TWO_CALLS):
        yield _calling(two_calls(source, Split.HELD_OUT))


def _calling(item: Document) -> dict[str, Any]:
    calls = [{"name": name, "arguments": arguments} for name, arguments in item.expected]
    asked = item.messages[0]["content"]
    return {"question": asked, "answer": calls, "kind": "tool_calls", "tools": list(item.tools)}


def files() -> dict[str, str]:
    """File name -> its text, one question a line."""
    made = {"arithmetic.jsonl": arithmetic_questions(), "tools.jsonl": tool_questions()}
    return {
        name: "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions)
        for name, questions in made.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
