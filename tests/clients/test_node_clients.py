"""Clients of Node at a node whose model plays its part: each does by its own helpers what the table's cells say.

They are made as their pages say, by the settings of clients.toml.

A client is a scenario, `tests/clients/SCRIPT`, which runs once and tells what it saw of each of its APIs:
`text`, `pieces` of a stream, what came of a loop with a tool (`tool`, `streamedTool`) and of a schema (`object`,
`streamedObject`), how an unknown model failed (`refusal`, `streamedRefusal`), and each stream that it `left`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from swarm.commands.client_settings import client_entries
from swarm.generation import GenerationRequest
from tests.doubles.node_programs import node_scenario
from tests.doubles.played_node import (
    ENDLESS,
    MODEL,
    OBJECT_TASK,
    TEXT,
    THOUGHT,
    TOOL_ANSWER,
    UNKNOWN_MODEL,
    PlayedNode,
    played_node,
)

HERE = Path(__file__).parent
PARIS = {"city": "Paris", "degrees": 21}
WEATHER = TOOL_ANSWER + "sunny, 21 degrees"


VECTOR = 8  # numbers that the played model's vectors have
AI_SDK = ("chat", "messages", "responses")


@dataclass(frozen=True, slots=True)
class NodeClient:
    """A client: which scenario it is, which APIs that tells of, and how the client calls an unknown model.

    `folder` has its package.json. `words`: where its errors have the node's words; `status`: what they tell of HTTP,
    None where they do not. `heavy`: hundreds of megabytes, run by ./scripts/test --clients alone. `more` is what its
    scenario tells of what is in no cell.
    """

    id: str
    script: str
    apis: tuple[str, ...]
    refusal: str
    folder: str = "node_sdks"
    words: str = "message"
    status: int | str | None = 404
    heavy: bool = False
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])


ENTRIES = {entry.id: entry for entry in client_entries()}
LISTED = {"models": ["swarm", MODEL]}
VOTED = {"voted": [3]}  # how many votes each API's account says were wanted
PATIENT = {**LISTED, "busy": ["Hello.", 2]}  # the second time it was answered
OLLAMA = {
    **LISTED,
    **VOTED,
    "thought": [THOUGHT, TEXT],
    "generated": {"text": TEXT, "reason": "stop", "pieces": TEXT, "object": PARIS, "left": [ENDLESS, ENDLESS]},
    "embedded": [VECTOR, VECTOR],
    "running": [MODEL],
    "refusals": {"create": 400, "delete": 400, "withoutKey": 401},
}
CLIENTS = (
    NodeClient(
        "openai-node", "node_sdks/openai.mjs", ("chat", "responses"), "NotFoundError",
        more={**PATIENT, "vectors": [VECTOR, VECTOR], "voted": [3, 3]},
    ),
    NodeClient(
        "anthropic-node", "node_sdks/anthropic.mjs", ("messages",), "NotFoundError",
        more={**PATIENT, **VOTED, "tokens": 7, "threaded": [TEXT, TEXT]},
    ),
    NodeClient("ai-sdk-6", "ai_sdk/played.mjs", AI_SDK, "APICallError", folder="ai_sdk", more=VOTED),
    NodeClient("ai-sdk-7", "ai_sdk/played.mjs", AI_SDK, "APICallError", folder="ai_sdk_7", more=VOTED),
    NodeClient(
        "ollama-ai-provider", "ai_sdk/played_ollama.mjs", ("ollama",), "APICallError", folder="ai_sdk_7", words="body"
    ),
    NodeClient("ollama-npm", "node_sdks/ollama.mjs", ("ollama",), "ResponseError", more=OLLAMA),
    NodeClient("langchain-js", "node_sdks/langchain.mjs", ("chat", "responses"), "NotFoundError"),
    NodeClient(
        "langchain-js-ollama", "node_sdks/langchain_ollama.mjs", ("ollama",), "ResponseError",
        more={"vectors": [VECTOR, VECTOR]},
    ),
    NodeClient("mastra", "node_frameworks/mastra.mjs", ("chat",), "APICallError", folder="node_frameworks"),
    NodeClient(
        "tanstack-ai", "node_frameworks/tanstack.mjs", ("chat", "responses"), "Error", folder="node_frameworks",
        status=None,
    ),
    NodeClient(
        "strands-js", "node_frameworks/strands.mjs", ("chat", "responses"), "ModelError", folder="node_frameworks",
        status=None,
    ),
    NodeClient(
        "genkit", "genkit/genkit.mjs", ("chat",), "GenkitError", folder="genkit", status="UNKNOWN", heavy=True
    ),
    NodeClient("openai-agents-js", "node_sdks/agents.mjs", ("chat", "responses"), "NotFoundError"),
)  # fmt: skip


@pytest.fixture(scope="module")
def node() -> Iterator[PlayedNode]:
    with played_node() as running:
        yield running


@pytest.fixture(scope="module")
def client(request: pytest.FixtureRequest) -> NodeClient:
    return request.param


@pytest.fixture(scope="module")
def told(client: NodeClient, node: PlayedNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the client's scenario saw. It lives until the last of its tests has ended."""
    place, manifest = tmp_path_factory.mktemp(client.id), HERE / client.folder / "package.json"
    before = len(node.asked)
    with node_scenario(ENTRIES[client.id], manifest, HERE / client.script, node, place) as said:
        yield {**said, "asked": node.asked[before:]}


