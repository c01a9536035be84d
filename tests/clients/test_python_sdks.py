"""Frameworks of Python, in environments of their own, at a node: each by a scenario of one of the folders here.

Every scenario tells the same things by the same names, so that one set of tests asks them all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.echo import message_text
from tests.doubles.played_engine import Conversation, Part, Say, call
from tests.doubles.played_node import (
    MODEL,
    TEXT,
    TOOL_ANSWER,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
    said_last,
    usual,
)
from tests.doubles.python_packages import python_of
from tests.doubles.scenario_process import python_scenario

CLIENTS = Path(__file__).parent
OBSERVATION = "Observation:"  # how smolagents hands on what a tool said, in a user's turn
NEXT_TASK = "New task:"
CITY = {"city": "Paris", "degrees": 21}


@dataclass(frozen=True, slots=True)
class Way:
    """One way of a client's to ask: `prefix` of the scenario's cells, of which it has none of `lacks`."""

    client: str
    scenario: str
    prefix: str
    error: str = "NotFoundError"  # of an unknown model
    lacks: tuple[str, ...] = ()
    folder: str = "python_sdks"  # where the scenario lies, with the requirements of its environment
    heavy: bool = False  # hundreds of MB for one client

    def __str__(self) -> str:
        return f"{self.scenario}-{self.prefix}"


MODEL_ALONE = ("tools", "streamed_tools", "cancel_whole", "unknown_model", "busy", "partial_objects")
BLOCKING = ("structured", "partial_objects", "cancel_stream", "cancel_whole")
VOTED_ON = (*BLOCKING, "busy")
AGENTS = ("partial_objects",)  # what whole agents have not
EVALUATIONS = (*AGENTS, "streamed_tools")
# instructor makes objects, of which it streams the parts: it has no loop of tools.
OBJECTS = {"error": "InstructorRetryException", "lacks": ("stream", "tools", "streamed_tools", "busy")}
WAYS = (
    Way("openai-agents", "openai_agents", "chat", lacks=AGENTS),
    Way("openai-agents", "openai_agents", "responses", lacks=AGENTS),
    Way("instructor", "with_instructor", "chat-tools", **OBJECTS),
    Way("instructor", "with_instructor", "chat-schema", **OBJECTS),
    Way("instructor", "with_instructor", "responses", **OBJECTS),
    Way("instructor", "with_instructor", "messages", **OBJECTS),
    Way("smolagents", "with_smolagents", "calls", error="AgentGenerationError", lacks=VOTED_ON),
    Way("smolagents", "with_smolagents", "code", error="AgentGenerationError", lacks=BLOCKING),
    Way("smolagents", "with_smolagents", "code-by-schema", error="AgentGenerationError", lacks=VOTED_ON),
    Way("smolagents", "with_smolagents", "model", lacks=MODEL_ALONE),
    Way("haystack", "with_haystack", "chat", lacks=AGENTS),
    Way("haystack", "with_haystack", "responses", lacks=AGENTS),
    Way("haystack", "with_haystack", "messages", lacks=AGENTS),
    Way("haystack-ollama", "with_haystack", "ollama", error="ResponseError", lacks=AGENTS),
    Way("agno", "with_agno", "chat", error="RunStatus.error", lacks=AGENTS),
    Way("agno", "with_agno", "responses", error="RunStatus.error", lacks=AGENTS),
    Way("agno", "with_agno", "messages", error="RunStatus.error", lacks=AGENTS),
    # Over Ollama's API this one and the next ask once, whatever comes back.
    Way("agno-ollama", "with_agno", "ollama", error="RunStatus.error", lacks=(*AGENTS, "busy")),
    Way("strands", "with_strands", "chat", lacks=AGENTS, folder="strands"),
    Way("strands", "with_strands", "responses", lacks=AGENTS, folder="strands"),
    Way("strands", "with_strands", "messages", lacks=AGENTS, folder="strands"),
    Way("strands-ollama", "with_strands", "ollama", "ResponseError", (*AGENTS, "busy"), "strands"),
    Way("inspect-ai", "with_inspect", "chat", "error", EVALUATIONS, "inspect_ai", heavy=True),
    Way("inspect-ai", "with_inspect", "messages", "error", EVALUATIONS, "inspect_ai", heavy=True),
)
FOLDERS = {way.scenario: way.folder for way in WAYS}
HEAVY = {way.scenario for way in WAYS if way.heavy}
# What each scenario needs so that it asks nobody but the node.
QUIET = {
    "openai_agents": {"OPENAI_AGENTS_DISABLE_TRACING": "1"},
    "with_inspect": {"INSPECT_DISPLAY": "none"},
    "with_haystack": {"HAYSTACK_TELEMETRY_ENABLED": "False"},
}


def as_each_wants(never: asyncio.Event) -> Part:
    """What models usually do, said to smolagents' agents as those want it: as a call of their last tool, or as code."""
    play_usually = usual(never)

    def play(conversation: Conversation) -> Say:
        said = said_last(conversation).rpartition(NEXT_TASK)[2]
        say = play_usually(conversation)
        if say.gate is not None or not is_of_smolagents(conversation):
            return say
        if not conversation.tools:
            weather = 'weather = get_weather(city="Paris")'
            asked = TOOL_TASK in said
            code = f"{weather}\nfinal_answer({TOOL_ANSWER!r} + weather)" if asked else f"final_answer({say.text!r})"
            thought = "I write a program."
            if conversation.answer_schema:
                return Say(json.dumps({"thought": thought, "code": code}))
            return Say(f"Thought: {thought}\n<code>\n{code}\n</code>")
        if OBSERVATION in said:
            return call("final_answer", answer=TOOL_ANSWER + said.partition(OBSERVATION)[2].strip())
        return say if say.calls else call("final_answer", answer=say.text)

    return play


