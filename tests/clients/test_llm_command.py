"""Simon Willison's `llm` at a node: as a user configures and runs it, and with its plugin `llm-ollama`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from swarm.commands.client_settings import client_entries
from tests.doubles.client_command import ClientCommand
from tests.doubles.played_node import (
    CONTEXT_TOKENS,
    KEY,
    MODEL,
    OBJECT,
    OBJECT_TASK,
    TEXT,
    TEXT_TASK,
    TOOL_ANSWER,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)
from tests.doubles.python_packages import python_of

FOLDER = Path(__file__).parent / "llm_command"
WEATHER = """
def get_weather(city: str) -> str:
    "Weather of a city."
    return f"sunny in {city}"
"""
# What a user types after -m, by the client that it is.
NAMES = {"llm": "swarm", "llm-ollama": f"ollama/{MODEL}"}


def each(cell: str, *more: str) -> pytest.MarkDecorator:
    """A test of the command alone, and of the one with the plugin."""
    return pytest.mark.parametrize(
        "model",
        [
            pytest.param(name, id=client, marks=pytest.mark.client(client, cell, *more, folder=FOLDER.name))
            for client, name in NAMES.items()
        ],
    )


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node() as node:
        yield node


@pytest.fixture(scope="module")
def llm(played: PlayedNode, tmp_path_factory: pytest.TempPathFactory) -> ClientCommand:
    """Configured as docs/clients/ says, and for one model more, which the node does not have."""
    home = tmp_path_factory.mktemp("llm")
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "OLLAMA_HOST": played.url,
        "OLLAMA_API_KEY": KEY,
    }
    command = ClientCommand(python_of(FOLDER / "requirements.txt").with_name("llm"), environment)
    (entry,) = [entry for entry in client_entries() if entry.id == "llm"]
    lines = entry.lines(played.url, KEY, MODEL, CONTEXT_TOKENS)
    gone = [line.replace("model_id: swarm", "model_id: gone").replace(MODEL, UNKNOWN_MODEL) for line in lines]
    folder = Path(command.said("logs", "path")).parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text("\n".join([*lines, *gone, ""]))
    command.said("keys", "set", "swarm", "--value", KEY)
    return command


@each("text")
def test_a_question_is_answered(llm: ClientCommand, model: str) -> None:
    assert llm.said("-m", model, "--no-stream", TEXT_TASK) == TEXT


@each("text", "stream")
def test_an_answer_streams_and_its_tokens_are_counted(llm: ClientCommand, model: str) -> None:
    ended = llm.run("-m", model, "--usage", TEXT_TASK)
    assert ended.stdout.strip() == TEXT
    assert "6 output" in ended.stderr


@each("stream", "cancel")
def test_words_come_at_once_and_a_key_ends_them(llm: ClientCommand, played: PlayedNode, model: str) -> None:
    assert llm.interrupted(played, "-m", model) == 1


@each("tools")
def test_a_function_is_called_and_its_result_told(llm: ClientCommand, model: str) -> None:
    ended = llm.run("-m", model, "--functions", WEATHER, "--tools-debug", TOOL_TASK)
    assert ended.stdout.strip() == f"{TOOL_ANSWER}sunny in Paris"
    assert "get_weather({'city': 'Paris'})" in ended.stderr


@each("structured")
def test_an_answer_keeps_a_schema(llm: ClientCommand, played: PlayedNode, model: str) -> None:
    made = llm.said("-m", model, "--schema", "city, degrees int", OBJECT_TASK)
    assert json.loads(made) == json.loads(OBJECT)
    assert played.asked[-1].response_format is not None


@pytest.mark.client("llm", "errors", folder=FOLDER.name)
def test_an_unknown_model_is_told_in_the_nodes_words_and_asked_for_once(llm: ClientCommand, played: PlayedNode) -> None:
    before = played.answered(404)
    ended = llm.run("-m", "gone", TEXT_TASK)
    assert ended.returncode == 1
    assert f"model '{UNKNOWN_MODEL}' is not served here; available: {MODEL}, swarm" in ended.stderr
    assert played.answered(404) == before + 1


@pytest.mark.client("llm-ollama", "errors", folder=FOLDER.name)
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", f"ollama/{UNKNOWN_MODEL}"], f"Unknown model: ollama/{UNKNOWN_MODEL}"),
        (["-m", f"ollama/{MODEL}", "-o", "temperature", "99"], "options.temperature: Input should be less than"),
    ],
    ids=["by the plugin", "by the node"],
)
def test_the_plugin_tells_what_is_wrong(llm: ClientCommand, words: Sequence[str], told: str) -> None:
    ended = llm.run(*words, TEXT_TASK)
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_plugin_lists_what_the_node_has(llm: ClientCommand) -> None:
    """Each as a model of its own: the plugin takes those of one digest for one."""
    listed = [line for line in llm.said("models", "list").splitlines() if "ollama/" in line]
    assert sorted(listed) == [f"Ollama: ollama/{name}" for name in (MODEL, "swarm")]
    table = [line.split() for line in llm.said("ollama", "models").splitlines()]
    assert [row[0] for row in table[1:]] == [MODEL, "swarm"]
    assert all("tools" in row for row in table[1:])