def every_client(*cells: str) -> Any:
    """A test of each client, which proves those cells of it that it can have. All of one client's run in a row."""

    def marks(client: NodeClient) -> Any:
        proven = [cell for cell in cells if cell not in ENTRIES[client.id].lacks]
        proves = [pytest.mark.client(client.id, *proven, folder=client.folder)] if proven else []
        return [*proves, pytest.mark.clients] if client.heavy else proves

    cases = [pytest.param(each, id=each.id, marks=marks(each)) for each in CLIENTS]
    return pytest.mark.parametrize("client", cases, indirect=True)


@pytest.fixture
def apis(told: Any, client: NodeClient) -> dict[str, Any]:
    """What was told of each API."""
    assert tuple(told["apis"]) == client.apis
    return told["apis"]


def each_has(apis: Mapping[str, Any], value: object, *keys: str) -> None:
    """Fail unless all of these of each API are `value`."""
    seen = {f"{api} {key}": told[key] for api, told in apis.items() for key in keys}
    assert seen == dict.fromkeys(seen, value)


def with_schema(request: GenerationRequest) -> bool:
    """Whether the answer has to follow a schema: of the answer itself, or of a call's arguments."""
    form = request.response_format
    return bool(request.tools) or (form is not None and form.type == "json_schema")


@every_client("text")
def test_a_question_is_answered(apis: dict[str, Any]) -> None:
    each_has(apis, TEXT, "text")


@every_client("stream")
def test_an_answer_streams_in_pieces(apis: dict[str, Any]) -> None:
    pieces = {api: [piece for piece in told["pieces"] if piece] for api, told in apis.items()}
    assert {api: "".join(each) for api, each in pieces.items()} == dict.fromkeys(pieces, TEXT)
    assert all(len(each) > 1 for each in pieces.values()), pieces


@every_client("tools")
def test_a_tool_runs_once_and_its_result_is_told(told: Any, apis: dict[str, Any]) -> None:
    each_has(apis, WEATHER, "tool", "streamedTool")
    assert told["cities"] == ["Paris", "Paris"] * len(apis)


@every_client("structured")
def test_an_answer_is_the_object_that_was_asked_for(told: Any, apis: dict[str, Any]) -> None:
    each_has(apis, PARIS, "object", "streamedObject")
    asked = [each for each in told["asked"] if OBJECT_TASK in json.dumps(each.messages)]
    assert asked
    assert all(with_schema(each) for each in asked), "a node can hold a model to a schema that it is told only"


@every_client("errors")
def test_an_unknown_model_is_the_clients_own_error_and_asked_for_once(apis: dict[str, Any], client: NodeClient) -> None:
    for told in apis.values():
        for refusal in (told["refusal"], told["streamedRefusal"]):
            assert refusal["kinds"][0] == client.refusal
            assert UNKNOWN_MODEL in refusal[client.words]
            assert refusal["status"] == client.status
            assert refusal["requests"] == 1


@every_client("cancel")
def test_a_stream_that_is_left_frees_its_slot(apis: dict[str, Any], node: PlayedNode) -> None:
    for told in apis.values():
        assert told["left"]
        assert {each["said"] for each in told["left"]} == {ENDLESS}
    node.until_idle()  # while the client lives on


@every_client()
def test_nobody_but_the_node_is_asked(told: Any, node: PlayedNode) -> None:
    assert told["requests"]
    assert [each for each in told["requests"] if not each.startswith(f"{node.url}/")] == []


@every_client()
def test_what_else_a_client_does(told: Any, client: NodeClient) -> None:
    assert {name: told[name] for name in client.more} == client.more
