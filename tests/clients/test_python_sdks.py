"""Frameworks of Python, in an environment of their own, at a node: each by a scenario of the folder python_sdks.

Every scenario tells the same things by the same names, so that one set of tests asks them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.played_node import MODEL, TEXT, TOOL_ANSWER, UNKNOWN_MODEL, PlayedNode, played_node
from tests.doubles.python_packages import python_of
from tests.doubles.scenario_process import python_scenario

FOLDER = Path(__file__).parent / "python_sdks"
CITY = {"city": "Paris", "degrees": 21}


@dataclass(frozen=True, slots=True)
class Way:
    """One way of a client's to ask: `prefix` of the scenario's cells."""

    client: str
    scenario: str
    prefix: str
    error: str = "NotFoundError"  # its own, of an unknown model

    def __str__(self) -> str:
        return f"{self.scenario}-{self.prefix}"


WAYS = (
    Way("openai-agents", "openai_agents", "chat"),
    Way("openai-agents", "openai_agents", "responses"),
)
# What each scenario needs so that it asks nobody but the node.
QUIET = {"openai_agents": {"OPENAI_AGENTS_DISABLE_TRACING": "1"}}


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node() as node:
        yield node


@pytest.fixture(scope="module")
def run(played: PlayedNode, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What a scenario told; each runs once."""
    python = python_of(FOLDER / "requirements.txt")

    @cache
    def told(scenario: str) -> Any:
        home = tmp_path_factory.mktemp(scenario)
        return python_scenario(python, FOLDER / f"{scenario}.py", played, home, QUIET.get(scenario))

    return told


@pytest.fixture
def told(run: Callable[[str], Any], request: pytest.FixtureRequest) -> Any:
    """Of the cell that the test and its way name."""
    way, cell = request.param
    found = run(way.scenario)[f"{way.prefix} {cell}"]
    assert not (isinstance(found, dict) and "raised" in found), found["raised"]
    return found


def every_way(proves: str, cell: str, *but: str) -> Any:
    """A test of each client's `cell`, those but `but`; it proves the column `proves` of the table."""
    cases = [
        pytest.param((way, cell), id=str(way), marks=pytest.mark.client(way.client, proves))
        for way in WAYS
        if str(way) not in but
    ]
    return pytest.mark.parametrize("told", cases, indirect=True)


@every_way("text", "text")
def test_a_question_is_answered_and_the_next_one_too(told: Any) -> None:
    assert told["text"] == TEXT
    assert told["again"] == "Hello."
    assert told["output_tokens"] > 3


@every_way("stream", "stream")
def test_an_answer_streams(told: Any) -> None:
    assert len(told["pieces"]) > 3
    assert "".join(told["pieces"]) == told["text"] == TEXT
    assert told["output_tokens"] > 3


@every_way("tools", "tools")
def test_a_tool_is_called_and_its_result_told(told: Any) -> None:
    assert told == {"cities": ["Paris"], "text": f"{TOOL_ANSWER}sunny in Paris"}


@every_way("tools", "streamed_tools")
def test_a_tool_is_called_while_it_streams(told: Any) -> None:
    assert (told["cities"], told["text"]) == (["Paris"], f"{TOOL_ANSWER}sunny in Paris")


@every_way("structured", "structured")
def test_an_object_is_made(told: Any) -> None:
    assert (told["type"], told["value"]) == ("City", CITY)
    assert told["asked"]["schema"] != bool(told["asked"]["tools"]), "by a schema, or by a call that has to be made"


@every_way("cancel", "cancel_stream")
def test_a_stream_that_is_left_frees_its_slot_while_the_program_lives_on(told: Any) -> None:
    assert told == "left"


@every_way("cancel", "cancel_whole")
def test_an_answer_that_is_no_longer_awaited_frees_its_slot(told: Any) -> None:
    assert told == "CancelledError"


@every_way("errors", "unknown_model")
def test_an_unknown_model_is_its_own_error_and_asked_for_once(told: Any) -> None:
    assert told["error"] == "NotFoundError"
    assert UNKNOWN_MODEL in told["message"]
    assert MODEL in told["message"], "those there are"
    assert told["times"] == 1


@every_way("errors", "busy")
def test_a_node_without_a_free_slot_is_asked_again(told: Any) -> None:
    assert told == {"text": "Hello.", "times": 1}
