"""shell-gpt (`sgpt`) at a node, told of it by its variables: text, streams, a function, Ctrl-C, an unknown model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.client_command import ClientCommand
from tests.doubles.played_node import (
    KEY,
    MODEL,
    TEXT,
    TEXT_TASK,
    TOOL_ANSWER,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)
from tests.doubles.python_packages import python_of

FOLDER = Path(__file__).parent / "shell_gpt"
PLAIN = ("--no-cache", "--no-md")
WEATHER = '''
from pydantic import BaseModel


class Function(BaseModel):
    """Weather of a city."""

    city: str

    @classmethod
    def execute(cls, city):
        return f"sunny in {city}"

    @classmethod
    def openai_schema(cls):
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        return {
            "type": "function",
            "function": {"name": "get_weather", "description": cls.__doc__, "parameters": parameters},
        }
'''


def proves(*cells: str) -> pytest.MarkDecorator:
    return pytest.mark.client("shell-gpt", *cells, folder=FOLDER.name)


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedNode]:
    with played_node() as node:
        yield node


@pytest.fixture(scope="module")
def sgpt(played: PlayedNode, tmp_path_factory: pytest.TempPathFactory) -> ClientCommand:
    home = tmp_path_factory.mktemp("sgpt")
    functions = home / ".config" / "shell_gpt" / "functions"
    functions.mkdir(parents=True)
    (functions / "get_weather.py").write_text(WEATHER)
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),  # where it keeps chats and answers
        "PYTHONUNBUFFERED": "1",
        "API_BASE_URL": f"{played.url}/v1",
        "OPENAI_API_KEY": KEY,
        "DEFAULT_MODEL": MODEL,
        "DISABLE_STREAMING": "false",  # what is said in the first run it writes down for all others
    }
    return ClientCommand(python_of(FOLDER / "requirements.txt").with_name("sgpt"), environment, PLAIN)


@proves("text")
def test_a_question_is_answered(sgpt: ClientCommand) -> None:
    ended = sgpt.run("--no-functions", TEXT_TASK, DISABLE_STREAMING="true")
    assert (ended.returncode, ended.stdout.strip()) == (0, TEXT), ended.stderr


@proves("stream", "cancel")
def test_words_come_at_once_and_a_key_ends_them(sgpt: ClientCommand, played: PlayedNode) -> None:
    assert sgpt.interrupted(played, "--no-functions") in (0, 130), (
        "of itself: to it this is one way for an answer to end"
    )


@proves("tools")
def test_a_function_is_called_and_its_result_told(sgpt: ClientCommand) -> None:
    ended = sgpt.run(TOOL_TASK)
    assert ended.returncode == 0, ended.stderr
    assert '@FunctionCall `get_weather(city="Paris")`' in ended.stdout
    assert ended.stdout.rstrip().endswith(f"{TOOL_ANSWER}sunny in Paris")


@proves("errors")
def test_an_unknown_model_is_told_in_the_nodes_words_and_asked_for_once(
    sgpt: ClientCommand, played: PlayedNode
) -> None:
    before = played.answered(404)
    ended = sgpt.run("--model", UNKNOWN_MODEL, TEXT_TASK)
    assert ended.returncode == 1
    said = " ".join(ended.stderr.split())
    assert "NotFoundError: Error code: 404" in said
    assert f"model '{UNKNOWN_MODEL}' is not served here" in said
    assert played.answered(404) == before + 1
