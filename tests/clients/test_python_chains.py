"""LangChain, LangGraph and LlamaIndex at a node, over OpenAI's API and Ollama's, in an environment of their own.

Each is a scenario of the folder python_chains, and most tell the same things by the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.played_node import KEY, MODEL, TEXT, TOOL_ANSWER, UNKNOWN_MODEL, PlayedNode, played_node
from tests.doubles.python_packages import python_of
from tests.doubles.scenario_process import python_scenario

FOLDER = Path(__file__).parent / "python_chains"
CITY = {"city": "Paris", "degrees": 21}
OPENAI_ERROR = "langchain_openai.chat_models.base.OpenAIModelNotFoundError"
OLLAMA_ERROR = "ollama._types.ResponseError"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of a client's to ask: `prefix` of the scenario's cells. Those in `cannot` it does not have."""

    client: str
    scenario: str
    prefix: str
    error: str  # its own, of an unknown model
    structured: Sequence[str]  # its cells of an object
    cannot: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.client}-{self.prefix}"


METHODS = ("structured json_schema", "structured function_calling", "structured json_mode")
GRAPH_CANNOT = ("cancel_stream", "streamed_unknown_model")
WAYS = (
    Way("langchain-openai", "langchain_openai_models", "chat", OPENAI_ERROR, METHODS),
    Way("langchain-openai", "langchain_openai_models", "responses", OPENAI_ERROR, METHODS[:2]),
    Way("langchain-ollama", "langchain_ollama_models", "ollama", OLLAMA_ERROR, METHODS),
    Way("langgraph", "langgraph_agents", "graph", OPENAI_ERROR, (), GRAPH_CANNOT),
    Way("langgraph", "langgraph_agents", "react", OPENAI_ERROR, (), GRAPH_CANNOT),
    Way(
        "langgraph",
        "langgraph_agents",
        "agent",
        OPENAI_ERROR,
        ("structured by the server", "structured by a tool"),
        GRAPH_CANNOT,
    ),
)
# They write down what was asked at their makers' only where somebody has set a key for it; the tests set none.
SCENARIOS = sorted({(way.client, way.scenario) for way in WAYS})

Cell = Callable[[str, str], Any]  # of a scenario, by its name


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node() as node:
        yield node


@pytest.fixture(scope="module")
def cell_of(played: PlayedNode, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """What a cell of a scenario gave; each scenario runs once."""
    python = python_of(FOLDER / "requirements.txt")

    @cache
    def run(scenario: str) -> Any:
        home = tmp_path_factory.mktemp(scenario)
        return python_scenario(python, FOLDER / f"{scenario}.py", played, home)

    def cell(scenario: str, name: str) -> Any:
        found = run(scenario)[name]
        if isinstance(found, dict):
            assert "raised" not in found, found["raised"]
        return found  # type: ignore[reportUnknownVariableType]

    return cell


def every_way(proves: str, *cells: str) -> Any:
    """A test of those of a way's `cells` that it has; each proves the column `proves` of the table."""
    cases = [
        pytest.param(way, cell, id=f"{way}-{cell}", marks=pytest.mark.client(way.client, proves))
        for way in WAYS
        for cell in cells or way.structured
        if cell not in way.cannot
    ]
    return pytest.mark.parametrize(("way", "cell"), cases)


@every_way("text", "text")
def test_a_question_is_answered_and_the_next_one_too(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, f"{way.prefix} {cell}")
    assert (told["text"], told["again"]) == (TEXT, "Hello.")
    assert told["output_tokens"] > 3


@every_way("stream", "stream")
def test_an_answer_streams(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, f"{way.prefix} {cell}")
    assert len(told["pieces"]) > 3
    assert "".join(told["pieces"]) == told["text"] == TEXT


@every_way("tools", "tools", "streamed_tools")
def test_a_tool_is_called_and_its_result_told(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, f"{way.prefix} {cell}")
    assert (told["cities"], told["text"]) == (["Paris"], f"{TOOL_ANSWER}sunny in Paris")


@every_way("structured")
def test_an_object_is_made_and_the_model_was_bound_to_it(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, f"{way.prefix} {cell}")
    assert (told["type"], told["value"]) == ("City", CITY)
    assert told["asked"]["schema"] != bool(told["asked"]["tools"]), "by a format, or by a call that has to be made"


@every_way("cancel", "cancel_stream", "cancel_async", "cancel_whole")
def test_who_leaves_frees_the_slot_while_the_program_lives_on(cell_of: Cell, way: Way, cell: str) -> None:
    assert cell_of(way.scenario, f"{way.prefix} {cell}") == "left"


@every_way("errors", "unknown_model", "streamed_unknown_model")
def test_an_unknown_model_is_a_typed_error_and_asked_for_once(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, f"{way.prefix} {cell}")
    assert told["error"] == way.error
    assert UNKNOWN_MODEL in told["message"]
    assert told["times"] == 1


@pytest.mark.parametrize(("client", "scenario"), SCENARIOS)
def test_no_host_but_the_node_is_reached_for(cell_of: Cell, client: str, scenario: str) -> None:
    assert cell_of(scenario, "strangers") == [], f"{client} phones home"


@pytest.mark.parametrize("way", ["graph", "react", "agent"])
def test_a_graph_tells_its_states_beside_the_words(cell_of: Cell, way: str) -> None:
    assert cell_of("langgraph_agents", f"{way} stream")["states"] == [1, 2], "the question; and the answer"
    assert cell_of("langgraph_agents", f"{way} text")["turns"] == 4, "its memory has both"


@pytest.mark.parametrize("scenario", ["langchain_openai_models", "langchain_ollama_models"])
def test_vectors_come_by_langchains_own_classes(cell_of: Cell, scenario: str) -> None:
    told = cell_of(scenario, "embeddings")
    assert told["same"]
    assert len(told["lengths"]) == 2
    assert all(told["lengths"])


@pytest.mark.client("langchain-ollama", "tools", "structured")
def test_langchains_agent_runs_over_ollamas_api(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "agent")
    assert told == {"cities": ["Paris"], "text": f"{TOOL_ANSWER}sunny in Paris", "value": CITY}


@pytest.mark.client("langchain-ollama", "text", "stream")
def test_a_prompt_is_continued_by_ollamas_generate(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "prompt")
    assert told["text"] == "".join(told["pieces"]) == TEXT
    assert len(told["pieces"]) > 3


@pytest.mark.client("langchain-ollama", "errors")
def test_a_model_is_validated_by_the_list_of_models(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "validated")
    assert told["text"] == TEXT
    assert "ValidationError" in told["unknown"]["error"]
    assert f"Available local models: swarm, {MODEL}" in told["unknown"]["message"]


@pytest.mark.client("langchain-ollama", "errors")
def test_a_key_that_is_missing_is_asked_for_in_words(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "without_key")
    assert told["error"] == OLLAMA_ERROR
    assert "Authorization: Bearer KEY" in told["message"]
    assert KEY not in told["message"]
    assert told["times"] == 1