def is_of_smolagents(conversation: Conversation) -> bool:
    """Whether it has the tool by which its agents answer: among its tools, or as a function in its instructions."""
    instructions = (message_text(each) for each in conversation.messages if each.get("role") == "system")
    return "final_answer" in conversation.tools or any("final_answer(" in each for each in instructions)


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node(as_each_wants) as node:
        yield node


@pytest.fixture(scope="module")
def run(played: PlayedNode, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What a scenario told; each runs once."""

    @cache
    def told(scenario: str) -> Any:
        home, folder = tmp_path_factory.mktemp(scenario), CLIENTS / FOLDERS[scenario]
        python = python_of(folder / "requirements.txt")
        return python_scenario(python, folder / f"{scenario}.py", played, home, QUIET.get(scenario))

    return told


@pytest.fixture
def told(run: Callable[[str], Any], way: Way, cell: str) -> Any:
    """What the scenario of that way gave for that cell."""
    found = run(way.scenario)[f"{way.prefix} {cell}"]
    assert not (isinstance(found, dict) and "raised" in found), found["raised"]
    return found


def only_when_wanted(scenario: str) -> list[pytest.MarkDecorator]:
    """The mark of those that ./scripts/test leaves out, where it is one."""
    return [pytest.mark.clients] if scenario in HEAVY else []


def every_way(proves: str, cell: str) -> Any:
    """A test of `cell` of every way that has it; it proves the column `proves` of the table."""
    cases = [
        pytest.param(
            way, cell, id=str(way), marks=[pytest.mark.client(way.client, proves), *only_when_wanted(way.scenario)]
        )
        for way in WAYS
        if cell not in way.lacks
    ]
    return pytest.mark.parametrize(("way", "cell"), cases)


@pytest.mark.parametrize("scenario", [pytest.param(each, marks=only_when_wanted(each)) for each in FOLDERS])
def test_nobody_but_the_node_is_asked(run: Callable[[str], Any], scenario: str) -> None:
    assert run(scenario)["strangers"] == []


@every_way("text", "text")
def test_a_question_is_answered_and_the_next_one_too(told: Any) -> None:
    assert told["text"] == TEXT
    assert told["again"] == "Hello."
    assert told["output_tokens"] > 1


@every_way("stream", "stream")
def test_an_answer_streams(told: Any) -> None:
    assert told["streamed"] > 1, "in pieces"
    assert told["text"] == TEXT
    assert told["output_tokens"] > 1


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


@pytest.mark.client("smolagents", "cancel")
@pytest.mark.parametrize("kind", ["calls", "code", "code-by-schema"])
def test_a_run_of_smolagents_that_is_left_frees_its_slot_when_python_collects_it(
    run: Callable[[str], Any], kind: str
) -> None:
    assert run("with_smolagents")[f"{kind} abandoned_run"] == "generator ignored GeneratorExit"


@every_way("cancel", "cancel_whole")
def test_an_answer_that_is_no_longer_awaited_frees_its_slot(told: Any) -> None:
    assert told == "CancelledError"


@every_way("errors", "unknown_model")
def test_an_unknown_model_is_its_own_error_and_asked_for_once(told: Any, way: Way) -> None:
    assert told["error"] == way.error
    assert UNKNOWN_MODEL in told["message"]
    assert MODEL in told["message"] or "/api/tags" in told["message"], "those there are"
    assert told["times"] == 1


@every_way("errors", "busy")
def test_a_node_without_a_free_slot_is_asked_again(told: Any) -> None:
    assert told == {"text": "Hello.", "times": 1}
