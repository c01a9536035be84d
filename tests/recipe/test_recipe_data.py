"""The recipe's data: split strictly, answered rightly, the same for the same seed."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from models.recipe.abilities.arithmetic import OPERATIONS, owned_chain
from models.recipe.abilities.facts import RELATIONS, all_facts
from models.recipe.abilities.json_objects import json_object
from models.recipe.abilities.repeat import repeat
from models.recipe.abilities.tools import one_call, two_calls
from models.recipe.abilities.values import ENUMS
from models.recipe.document import Document, prompt_text, render
from models.recipe.intervals import Share, paired_gain
from models.recipe.measures import majority
from models.recipe.mixture import documents
from models.recipe.question_files import files
from models.recipe.replacing import may_replace
from models.recipe.splits import Split


def drawn(make: object, split: Split, count: int = 300) -> list[Document]:
    source = random.Random(5)
    return [make(source, split) for _ in range(count)]  # type: ignore[operator]


def called_names(items: list[Document]) -> set[str]:
    return {name for item in items for name, _ in item.expected}


def test_the_same_seed_gives_the_same_documents() -> None:
    first, second, other = (list(itertools.islice(documents(seed), 500)) for seed in (3, 3, 4))
    assert first == second
    assert first != other


@pytest.mark.parametrize("make", [one_call, two_calls])
def test_held_out_tools_are_never_trained(make: object) -> None:
    assert not called_names(drawn(make, Split.TRAIN, 3000)) & called_names(drawn(make, Split.HELD_OUT))


def test_held_out_strings_are_never_trained() -> None:
    def values(split: Split) -> set[str]:
        items = drawn(one_call, split, 2000)
        found = (value for item in items for _, arguments in item.expected for value in arguments.values())
        return {value.lower() for value in found if isinstance(value, str)}

    options = {option for _, known in ENUMS for option in known}  # the tool's schema names them: nothing to hide
    assert values(Split.TRAIN) & values(Split.HELD_OUT) <= options


def test_held_out_problems_are_never_trained() -> None:
    source = random.Random(1)
    held_out = [owned_chain(source, Split.HELD_OUT, 4, 50).expression() for _ in range(200)]
    assert not any(Split.TRAIN.owns(expression) for expression in held_out)


def test_phrasings_are_split() -> None:
    for relation in RELATIONS:
        assert not set(relation.train) & set(relation.held_out), relation.name


def test_there_are_more_than_150_facts() -> None:
    assert len({(relation.name, subject) for relation, subject, _ in all_facts()}) >= 150


def test_chains_add_up_and_never_fall_below_zero() -> None:
    source = random.Random(2)
    for terms in (2, 5, 8):
        chain = owned_chain(source, Split.TRAIN, terms, 99, products=True)
        value = chain.first
        for step, (sign, term) in zip(chain.steps(), chain.rest, strict=True):
            left, _, result = step.partition("=")
            assert left == f"{value}{sign}{term}"
            value = OPERATIONS[sign](value, term)
            assert int(result) == value >= 0
        assert chain.worked().endswith(f"Answer: {value}")


def test_json_answers_are_json() -> None:
    for item in drawn(json_object, Split.TRAIN):
        assert json.loads(item.messages[-1]["content"]) == item.expected


def test_what_is_repeated_stands_in_the_request() -> None:
    for item in drawn(repeat, Split.HELD_OUT):
        assert item.expected in item.messages[0]["content"]


def test_loss_is_on_the_assistants_words_alone() -> None:
    for item in itertools.islice(documents(9), 300):
        pieces = render(item)
        assert sum(piece.target for piece in pieces) == sum(m["role"] == "assistant" for m in item.messages)
        assert all(piece.text.endswith("<|im_end|>") for piece in pieces if piece.target)
        assert prompt_text(item).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(("old", "new", "allowed"), [(0.8, 0.9, True), (0.9, 0.8, False), (0.8, 0.799, True)])
def test_a_better_model_is_not_replaced(old: float, new: float, allowed: bool) -> None:
    assert may_replace(old, new) is allowed


def test_the_first_of_equally_frequent_numbers_wins() -> None:
    assert majority([None, 4, 5, 5, 4]) == 4
    assert majority([None, None]) is None


def test_intervals_hold_their_share() -> None:
    low, high = Share(95, 100).interval
    assert 0.88 < low < 0.95 < high < 0.98
    gain = paired_gain([1.0] * 80 + [0.0] * 20, [1.0] * 60 + [0.0] * 40)
    assert gain.value == pytest.approx(0.2)
    assert gain.interval[0] > 0.1


def test_the_shipped_questions_are_what_the_recipe_makes() -> None:
    folder = Path(__file__).resolve().parents[2] / "swarm" / "evaluation" / "question_sets"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == files()
