"""Open WebUI in front of a node, by OpenAI's API and by Ollama's: used in Chromium, as a person does."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from swarm.errors import ContextExceeded
from tests.doubles.npm_packages import npm_packages
from tests.doubles.played_engine import Conversation, Part, Say
from tests.doubles.played_node import (
    CONTEXT_TOKENS,
    ENDLESS,
    ENDLESS_TASK,
    KEY,
    OBJECT,
    OBJECT_TASK,
    TEXT,
    TEXT_TASK,
    TOOL_ANSWER,
    TOOL_TASK,
    PlayedNode,
    played_node,
    said_last,
    usual,
)
from tests.doubles.python_packages import python_of

pytestmark = pytest.mark.clients  # a gigabyte of packages

FOLDER = Path(__file__).parent / "open_webui"
BROWSER_PACKAGES = FOLDER.parents[1] / "page" / "package.json"  # Playwright, as for the page
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START_S = 180.0  # 10 s alone; it makes a database first
ANSWER_S = 60.0
LONG_TASK = "Read all of it."  # which is more than the context holds
LONG_TOKENS = CONTEXT_TOKENS + 1000
TOOLED = "with-tools"  # a model of Open WebUI's own: the node's with a tool
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
WEATHER = '''
class Tools:
    def get_weather(self, city: str) -> str:
        """
        Get the weather of a city.
        :param city: The city.
        """
        return f"21 degrees and sunny in {city}"
'''


def either_api(*cells: str) -> Callable[[Any], Any]:
    """A test that is run by both of the APIs, and proves `cells` of both clients."""
    ids = {"openai": "open-webui", "ollama": "open-webui-ollama"}
    return pytest.mark.parametrize(
        "api", [pytest.param(api, marks=pytest.mark.client(client, *cells)) for api, client in ids.items()]
    )


def with_a_long_task(never: asyncio.Event) -> Part:
    play = usual(never)

    def answer(conversation: Conversation) -> Any:
        if LONG_TASK in said_last(conversation) and "### Task" not in said_last(conversation):
            raise ContextExceeded(LONG_TOKENS, CONTEXT_TOKENS, param="messages")
        if "### Task" in said_last(conversation):  # a title, tags, questions to ask next: of each conversation
            return Say("{}")
        return play(conversation)

    return answer


class OpenWebUI:
    """The application, asked as its owner."""

    def __init__(self, home: Path, client: httpx.Client, token: str) -> None:
        self.client = client
        self._home = home
        self._token = token

    def use(self, api: str) -> None:
        """Ask the node by this API alone."""
        for each in ("openai", "ollama"):
            config = self.call(f"/{each}/config")
            self.call(f"/{each}/config/update", {**config, f"ENABLE_{each.upper()}_API": each == api})
        assert "swarm" in [model["id"] for model in self.call("/api/models?refresh=true")["data"]]

    def call(self, path: str, body: Any = None) -> Any:
        answer = self.client.get(path) if body is None else self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(self, text: str, until: str, model: str = "swarm", stop: bool = False) -> str:
        """What the page shows of the answer when it has the words `until`; and is then stopped, with its button."""
        assert CHROMIUM is not None
        task = json.dumps({"model": model, "text": text, "until": until, "stop": stop})
        command = ["node", "scenario.mjs", CHROMIUM, str(self.client.base_url), self._token, task]
        ended = subprocess.run(command, cwd=self._home, capture_output=True, text=True, timeout=ANSWER_S, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


@pytest.fixture(scope="module")
def node() -> Iterator[PlayedNode]:
    with played_node(with_a_long_task) as running:
        yield running


@pytest.fixture(scope="module")
def web(node: PlayedNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    if CHROMIUM is None and "CI" not in os.environ:
        pytest.skip("needs Chromium")
    assert CHROMIUM is not None, "CI installs Chromium"
    program = python_of(FOLDER / "requirements.txt").with_name("open-webui")
    home = tmp_path_factory.mktemp("open_webui")
    (home / "node_modules").symlink_to(npm_packages(BROWSER_PACKAGES))
    shutil.copy(FOLDER / "scenario.mjs", home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with group(command, home, variables(node, home)), httpx.Client(base_url=url, timeout=ANSWER_S) as client:
        wait_for(client, home / "said.txt")
        token = client.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
        client.headers["authorization"] = f"Bearer {token}"
        running = OpenWebUI(home, client, token)
        prepare(running)
        yield running


def variables(node: PlayedNode, home: Path) -> dict[str, str]:
    """What Open WebUI is told: where the node is, to be of one person, and to ask nobody else for anything."""
    where = {
        "OPENAI_API_BASE_URL": f"{node.url}/v1", "OPENAI_API_KEY": KEY, "OLLAMA_BASE_URL": node.url,
        "OLLAMA_API_CONFIGS": json.dumps({"0": {"enable": True, "key": KEY}}),
        "RAG_EMBEDDING_ENGINE": "openai", "RAG_EMBEDDING_MODEL": "swarm",
        "RAG_OPENAI_API_BASE_URL": f"{node.url}/v1", "RAG_OPENAI_API_KEY": KEY,
    }  # fmt: skip
    alone = {
        "OFFLINE_MODE": "True", "HF_HUB_OFFLINE": "1", "ENABLE_VERSION_UPDATE_CHECK": "False",
        "SCARF_NO_ANALYTICS": "true", "DO_NOT_TRACK": "true", "ANONYMIZED_TELEMETRY": "false",
    }  # fmt: skip
    own = {"WEBUI_AUTH": "False", "WEBUI_SECRET_KEY": "0" * 40, "DATA_DIR": str(home / "data"), "HOME": str(home)}
    return {"PATH": os.environ["PATH"], **where, **alone, **own}


@contextmanager
def group(command: list[str], home: Path, environment: dict[str, str]) -> Iterator[None]:
    """The program with all that it starts, until the block ends."""
    with (
        (home / "said.txt").open("wb") as said,
        subprocess.Popen(
            command, cwd=home, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield
        finally:
            kill_group(process.pid)


def kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def wait_for(client: httpx.Client, said: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with suppress(httpx.TransportError):
            if client.get("/health").status_code == 200:
                return
        assert time.monotonic() < deadline, said.read_text(errors="replace")


def prepare(web: OpenWebUI) -> None:
    """No news at the start, and a model that has a tool, as a person makes one by hand."""
    version = web.call("/api/version")["version"]
    web.call("/api/v1/users/user/settings/update", {"ui": {"version": version}})
    meta = {"description": "weather", "manifest": {}}
    web.call("/api/v1/tools/create", {"id": "weather", "name": "weather", "content": WEATHER, "meta": meta})
    model = {"id": TOOLED, "name": TOOLED, "base_model_id": "swarm", "params": {"function_calling": "native"}}
    web.call("/api/v1/models/create", {**model, "meta": {"toolIds": ["weather"], "capabilities": {}}})


@either_api("text")
def test_a_question_is_answered_on_the_page(web: OpenWebUI, node: PlayedNode, api: str) -> None:
    web.use(api)
    assert TEXT in web.ask(TEXT_TASK, TEXT)


@either_api("tools")
def test_a_tool_is_called_and_its_result_told(web: OpenWebUI, node: PlayedNode, api: str) -> None:
    web.use(api)
    shown = web.ask(TOOL_TASK, TOOL_ANSWER.strip(), TOOLED)
    assert "21 degrees and sunny in Paris" in shown


@either_api("structured")
def test_an_answer_keeps_to_a_schema(web: OpenWebUI, node: PlayedNode, api: str) -> None:
    """The page has no place for a schema; its API, which programs ask, hands it on."""
    web.use(api)
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}
    turn = {"role": "user", "content": OBJECT_TASK}
    model = "swarm"
    answer = web.call("/api/chat/completions", {"model": model, "messages": [turn], "response_format": wanted})
    assert json.loads(answer["choices"][0]["message"]["content"]) == json.loads(OBJECT)
    request = node.asked[-1]
    assert request.response_format is not None
    assert "degrees" in request.response_format.model_dump_json()


@either_api("stream", "cancel")
def test_words_come_as_they_are_made_and_the_stop_button_frees_the_slot(
    web: OpenWebUI, node: PlayedNode, api: str
) -> None:
    web.use(api)
    assert ENDLESS in web.ask(ENDLESS_TASK, ENDLESS, stop=True)
    node.until_idle()


@either_api("errors")
def test_the_nodes_words_are_shown_where_it_refuses(web: OpenWebUI, node: PlayedNode, api: str) -> None:
    web.use(api)
    before = len(node.asked)
    assert str(CONTEXT_TOKENS) in web.ask(LONG_TASK, str(LONG_TOKENS))
    asked = [request for request in node.asked[before:] if "### Task" not in str(request.messages)]
    assert len(asked) <= 2, "it makes a conversation that is too long shorter, and asks once more"
