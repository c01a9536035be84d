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
    """One way of a client's to ask: `prefix` of the scenario's cells, of which it has none of `lacks`."""

    client: str
    scenario: str
    prefix: str
    error: str = "NotFoundError"  # of an unknown model
    lacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.scenario}-{self.prefix}"


AGENTS = ("partial_objects",)  # what whole agents have not
# instructor makes objects, of which it streams the parts: it has no loop of tools.
OBJECTS = {"error": "InstructorRetryException", "lacks": ("stream", "tools", "streamed_tools", "busy")}
WAYS = (
    Way("openai-agents", "openai_agents", "chat", lacks=AGENTS),
    Way("openai-agents", "openai_agents", "responses", lacks=AGENTS),
    Way("instructor", "with_instructor", "chat-tools", **OBJECTS),
    Way("instructor", "with_instructor", "chat-schema", **OBJECTS),
    Way("instructor", "with_instructor", "responses", **OBJECTS),
    Way("instructor", "with_instructor", "messages", **OBJECTS),
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
def told(run: Callable[[str], Any], way: Way, cell: str) -> Any:
    """What the scenario of that way gave for that cell."""
    found = run(way.scenario)[f"{way.prefix} {cell}"]
    assert not (isinstance(found, dict) and "raised" in found), found["raised"]
    return found


def every_way(proves: str, cell: str) -> Any:
    """A test of `cell` of every way that has it; it proves the column `proves` of the table."""
    cases = [
        pytest.param(way, cell, id=str(way), marks=pytest.mark.client(way.client, proves))
        for way in WAYS
        if cell not in way.lacks
    ]
    return pytest.mark.parametrize(("way", "cell"), cases)


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
    assert told["asked"]["schema"] or told["asked"]["tools"], "by a schema, or by a call that has to be made"


@every_way("stream", "partial_objects")
def test_an_object_streams_in_parts(told: Any) -> None:
    assert len(told) > 1
    assert told[0] != told[-1] == CITY


@every_way("cancel", "cancel_stream")
def test_a_stream_that_is_left_frees_its_slot_while_the_program_lives_on(told: Any) -> None:
    assert told == "left"


@every_way("cancel", "cancel_whole")
def test_an_answer_that_is_no_longer_awaited_frees_its_slot(told: Any) -> None:
    assert told == "CancelledError"


@every_way("errors", "unknown_model")
def test_an_unknown_model_is_its_own_error_and_asked_for_once(told: Any, way: Way) -> None:
    assert told["error"] == way.error
    assert UNKNOWN_MODEL in told["message"]
    assert MODEL in told["message"], "those there are"
    assert told["times"] == 1


@every_way("errors", "busy")
def test_a_node_without_a_free_slot_is_asked_again(told: Any) -> None:
    assert told == {"text": "Hello.", "times": 1}
