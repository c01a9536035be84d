"""What a node does for peers that ask it, and what it refuses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation import wire
from swarm.errors import BadRequest, EngineFailed
from swarm.gateway.answers.answer_form import Pacing
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import PROMPT_TOKENS, ScriptedEngine, Step

BEAT_S = 0.02
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
TEXT = {"model": "m", "prompt": "hello"}


class Stage:
    """A node "kitchen" that serves the scripted model "m" with four slots."""

    def __init__(self, engine: ScriptedEngine, node: RunningNode, client: Client) -> None:
        self.engine = engine
        self.node = node
        self.client = client

    def plays(self, *steps: Step) -> None:
        self.engine.script = lambda _, __: steps

    async def candidates(self, request: Any = CHAT, votes: Any = 2, **headers: str) -> Reply:
        return await self.client.post(wire.CANDIDATES_PATH, {"request": request, "votes": votes}, **headers)

    async def generate(self, request: Any = CHAT, **headers: str) -> Reply:
        return await self.client.post(wire.GENERATE_PATH, request, **headers)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    engine = ScriptedEngine(lambda _, __: ["yes"], model_id="m")
    options = NodeOptions(pacing=Pacing(client_beat_s=60, peer_beat_s=BEAT_S))
    async with RunningNode("kitchen", ready(engine), options=options) as node, connect(node.url) as client:
        yield Stage(engine, node, client)


def lines(reply: Reply) -> list[Any]:
    return [json.loads(line) for line in reply.text.splitlines() if line]


async def test_each_candidate_is_a_line_with_its_voter(stage: Stage) -> None:
    reply = await stage.candidates(votes=3)
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    found = lines(reply)
    assert [candidate["text"] for candidate in found] == ["yes"] * 3
    assert len({candidate["voter"] for candidate in found}) == 3
    assert all(candidate["voter"].endswith("@kitchen") for candidate in found)


async def test_blank_lines_flow_while_the_voters_work(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.plays(gate, "yes")
    async with stage.client.open(wire.CANDIDATES_PATH, {"request": CHAT, "votes": 1}) as response:
        assert [await response.content.readline() for _ in range(4)] == [b"\n"] * 4
        gate.set()
        assert b'"text":"yes"' in await response.content.read()


@pytest.mark.parametrize("request_body", [CHAT, TEXT], ids=["chat", "text"])
async def test_a_generation_is_a_stream_in_the_requests_own_dialect(stage: Stage, request_body: Any) -> None:
    reply = await stage.generate(request_body)
    first = reply.chunks[0]["choices"][0]
    assert ("delta" if request_body is CHAT else "text") in first
    assert reply.chunks[-1]["usage"]["completion_tokens"] == 1, "peers always get the usage"
    assert reply.done


async def test_a_prompt_that_speaks_of_messages_is_still_plain_text(stage: Stage) -> None:
    reply = await stage.generate({"model": "m", "prompt": '"messages"'})
    assert reply.chunks[0]["object"] == "text_completion"
    assert stage.engine.requests[0].prompt == '"messages"'


async def test_a_peers_generation_is_never_voted_on_nor_multiplied(stage: Stage) -> None:
    await stage.generate({**CHAT, "n": 3, "stream": False, "swarm": {"votes": 4}})
    assert len(stage.engine.requests) == 1
    assert "swarm_votes_total{" not in (await stage.client.get("/metrics")).text


async def test_blank_events_flow_to_peers_faster_than_to_clients(stage: Stage) -> None:
    gate = asyncio.Event()
    stage.plays(gate, "yes")
    async with stage.client.open(wire.GENERATE_PATH, CHAT) as response:
        assert (await response.content.readuntil(b"\n\n")).startswith(b":")
        gate.set()
        assert (await response.content.read()).endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("hops", ["2", "-1", "x", "1.0", "²", "9" * 5000, ""], ids=lambda hops: hops[:5])
@pytest.mark.parametrize("endpoint", ["candidates", "generate"])
async def test_a_request_is_passed_on_once_at_most(stage: Stage, endpoint: str, hops: str) -> None:
    reply = await getattr(stage, endpoint)(X_Swarm_Hops=hops)
    assert reply.status == 400
    assert "X-Swarm-Hops" in reply.error["message"]
    assert not stage.engine.requests


@pytest.mark.parametrize("left", ["0", "-5", "soon", "9" * 5000, "3600001"], ids=lambda left: left[:7])
@pytest.mark.parametrize("endpoint", ["candidates", "generate"])
async def test_a_deadline_that_is_none_is_refused(stage: Stage, endpoint: str, left: str) -> None:
    reply = await getattr(stage, endpoint)(X_Swarm_Deadline_Ms=left)
    assert reply.status == 400
    assert "X-Swarm-Deadline-Ms" in reply.error["message"]


async def test_work_ends_with_the_callers_deadline(stage: Stage) -> None:
    stage.plays(asyncio.Event())
    (line,) = lines(await stage.candidates(X_Swarm_Deadline_Ms="30"))
    assert line["error"]["code"] == "deadline_exceeded"
    assert '"code": "deadline_exceeded"' in (await stage.generate(X_Swarm_Deadline_Ms="10")).text, (
        "as a 504, or in a stream"
    )
    assert stage.engine.running == 0


@pytest.mark.parametrize("votes", [0, -1, 33, "2", None, 1.5])
async def test_votes_out_of_range_are_refused(stage: Stage, votes: Any) -> None:
    reply = await stage.candidates(votes=votes)
    assert reply.status == 400
    assert reply.error["param"] == "votes"


async def test_more_votes_than_workers_gives_those_there_are(stage: Stage) -> None:
    assert len(lines(await stage.candidates(votes=32))) == 4


@pytest.mark.parametrize(
    "fields",
    [{"temperature": -1}, {"top_k": -5}, {"max_tokens": -1}, {"logit_bias": {"x": 1}}, {"messages": []}],
    ids=str,
)
@pytest.mark.parametrize("endpoint", ["candidates", "generate"])
async def test_peers_are_held_to_the_same_ranges_as_clients(
    stage: Stage, endpoint: str, fields: dict[str, Any]
) -> None:
    reply = await getattr(stage, endpoint)({**CHAT, **fields})
    assert reply.status == 400
    assert next(iter(fields)) in reply.error["param"]
    assert not stage.engine.requests


@pytest.mark.parametrize("endpoint", ["candidates", "generate"])
async def test_only_a_model_of_this_node_is_run(stage: Stage, endpoint: str) -> None:
    reply = await getattr(stage, endpoint)({**CHAT, "model": "other"})
    assert reply.status == 404
    assert "available: m" in reply.error["message"]


@pytest.mark.parametrize("endpoint", ["candidates", "generate"])
async def test_a_node_that_shuts_down_refuses_peers_too(stage: Stage, endpoint: str) -> None:
    stage.node.condition.draining = True
    assert (await getattr(stage, endpoint)()).status == 503


@pytest.mark.parametrize(
    ("error", "code"),
    [(BadRequest("no"), "invalid_value"), (EngineFailed("broke"), "engine_failed"), (KeyError("x"), "engine_failed")],
    ids=["refusal", "failure", "defect"],
)
async def test_what_goes_wrong_is_the_last_line(stage: Stage, error: Exception, code: str) -> None:
    stage.plays(error)
    reply = await stage.candidates()
    assert reply.status == 200
    assert lines(reply)[-1]["error"]["code"] == code


async def test_a_peer_that_leaves_stops_the_voters(stage: Stage) -> None:
    stage.plays("a word", asyncio.Event())
    async with stage.client.open(wire.CANDIDATES_PATH, {"request": CHAT, "votes": 4}):
        await stage.engine.until(lambda engine: engine.running == 4)
    await stage.engine.until(lambda engine: engine.running == 0)
    assert stage.engine.cancelled == 4


async def test_a_node_describes_itself_and_hears_where_the_caller_is(stage: Stage) -> None:
    reply = await stage.client.get(f"{wire.NODE_PATH}?{wire.FROM_PARAM}=127.0.0.1:1")
    assert reply.json["id"] == "id-kitchen"
    assert [model["id"] for model in reply.json["models"]] == ["m"]
    for nonsense in ("", "here", "a:b", "127.0.0.1:99999999"):
        assert (await stage.client.get(f"{wire.NODE_PATH}?{wire.FROM_PARAM}={nonsense}")).status == 200


async def test_peers_are_named_and_goodbyes_taken(stage: Stage) -> None:
    assert (await stage.client.get(wire.PEERS_PATH)).json == {"peers": []}
    assert (await stage.client.post(wire.GOODBYE_PATH, {"id": "somebody"})).json == {"status": "ok"}
    assert (await stage.client.post(wire.GOODBYE_PATH, {"id": "NOT AN ID"})).status == 400
    assert (await stage.client.post(wire.GOODBYE_PATH, raw=b"x")).status == 400


async def test_the_tokens_of_a_prompt_are_counted_for_a_peer(stage: Stage) -> None:
    path = f"{wire.UTILITIES_PATH}/count-tokens"
    assert (await stage.client.post(path, CHAT)).text.split() == [str(PROMPT_TOKENS)]
    assert "model_not_found" in (await stage.client.post(path, {**CHAT, "model": "other"})).text
    assert (await stage.client.post(path, CHAT, X_Swarm_Hops="2")).status == 400
