"""LangChain, LangGraph and LlamaIndex at a node, over OpenAI's API and Ollama's, in an environment of their own.

Each is a scenario of the folder python_chains, and most tell the same things by the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.doubles.played_node import (
    CONTEXT_TOKENS,
    KEY,
    MODEL,
    TEXT,
    TOOL_ANSWER,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)
from tests.doubles.python_packages import python_of
from tests.doubles.scenario_process import python_scenario

FOLDER = Path(__file__).parent / "python_chains"
CITY = {"city": "Paris", "degrees": 21}
OPENAI_ERROR = "langchain_openai.chat_models.base.OpenAIModelNotFoundError"
OLLAMA_ERROR = "ollama._types.ResponseError"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of a client's to ask: `prefix` of its scenario's cells, and which there are where ways differ."""

    client: str
    scenario: str
    prefix: str
    error: str  # its own, of an unknown model
    structured: Sequence[str]
    cancel: Sequence[str] = ("cancel_stream", "cancel_async", "cancel_whole")
    errors: Sequence[str] = ("unknown_model", "streamed_unknown_model")
    text: Sequence[str] = ("text",)
    stream: Sequence[str] = ("stream",)
    tools: Sequence[str] = ("tools", "streamed_tools")

    def __str__(self) -> str:
        return f"{self.client}-{self.prefix}"


def langchain(client: str, scenario: str, prefix: str, error: str, *methods: str) -> Way:
    return Way(client, scenario, prefix, error, [f"structured {method}" for method in methods])


def langgraph(prefix: str, *structured: str) -> Way:
    """A graph that runs without `async` lets nobody leave before the answer has ended."""
    cancel = ("cancel_async", "cancel_whole")
    return Way("langgraph", "langgraph_agents", prefix, OPENAI_ERROR, structured, cancel, ("unknown_model",))


def llama_index(client: str, prefix: str, error: str, *structured: str) -> Way:
    cancel = ("cancel_stream", "cancel_async", "cancel_whole", "cancel_agent")
    return Way(
        client, "llama_index_models", prefix, error, ("structured_llm", "structured_predict", *structured), cancel
    )


SCHEMA, CALL, JSON = "json_schema", "function_calling", "json_mode"  # LangChain's words for how an object is asked for
WAYS = (
    langchain("langchain-openai", "langchain_openai_models", "chat", OPENAI_ERROR, SCHEMA, CALL, JSON),
    langchain("langchain-openai", "langchain_openai_models", "responses", OPENAI_ERROR, SCHEMA, CALL),
    langchain("langchain-ollama", "langchain_ollama_models", "ollama", OLLAMA_ERROR, SCHEMA, CALL, JSON),
    langgraph("graph"),
    langgraph("react", "structured"),
    langgraph("agent", "structured by the server", "structured by a tool"),
    llama_index("llama-index", "openai_like", "openai.NotFoundError", "structured_by_format"),
    llama_index("llama-index-ollama", "ollama", OLLAMA_ERROR),
)
# LangSmith is told what was asked only where somebody has set LANGSMITH_TRACING and a key: here nobody has.
SCENARIOS = sorted({way.scenario for way in WAYS})

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


def every_way(proves: Literal["text", "stream", "tools", "structured", "cancel", "errors"]) -> Any:
    """A test of each cell that ways have of the column `proves` of the table."""
    cases: list[Any] = []
    for way in WAYS:
        mark = pytest.mark.client(way.client, proves, folder=FOLDER.name)
        for cell in getattr(way, proves):
            name = f"{way.prefix} {cell}"
            cases.append(pytest.param(way, name, id=f"{way.client}-{name}", marks=mark))
    return pytest.mark.parametrize(("way", "cell"), cases)


@every_way("text")
def test_a_question_is_answered_and_the_next_one_too(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, cell)
    assert (told["text"], told["again"]) == (TEXT, "Hello.")
    assert told["output_tokens"] > 3


@every_way("stream")
def test_an_answer_streams(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, cell)
    assert len(told["pieces"]) > 3
    assert "".join(told["pieces"]) == told["text"] == TEXT


@every_way("tools")
def test_a_tool_is_called_and_its_result_told(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, cell)
    assert (told["cities"], told["text"]) == (["Paris"], f"{TOOL_ANSWER}sunny in Paris")


@every_way("structured")
def test_an_object_is_made_and_the_model_was_bound_to_it(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, cell)
    assert (told["type"], told["value"]) == ("City", CITY)
    assert told["asked"]["schema"] != bool(told["asked"]["tools"]), "by a format, or by a call that has to be made"


@every_way("cancel")
def test_who_leaves_frees_the_slot_while_the_program_lives_on(cell_of: Cell, way: Way, cell: str) -> None:
    assert cell_of(way.scenario, cell) == "left"


@every_way("errors")
def test_an_unknown_model_is_a_typed_error_and_asked_for_once(cell_of: Cell, way: Way, cell: str) -> None:
    told = cell_of(way.scenario, cell)
    assert told["error"] == way.error
    assert UNKNOWN_MODEL in told["message"]
    assert told["times"] == 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_host_but_the_node_is_reached_for(cell_of: Cell, scenario: str) -> None:
    assert cell_of(scenario, "strangers") == []


@pytest.mark.parametrize("way", ["graph", "react", "agent"])
def test_a_graph_tells_its_states_beside_the_words(cell_of: Cell, way: str) -> None:
    assert cell_of("langgraph_agents", f"{way} stream")["states"] == [1, 2], "the question; and the answer"
    assert cell_of("langgraph_agents", f"{way} text")["turns"] == 4, "its memory has both"


@pytest.mark.parametrize("scenario", ["langchain_openai_models", "langchain_ollama_models", "llama_index_models"])
def test_vectors_come_by_each_ones_own_classes(cell_of: Cell, scenario: str) -> None:
    told = cell_of(scenario, "embeddings")
    assert told["same"]
    assert len(told["lengths"]) == 2
    assert all(told["lengths"])


@pytest.mark.client("langchain-ollama", "tools", "structured", folder=FOLDER.name)
def test_langchains_agent_runs_over_ollamas_api(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "agent")
    assert told == {"cities": ["Paris"], "text": f"{TOOL_ANSWER}sunny in Paris", "value": CITY}


@pytest.mark.client("langchain-ollama", "text", "stream", folder=FOLDER.name)
def test_a_prompt_is_continued_by_ollamas_generate(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "prompt")
    assert told["text"] == "".join(told["pieces"]) == TEXT
    assert len(told["pieces"]) > 3


@pytest.mark.client("langchain-ollama", "errors", folder=FOLDER.name)
def test_a_model_is_validated_by_the_list_of_models(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "validated")
    assert told["text"] == TEXT
    assert "ValidationError" in told["unknown"]["error"]
    assert f"Available local models: swarm, {MODEL}" in told["unknown"]["message"]


@pytest.mark.client("langchain-ollama", "errors", folder=FOLDER.name)
def test_a_key_that_is_missing_is_asked_for_in_words(cell_of: Cell) -> None:
    told = cell_of("langchain_ollama_models", "without_key")
    assert told["error"] == OLLAMA_ERROR
    assert "Authorization: Bearer KEY" in told["message"]
    assert KEY not in told["message"]
    assert told["times"] == 1


@pytest.mark.client("llama-index-ollama", "text", folder=FOLDER.name)
def test_llama_index_asks_the_node_for_the_models_context(cell_of: Cell) -> None:
    assert cell_of("llama_index_models", "shown") == CONTEXT_TOKENS
