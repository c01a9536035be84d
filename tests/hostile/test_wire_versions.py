"""Nodes of the release before, both ways: their messages are read here, and what is sent here has all of theirs.

`wire_of_protocol_1/` was recorded from nodes of version 0.1.0. It is not recorded again while the protocol's major
version stays 1: a change that breaks these tests breaks nodes that are running somewhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from federation import wire
from federation.advertisement import Goodbye, parse_description, parse_hints
from federation.errors import VersionError
from federation.file_exchange import parse_file_list, parse_pieces
from federation.roster import parse_roster
from swarm.errors import BadRequest
from swarm.gateway.openai.utility_calls import TokenizeBody, tokenize
from swarm.gateway.peers.model_files import FileService
from swarm.generation import Candidate, Finish, GenerationRequest
from swarm.routing.peer_answers import peer_candidates, peer_events, read_candidate
from swarm.routing.replicas import Replica
from swarm.routing.utilities import ask_peer
from tests.doubles.clients import Client, connect
from tests.doubles.fake_peer import FakePeer
from tests.doubles.file_nodes import CountingTransfers, stocked
from tests.doubles.running_node import NodeOptions, RunningNode, ready, run_nodes
from tests.doubles.scripted_engine import ScriptedEngine, saying

FOLDER = Path(__file__).with_name("wire_of_protocol_1")
PARSERS = {
    "node.json": parse_description,
    "peers.json": parse_hints,
    "models.json": parse_file_list,
    "pieces.json": parse_pieces,
    "roster.json": parse_roster,
    "goodbye.request.json": Goodbye.model_validate_json,
}
REQUEST = GenerationRequest(model="m", messages=({"role": "user", "content": "hi"},), max_tokens=5)
NEWER = {"a_field_of_the_future": {"nested": [1, None, "x"]}}


def recorded(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def with_more(value: Any) -> Any:
    """As a newer node would say it: one field more in every object."""
    if isinstance(value, dict):
        return {**{key: with_more(member) for key, member in value.items()}, **NEWER}
    return [with_more(member) for member in value] if isinstance(value, list) else value


def missing(old: Any, new: Any, where: str = "") -> list[str]:
    """What an older node expects of `new` by its own `old`, and does not find: fields, types, items of lists."""
    if isinstance(old, dict):
        if not isinstance(new, dict):
            return [f"{where} is no object any more"]
        gone = [f"{where}.{key} is gone" for key in old if key not in new]
        return gone + [told for key in old if key in new for told in missing(old[key], new[key], f"{where}.{key}")]
    if isinstance(old, list):
        if not isinstance(new, list):
            return [f"{where} is no list any more"]
        return [told for one in new[:1] for told in missing(old[0], one, f"{where}[0]")] if old else []
    same = old is None or new is None or isinstance(new, type(old)) or (isinstance(old, int) and isinstance(new, float))
    return [] if same else [f"{where} was {old!r} and is {new!r}"]


@pytest.mark.parametrize("name", PARSERS)
def test_what_the_release_before_sends_is_read(name: str) -> None:
    assert PARSERS[name](recorded(name))


@pytest.mark.parametrize("name", PARSERS)
def test_what_a_newer_release_adds_is_ignored(name: str) -> None:
    newer = json.dumps(with_more(json.loads(recorded(name)))).encode()
    if name == "node.json":  # its hardware is shown as it is, whatever is in it
        newer = newer.replace(b'"hardware": ' + json.dumps(NEWER).encode(), b'"hardware": {}')
    assert PARSERS[name](newer) == PARSERS[name](recorded(name))


@pytest.mark.parametrize("more", [False, True], ids=["as it was", "with fields of the future"])
async def test_answers_of_the_release_before_are_taken(more: bool) -> None:
    def said(name: str) -> bytes:
        lines = recorded(name).splitlines(keepends=True)
        return b"".join(b"data: " * line.startswith(b"data: {") + changed(line) for line in lines)

    def changed(line: bytes) -> bytes:
        bare = line.removeprefix(b"data: ")
        if not more or not bare.startswith(b"{"):
            return bare if line.startswith(b"data: {") else line
        return json.dumps(with_more(json.loads(bare))).encode() + b"\n"

    async with FakePeer("kitchen") as kitchen, run_nodes(node := RunningNode("study")):
        replica = Replica("id-kitchen", "kitchen", "m", slots=4, slots_free=4, url=kitchen.address.url)
        deadline = time.monotonic() + 10
        kitchen.pieces = [said("candidates.ndjson")]
        stream = peer_candidates(node.client, replica, REQUEST, 2, deadline, on_event=heard)
        async with aclosing(stream) as answers:
            assert [answer.text async for answer in answers] == ["hello", "hello"]
        kitchen.pieces = [said("generate.sse")]
        async with aclosing(peer_events(node.client, replica, REQUEST, deadline)) as events:
            *_, last = [event async for event in events]
        assert isinstance(last, Finish)
        assert last.usage.completion_tokens == 1
        kitchen.pieces = [said("tokenize.ndjson")]
        assert (await ask_peer(node.client, replica, tokenize(TokenizeBody(content="hi")), deadline)).ids == (104, 105)


async def heard(_: object) -> None:
    """Steps of a leader are heard and not kept."""


def test_a_refusal_of_the_release_before_is_understood() -> None:
    with pytest.raises(BadRequest, match="votes: Input should be"):
        read_candidate(recorded("refusal.json"), Replica("id-kitchen", "kitchen", "m", 1, 1, url="http://x"), 5)


@asynccontextmanager
async def a_node(folder: Path) -> AsyncIterator[tuple[RunningNode, Client]]:
    files = FileService(stocked(folder / "models", b"abcde"), CountingTransfers())
    engine = ScriptedEngine(saying("hello"), model_id="m")
    node = RunningNode("kitchen", ready(engine), options=NodeOptions(files=files))
    async with node, connect(node.url) as client:
        yield node, client


async def test_requests_of_the_release_before_are_answered_as_it_expects(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (_, client):
        listed = (await client.get(wire.MODELS_PATH)).json
        path = f"{wire.MODELS_PATH}/{listed['files'][0]['sha256']}/pieces"
        for name, answer in (
            ("node.json", (await client.get(wire.NODE_PATH)).json),
            ("models.json", listed),
            ("pieces.json", (await client.get(path)).json),
        ):
            assert missing(json.loads(recorded(name)), answer) == []
        for name, path, request in (
            ("candidates.ndjson", wire.CANDIDATES_PATH, "candidates.request.json"),
            ("tokenize.ndjson", wire.UTILITIES_PATH + "/tokenize", "tokenize.request.json"),
            ("generate.sse", wire.GENERATE_PATH, "generate.request.json"),
        ):
            reply = await client.post(path, raw=recorded(request))
            assert reply.status == 200
            old, new = (kinds_of_lines(text) for text in (recorded(name).decode(), reply.text))
            assert [told for before, now in zip(old, new, strict=True) for told in missing(before, now)] == []
        assert (await client.post(wire.GOODBYE_PATH, raw=recorded("goodbye.request.json"))).json == {"status": "ok"}


def kinds_of_lines(text: str) -> list[Any]:
    """The JSON in each line of a stream, heartbeats left out."""
    lines = (line.removeprefix("data: ").strip() for line in text.splitlines())
    return [json.loads(line) for line in lines if line and line != "[DONE]" and not line.startswith(":")]


async def test_what_is_asked_of_a_peer_has_all_that_the_release_before_expects(tmp_path: Path) -> None:
    """A node of today is the one asked: it takes what it is sent only if it has all that a node needs."""
    sent: dict[str, Any] = {}
    async with (
        a_node(tmp_path) as (kitchen, _),
        RunningNode("study", options=NodeOptions(peers=[kitchen.address])) as study,
    ):
        original = study.client.open_generation

        def noting(url: str, path: str, body: bytes, *args: Any, **options: Any) -> Any:
            sent[path] = json.loads(body)
            return original(url, path, body, *args, **options)

        study.client.open_generation = noting  # type: ignore[method-assign]
        async with connect(study.url) as client:
            fields = {"model": "m", "max_tokens": 5}
            await client.chat(swarm={"votes": 2}, stream=True, **fields)
            await client.chat(swarm={"strategy": "single"}, **fields)
            await client.post("/tokenize", {"model": "m", "content": "hi"})
    for name, path in (
        ("candidates.request.json", wire.CANDIDATES_PATH),
        ("generate.request.json", wire.GENERATE_PATH),
        ("tokenize.request.json", wire.UTILITIES_PATH + "/tokenize"),
    ):
        assert missing(json.loads(recorded(name)), sent[path]) == [], path


def test_another_major_version_is_refused_whatever_else_it_says() -> None:
    for said in ({"protocol": 2}, {**json.loads(recorded("node.json")), "protocol": 2}, {"protocol": 2, "id": []}):
        with pytest.raises(
            VersionError, match=r"speaks federation protocol 2 and this node speaks 1: run matching versions"
        ):
            parse_description(json.dumps(said).encode())


def test_a_candidate_without_what_came_later_is_one() -> None:
    assert Candidate.model_validate_json(b'{"voter": "Rex@kitchen"}').text == ""
