"""promptfoo, which holds a model's answers against what is expected of them: an evaluation with assertions."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.commands.client_settings import client_entries
from tests.doubles.node_programs import REQUESTS, node_program, quiet_environment
from tests.doubles.npm_packages import npm_packages
from tests.doubles.played_node import (
    ENDLESS_TASK,
    KEY,
    MODEL,
    OBJECT_TASK,
    TEXT,
    TEXT_TASK,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)

pytestmark = pytest.mark.clients  # two gigabytes of packages

MANIFEST = Path(__file__).parent / "promptfoo" / "package.json"
NODE = (22, 22)  # it refuses to run with an older one
RUN_S = 240.0  # ten seconds on an idle machine
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# As its documents have it: no telemetry, no look for a newer version, nothing generated elsewhere. All the same it
# tells its maker that telemetry is off: that goes to a proxy that there is not.
QUIET = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
    "HTTPS_PROXY": "http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def node() -> Iterator[PlayedNode]:
    with played_node() as running:
        yield running


def provider(node: PlayedNode, label: str, model: str = MODEL, **config: Any) -> dict[str, Any]:
    said = {"apiBaseUrl": f"{node.url}/v1", "apiKey": KEY, **config}
    return {"id": f"openai:chat:{model}", "label": label, "config": said}


def case(label: str, task: str, *assertions: Mapping[str, Any]) -> dict[str, Any]:
    """A test of one provider."""
    return {"description": label, "vars": {"task": task}, "providers": [label], "assert": list(assertions)}


@contextmanager
def promptfoo(
    place: Path, providers: Sequence[Mapping[str, Any]] | str, tests: Sequence[Mapping[str, Any]], *more: str
) -> Iterator[subprocess.Popen[str]]:
    """`promptfoo eval` in `place`, with results in results.json and what it asked in requests.txt.

    `providers` may be text of its configuration file.
    """
    said = providers if isinstance(providers, str) else f"providers: {json.dumps(providers)}"
    config = [said, f"tests: {json.dumps(tests)}", 'prompts: ["{{task}}"]']
    (place / "promptfooconfig.yaml").write_text("\n".join(config))
    program = npm_packages(MANIFEST) / "promptfoo" / "dist" / "src" / "entrypoint.js"
    options = ("--no-cache", "--no-progress-bar", "--no-table", "-c", "promptfooconfig.yaml", "-o", "results.json")
    watched = {"NODE_OPTIONS": f"--import={REQUESTS}", "REQUESTS_FILE": str(place / "requests.txt")}
    running = subprocess.Popen(
        [node_program(NODE), str(program), "eval", *options, *more],
        cwd=place,
        env=quiet_environment(place / "home", **QUIET, **watched),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("promptfoo")


@pytest.fixture(scope="module")
def results(node: PlayedNode, place: Path) -> dict[str, Any]:
    """What came of each test, by its provider."""
    schema = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
    callback = "async (args) => `sunny in ${JSON.parse(args).city}`"
    providers = [
        provider(node, "plain"),
        provider(node, "object", response_format=schema),
        provider(node, "calls", tools=[WEATHER]),
        provider(node, "callback", tools=[WEATHER], functionToolCallbacks={"get_weather": callback}),
    ]
    tests = [
        case("plain", TEXT_TASK, {"type": "equals", "value": TEXT}, {"type": "latency", "threshold": 60_000}),
        case(
            "object", OBJECT_TASK, {"type": "javascript", "value": "output.city === 'Paris' && output.degrees === 21"}
        ),
        case("calls", TOOL_TASK, {"type": "is-valid-openai-tools-call"}),
        case("callback", TOOL_TASK, {"type": "equals", "value": "sunny in Paris"}),
    ]
    with promptfoo(place, providers, tests) as running:
        told, _ = running.communicate(timeout=RUN_S)
    assert running.returncode == 0, told
    return {
        each["provider"]["label"]: each
        for each in json.loads((place / "results.json").read_text())["results"]["results"]
    }


@pytest.mark.client("promptfoo", "text")
def test_an_assertion_about_a_text_passes(results: dict[str, Any]) -> None:
    assert results["plain"]["response"]["output"] == TEXT
    assert results["plain"]["success"]
    assert results["plain"]["response"]["tokenUsage"]["completion"] > 0


@pytest.mark.client("promptfoo", "structured")
def test_an_assertion_about_an_object_passes(results: dict[str, Any]) -> None:
    assert results["object"]["response"]["output"] == {"city": "Paris", "degrees": 21}
    assert results["object"]["success"]


def test_calls_of_tools_are_checked_and_run_once(results: dict[str, Any]) -> None:
    assert results["calls"]["success"], results["calls"]
    assert results["callback"]["success"], results["callback"]


@pytest.mark.client("promptfoo", "errors")
def test_an_unknown_model_ends_the_evaluation_in_the_nodes_words(node: PlayedNode, tmp_path: Path) -> None:
    before = node.answered(404)
    tests = [case("unknown", task, {"type": "equals", "value": TEXT}) for task in (TEXT_TASK, OBJECT_TASK)]
    with promptfoo(tmp_path, [provider(node, "unknown", UNKNOWN_MODEL)], tests, "--max-concurrency", "1") as running:
        told, _ = running.communicate(timeout=RUN_S)
    assert "Target returned HTTP 404" in told
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]["results"]
    assert f"model '{UNKNOWN_MODEL}' is not served here" in result["error"]
    assert node.answered(404) == before + 1


def test_nobody_but_the_node_is_reached(results: dict[str, Any], node: PlayedNode, place: Path) -> None:
    asked = (place / "requests.txt").read_text().split()
    others = [each for each in asked if not each.startswith(f"{node.url}/")]
    assert len(asked) - len(others) == len(results)
    assert set(others) <= {"https://r.promptfoo.app/", "r.promptfoo.app:443"}, "by the proxy that there is not"


@pytest.mark.client("promptfoo", "cancel")
def test_an_interrupted_evaluation_frees_its_slot(node: PlayedNode, tmp_path: Path) -> None:
    (entry,) = (each for each in client_entries() if each.id == "promptfoo")
    settings = "\n".join(entry.lines(node.url, KEY, MODEL, None))
    with promptfoo(tmp_path, settings, [{"vars": {"task": ENDLESS_TASK}}]) as running:
        node.until_busy()
        running.send_signal(signal.SIGINT)
        node.until_idle()
        running.communicate(timeout=RUN_S)
