"""What engines said of themselves is asked once, and again when the program or the machine is another."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.engines.engine import EnginePlaces
from swarm.engines.kept_answers import MAX_ANSWERS, MAX_FILE_BYTES, Answer, kept_answer


class Program:
    """A file, and who asks it: `asked` counts how often."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "program"
        self.file.write_text("first")
        self.asked = 0
        self.places = EnginePlaces(answers=folder / "engines.json", machine="RTX driver 1")

    def ask(self) -> Answer:
        self.asked += 1
        return {"asked": self.asked}

    def answer(self, question: str = "devices", most: int = MAX_ANSWERS) -> object:
        return kept_answer(self.places, self.file, question, self.ask, most)["asked"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_nothing_is_asked_twice(program: Program) -> None:
    assert [program.answer(), program.answer()] == [1, 1]
    assert program.answer("version") == 2, "another question is"
    assert program.places.answers is not None
    assert program.places.answers.stat().st_mode & 0o777 == 0o600


def test_what_changed_is_asked_again(program: Program) -> None:
    program.answer()
    program.file.write_text("another, of another size")
    assert program.answer() == 2
    os.utime(program.file, ns=(1, 1))
    assert program.answer() == 3
    program.places = replace(program.places, machine="RTX driver 2")
    assert [program.answer(), program.answer()] == [4, 4]


def test_what_cannot_be_kept_is_asked(program: Program) -> None:
    program.places = replace(program.places, answers=None)
    assert [program.answer(), program.answer()] == [1, 2]
    program.places = replace(program.places, answers=program.file / "no folder" / "engines.json")
    assert [program.answer(), program.answer()] == [3, 4]
    program.file.unlink()
    assert program.answer() == 5


def test_a_failure_is_not_kept(program: Program) -> None:
    def fail() -> Answer:
        raise OSError("it hung")

    with pytest.raises(OSError, match="it hung"):
        kept_answer(program.places, program.file, "devices", fail)
    assert program.answer() == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        "", "[]", "{}", '{"version": 2, "answers": {}}', '{"version": 1, "answers": []}', '{"version": 1}', "\0\xff",
        "[" * 100_000, " " * (MAX_FILE_BYTES + 1),
        '{"version": 1, "answers": {"devices %s": {"modified_ns": 0, "answer": {"asked": 9}}}}',
        '{"version": 1, "answers": {"devices %s": 7}}',
    ],
)  # fmt: skip
def test_a_spoilt_file_costs_the_time_to_ask(program: Program, spoilt: str) -> None:
    assert program.places.answers is not None
    program.places.answers.write_text(spoilt.replace("%s", str(program.file)))
    assert [program.answer(), program.answer()] == [1, 1]


def test_only_so_much_is_kept(program: Program) -> None:
    assert program.places.answers is not None
    answers = [program.answer(str(number), most=3) for number in range(5)]
    assert len(json.loads(program.places.answers.read_text())["answers"]) == 3
    assert [program.answer(str(number)) for number in (2, 3, 4)] == answers[2:], "the last stay"
