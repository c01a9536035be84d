"""The OpenAPI document and its page: every route is in it, none that is not there, and nothing comes from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from swarm.gateway.documentation.document import make_document
from swarm.gateway.documentation.operations import OPERATIONS
from swarm.gateway.documentation.pages import FILES, HEADERS
from swarm.gateway.http.access import AccessRules, digest, is_between_nodes
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying

PAGE = Path(__file__).resolve().parents[2] / "swarm" / "gateway" / "documentation" / "page"


@pytest.fixture(scope="module")
def document() -> Any:
    return make_document(OPERATIONS, "1.2.3")


@pytest_asyncio.fixture
async def locked() -> AsyncIterator[RunningNode]:
    access = AccessRules(key_digests=(digest("sk-a"),))
    async with RunningNode(
        "kitchen", ready(ScriptedEngine(saying("a word"))), options=NodeOptions(access=access)
    ) as node:
        yield node


@pytest_asyncio.fixture
async def client(locked: RunningNode) -> AsyncIterator[Client]:
    async with connect(locked.url) as connected:
        yield connected


def undocumented(routes: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of `routes` (method, path) those for clients that no operation describes, under their own path or with /v1."""
    known = {(operation.method, operation.path) for operation in OPERATIONS}
    return {
        (method, path)
        for method, path in ((method.lower(), path) for method, path in routes)
        if method not in ("head", "options")
        and not is_between_nodes(path)
        and not path.startswith(("/docs", "/page"))
        and not {(method, path), (method, f"/v1{path}")} & known
    }


async def test_every_route_is_documented(locked: RunningNode) -> None:
    """Where this fails, add an entry to `documentation/operations.py`."""
    routes = {
        (route.method, route.resource.canonical) for route in locked.app.router.routes() if route.resource is not None
    }
    assert undocumented(routes) == set()
    assert {(operation.method.upper(), operation.path) for operation in OPERATIONS} <= routes


def test_a_route_without_an_entry_is_found() -> None:
    routes = {("POST", "/v1/new"), ("POST", "/chat/completions"), ("HEAD", "/v1/models"), ("GET", "/docs/{name}")}
    assert undocumented(routes) == {("post", "/v1/new")}


def test_every_reference_leads_somewhere(document: Any) -> None:
    named = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named <= set(document["components"]["schemas"])
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_examples_are_what_they_should_be() -> None:
    for operation in OPERATIONS:
        if operation.body is not None:
            assert operation.example is not None, operation.path
            operation.body.model_validate(operation.example, strict=True)


def test_identifiers_are_unique_and_errors_are_documented(document: Any) -> None:
    described = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in described}) == len(OPERATIONS)
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(map(int, chat["responses"])) == {200, 400, 401, 403, 404, 408, 409, 413, 500, 502, 503, 504}
    assert chat["responses"]["503"]["headers"]["Retry-After"]["required"]
    assert "401" not in document["paths"]["/livez"]["get"]["responses"]
    assert document["paths"]["/livez"]["get"]["security"] == []


async def test_the_document_and_the_page_need_no_key(client: Client) -> None:
    reply = await client.get("/openapi.json")
    assert reply.status == 200
    assert reply.json["openapi"] == "3.1.0"
    assert (await client.get("/docs")).status == 200
    for name, kind in FILES.items():
        reply = await client.get(f"/docs/{name}")
        assert reply.headers["Content-Type"].startswith(kind)
        assert set(HEADERS.items()) <= set(reply.headers.items())
    for other in ("page.html", "../pages.py", "%2e%2e%2fpages.py", "x"):
        assert (await client.get(f"/docs/{other}")).status in (401, 404)


async def test_what_the_page_asks_passes_the_origin_rules(client: Client, locked: RunningNode) -> None:
    """A browser names the page's own origin with a POST, and the page sends the key that its reader typed."""
    page = {"Origin": locked.url, "Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
    reply = await client.post("/v1/chat/completions", chat_body(), Authorization="Bearer sk-a", **page)
    assert reply.status == 200
    assert (await client.get("/docs", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate")).status == 200


def test_the_page_is_complete_in_itself_and_makes_no_html_of_what_it_reads() -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in PAGE.iterdir()}
    assert set(texts) == {"page.html", *FILES}
    for text in texts.values():
        assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=|style=", text)
    assert "<script>" not in texts["page.html"]
    assert "'unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js runs the script")
def test_the_page_shows_every_operation_and_sends_what_its_reader_wrote(document: Any, tmp_path: Path) -> None:
    read = tmp_path / "openapi.json"
    read.write_text(json.dumps(document))
    command = ["node", str(Path(__file__).with_name("docs_page.js")), str(PAGE / "page.js"), str(read)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert "1.2.3" in done["about"]
    assert len(done["shown"]) == len(OPERATIONS)
    chat = next(text for text in done["shown"] if "/v1/chat/completions" in text)
    assert "messages * Message[]" in chat
    assert "temperature number 0..2 | null" in chat
    assert "SwarmReport" in chat
    sent = dict(done["sent"])
    assert set(sent) == {re.sub(r"\{(id|digest|slot|path)\}", "swarm", operation.path) for operation in OPERATIONS}
    asked = sent["/v1/chat/completions"]
    assert asked["method"] == "POST"
    assert asked["headers"] == {"Authorization": "Bearer sk-a", "Content-Type": "application/json"}
    assert json.loads(asked["body"])["model"] == "swarm"
    assert sent["/v1/models/load"]["headers"]["X-Swarm-Page"] == "t", "what it changes carries the page's token"
    assert all(re.search(r'^200 OK\n\n.*"<b>yes</b>".*\d+ ms$', out, re.DOTALL) for out in done["outs"])


async def test_programs_are_told_where_to_go(client: Client) -> None:
    for accept in ("", "*/*", "application/json"):
        reply = await client.get("/", Accept=accept)
        assert (reply.status, reply.json["name"], reply.json["documentation"]) == (200, "local-swarm", "/docs")
