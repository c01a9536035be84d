"""What a stream shows while a vote runs: in each mode, on each API, from here and from peers, and when things break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from swarm.consensus.options import STREAM_MODES, StreamMode
from swarm.errors import BadRequest, ContextExceeded, EngineFailed
from swarm.gateway.answers.answer_form import Pacing
from swarm.generation import Delta, ToolCallDelta
from swarm.routing.ballot import MIN_GRACE_S
from tests.doubles.anthropic_events import streamed
from tests.doubles.clients import Client, Reply, chat_body, connect
from tests.doubles.response_events import ended, read_events, text_in
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, Step, saying
from tests.doubles.waiting import eventually

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PROSE, OTHER = "The sky is blue because of scattering.", "Bananas sing loudly at night."
THINKING: list[Step] = [Delta(reasoning="let me "), Delta(reasoning="see")]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat_body(stream=True),
    RESPONSES: {"model": "swarm", "input": "hello", "stream": True},
    MESSAGES: chat_body(stream=True, max_tokens=50),
}


@dataclass(frozen=True)
class Shown:
    """A streamed answer as the client of any API has it in the end."""

    text: str
    reasoning: str
    account: dict[str, Any]


def shown(path: str, reply: Reply) -> Shown:
    assert reply.status == 200, reply.text
    assert reply.headers["X-Swarm-Node"] == "kitchen"
    match path:
        case "/v1/chat/completions":
            assert reply.done
            deltas = [choice["delta"] for chunk in reply.chunks for choice in chunk["choices"]]
            (account,) = [chunk["swarm"] for chunk in reply.chunks if "swarm" in chunk]
            return Shown(
                "".join(delta.get("content") or "" for delta in deltas),
                "".join(delta.get("reasoning_content") or "" for delta in deltas),
                account,
            )
        case "/v1/responses":
            response = ended(read_events(reply.text)).model_dump()
            texts = {item["type"]: text_in(item) for item in response["output"]}
            return Shown(texts.get("message", ""), texts.get("reasoning", ""), response["swarm"])
        case _:
            message = streamed(reply.text)
            assert message.swarm is not None
            return Shown(
                "".join(block.get("text", "") for block in message.blocks),
                "".join(block.get("thinking", "") for block in message.blocks),
                message.swarm,
            )


class House:
    """A node "kitchen" whose engine "small" has three slots, and perhaps a peer "study" with a larger model."""

    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.engines: dict[str, ScriptedEngine] = {}
        self.nodes: dict[str, RunningNode] = {}
        self.sizes: dict[str, int] = {}  # as if every model were in the catalogue

    async def __aenter__(self) -> House:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def add(self, name: str, *answers: Sequence[Step] | str, params: int = 2_000_000, **options: Any) -> Client:
        """Voter 0 of this node plays the first answer, ...; the last one is played by all further ones."""
        steps = [[answer] if isinstance(answer, str) else answer for answer in answers]
        engine = ScriptedEngine(
            lambda _, voter: steps[min(voter, len(steps) - 1)], model_id=f"of-{name}", slots=max(len(steps), 1)
        )
        self.engines[name] = engine
        peers = [node.address for node in self.nodes.values()]
        self.sizes[f"of-{name}"] = params
        known = NodeOptions(peers=peers, params=params, sizes=dict(self.sizes), **options)
        node = RunningNode(name, ready(engine), options=known)
        self.nodes[name] = await self.stack.enter_async_context(node)
        return await self.stack.enter_async_context(connect(node.url))


def asking(path: str, mode: str | None, votes: int = 3, **fields: Any) -> dict[str, Any]:
    swarm = {"votes": votes} if mode is None else {"votes": votes, "stream": mode}
    return {**BODIES[path], "swarm": swarm, **fields}


async def until_read(response: Any, wanted: bytes) -> bytes:
    """Read until `wanted` has come; everything so far."""
    read = b""
    while wanted not in read:
        read += await response.content.readuntil(b"\n\n")
    return read


@pytest.mark.parametrize("path", BODIES)
async def test_a_confirmed_leader_is_shown_live(path: str) -> None:
    async with House() as house:
        gate = asyncio.Event()
        client = await house.add(
            "kitchen", [*THINKING, "The sky is blue ", gate, "because of scattering."], PROSE, PROSE
        )
        async with client.open(path, asking(path, "leader")) as response:
            await until_read(response, b"The sky is blue ")
            gate.set()
            await response.content.read()
        answer = shown(path, await client.post(path, asking(path, "leader")))
        assert answer.text == PROSE
        assert answer.account["stream"] == "leader"
        assert answer.account["leader"] in {part["voter"] for part in answer.account["candidates"]}


@pytest.mark.parametrize("path", BODIES)
async def test_an_overruled_leader_is_shown_with_the_winners_answer_beside_it(path: str) -> None:
    async with House() as house:
        client = await house.add("kitchen", OTHER, PROSE, PROSE)
        answer = shown(path, await client.post(path, asking(path, "leader")))
        assert answer.text == OTHER, "what was streamed is not taken back"
        account = answer.account
        assert (account["stream"], account["confirmed"]) == ("leader", False)
        assert account["winner"] != account["leader"]
        assert account["winner_message"]["content"] == PROSE


@pytest.mark.parametrize("path", BODIES)
async def test_a_buffered_vote_shows_the_winner_alone(path: str) -> None:
    async with House() as house:
        client = await house.add("kitchen", OTHER, PROSE, PROSE)
        answer = shown(path, await client.post(path, asking(path, "buffer")))
        assert answer.text == PROSE
        assert answer.account["stream"] == "buffer"
        assert not {"leader", "confirmed", "winner_message"} & set(answer.account)


@pytest.mark.parametrize(
    ("path", "opening"),
    [
        (CHAT, b'"delta":{"role":"assistant","content":""}'),
        (RESPONSES, b"event: response.in_progress"),
        (MESSAGES, b"event: message_start"),
    ],
)
async def test_a_buffered_stream_opens_as_soon_as_a_voter_answers(path: str, opening: bytes) -> None:
    async with House() as house:
        gate = asyncio.Event()
        client = await house.add("kitchen", ["half ", gate, "said"], "other words", "more words")
        async with client.open(path, asking(path, "buffer")) as response:
            begun = await until_read(response, opening)
            assert b"half" not in begun
            gate.set()
            assert b"swarm" in await response.content.read()


@pytest.mark.parametrize("path", BODIES)
async def test_thoughts_are_live_and_the_answer_is_held_back(path: str) -> None:
    async with House() as house:
        gate = asyncio.Event()
        client = await house.add("kitchen", [*THINKING, PROSE[:9], gate, PROSE[9:]], [gate, PROSE], [gate, PROSE])
        async with client.open(path, asking(path, "reasoning")) as response:
            live = await until_read(response, b"see")
            assert b"The sky" not in live
            gate.set()
            rest = await response.content.read()
        assert PROSE.encode() in rest
        assert b'"stream":"reasoning"' in rest
        assert b'"confirmed":true' in rest


@pytest.mark.parametrize("path", BODIES)
async def test_an_overruled_thinker_is_named_and_the_winner_answers(path: str) -> None:
    async with House() as house:
        client = await house.add("kitchen", [*THINKING, OTHER], [Delta(reasoning="else"), PROSE], PROSE)
        answer = shown(path, await client.post(path, asking(path, "reasoning")))
        assert (answer.reasoning, answer.text) == ("let me see", PROSE)
        account = answer.account
        assert (account["stream"], account["confirmed"]) == ("reasoning", False)
        assert account["winner"] != account["leader"]
        assert "winner_message" not in account, "the answer is the winner's own"


async def test_a_model_without_thoughts_is_buffered_and_said_to_be() -> None:
    async with House() as house:
        client = await house.add("kitchen", OTHER, [Delta(reasoning="else"), PROSE], PROSE)
        answer = shown(CHAT, await client.post(CHAT, asking(CHAT, "reasoning")))
        assert answer.text == PROSE
        assert answer.account["stream"] == "buffer"


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": "Reply with only a number: 4 + 4"}]},
    ],
    ids=["json", "a number is wanted"],
)
async def test_a_leader_that_would_be_acted_on_is_buffered_and_said_to_be(fields: dict[str, Any]) -> None:
    async with House() as house:
        client = await house.add("kitchen", '{"a": 9}', '{"a": 8}', '{"a": 8}')
        body = asking(CHAT, "leader", **fields)
        body["swarm"]["min_votes"] = 3  # else a pause of this process between the second and the third costs the third
        answer = shown(CHAT, await client.post(CHAT, body))
        assert json.loads(answer.text) == {"a": 8}
        assert answer.account["stream"] == "buffer"
        assert "leader" not in answer.account


def to_call(city: str) -> Delta:
    return Delta(tool_calls=(ToolCallDelta(0, f"call_{city}", "weather", json.dumps({"city": city})),))


TOOLS: dict[str, Any] = {
    CHAT: [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    RESPONSES: [{"type": "function", "name": "weather", "parameters": {"type": "object"}}],
    MESSAGES: [{"name": "weather", "input_schema": {"type": "object"}}],
}
LOOKS: list[Step] = ["I look. "]
OSLO, ROME = to_call("Oslo"), to_call("Rome")


def offering(path: str, **fields: Any) -> dict[str, Any]:
    """A request with tools whose vote everybody's answer is waited for."""
    body = asking(path, None, tools=TOOLS[path], **fields)
    body["swarm"]["min_votes"] = 3
    return body


@pytest.mark.parametrize("path", BODIES)
async def test_words_are_live_and_the_call_behind_them_waits_for_the_vote(path: str) -> None:
    async with House() as house:
        gate = asyncio.Event()
        client = await house.add("kitchen", [*LOOKS, ROME], [gate, ROME], [gate, ROME])
        async with client.open(path, offering(path)) as response:
            live = await until_read(response, b"I look. ")
            assert b"Rome" not in live
            gate.set()
            rest = await response.content.read()
        assert b"Rome" in rest
        assert b'"stream":"words"' in rest
        assert b'"confirmed":true' in rest


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("leads", "others", "text", "calls"),
    [
        ([*LOOKS, ROME], [*LOOKS, ROME], "I look. ", ["Rome"]),
        ([*LOOKS, OSLO], [ROME], "I look. ", ["Rome"]),
        ([*LOOKS], [ROME], "I look. ", ["Rome"]),
        ([*LOOKS], [*THINKING, ROME], "I look. ", ["Rome"]),
        ([*LOOKS, OSLO], ["It is warm."], "I look. \n\nIt is warm.", []),
        ([Delta(reasoning="hm"), OSLO], ["It is warm."], "It is warm.", []),
        (["It is cold."], ["It is warm."], "It is cold.", []),
        ([OSLO], [ROME], "", ["Rome"]),
        ([OSLO], [*LOOKS, ROME], "I look. ", ["Rome"]),
        ([OSLO], ["It is warm."], "It is warm.", []),
    ],
)
async def test_what_is_called_is_what_the_vote_came_out_for(
    path: str, leads: list[Step], others: list[Step], text: str, calls: list[str]
) -> None:
    async with House() as house:
        client = await house.add("kitchen", leads, others, others)
        reply = await client.post(path, offering(path))
        answer = shown(path, reply)
        assert answer.text == text, "what was streamed is not taken back"
        called = [city for city in ("Oslo", "Rome") if city in reply.text.partition('"winner_message"')[0]]
        assert called == calls
        end = {"tool_calls", "tool_use"} if calls else {"stop", "end_turn"}
        if path != RESPONSES:
            assert any(f'"{reason}"' in reply.text for reason in end)
        account = answer.account
        words_were_shown = leads[0] is not OSLO
        assert account["stream"] == ("words" if words_were_shown else "buffer")
        if words_were_shown:
            agreed = leads == others
            assert account["confirmed"] is agreed
            assert ("winner_message" in account) is not agreed


@pytest.mark.parametrize(
    ("node_says", "expected"),
    [(None, "leader"), (StreamMode.BUFFER, "buffer"), (StreamMode.REASONING, "reasoning")],
)
async def test_a_node_has_a_mode_of_its_own_and_a_request_has_the_last_word(
    node_says: StreamMode | None, expected: str
) -> None:
    async with House() as house:
        client = await house.add("kitchen", [*THINKING, PROSE], PROSE, PROSE, vote_stream=node_says)
        assert shown(CHAT, await client.post(CHAT, asking(CHAT, None))).account["stream"] == expected
        for mode in ("leader", "buffer"):
            house.engines["kitchen"].script = saying(PROSE)
            assert shown(CHAT, await client.post(CHAT, asking(CHAT, mode))).account["stream"] == mode


@pytest.mark.parametrize("path", BODIES)
async def test_a_stronger_peer_leads_token_by_token(path: str) -> None:
    async with House() as house:
        gate = asyncio.Event()
        await house.add("study", ["The sky is blue ", gate, "because of scattering."], params=9_000_000)
        client = await house.add("kitchen", PROSE, PROSE)
        async with client.open(path, asking(path, "leader")) as response:
            await until_read(response, b"The sky is blue ")
            gate.set()
            rest = await response.content.read()
        assert b"because of scattering." in rest
        assert b'"confirmed":true' in rest
        assert b'"leader":"Zeus@study"' in rest or b'@study"' in rest


async def test_a_stronger_peer_thinks_aloud() -> None:
    async with House() as house:
        await house.add("study", [*THINKING, PROSE], params=9_000_000)
        client = await house.add("kitchen", PROSE, PROSE)
        answer = shown(CHAT, await client.post(CHAT, asking(CHAT, "reasoning")))
        assert (answer.reasoning, answer.text) == ("let me see", PROSE)
        assert answer.account["leader"].endswith("@study")


async def test_a_weaker_peer_does_not_lead() -> None:
    async with House() as house:
        await house.add("study", PROSE, params=1_000_000)
        client = await house.add("kitchen", PROSE, PROSE)
        answer = shown(CHAT, await client.post(CHAT, asking(CHAT, "leader")))
        assert answer.account["leader"].endswith("@kitchen")


async def test_a_leader_lost_before_its_first_word_is_succeeded() -> None:
    async with House() as house:
        await house.add("study", [EngineFailed("broke")], params=9_000_000)
        client = await house.add("kitchen", [PROSE], [PROSE], [PROSE])
        answer = shown(CHAT, await client.post(CHAT, asking(CHAT, "leader", votes=2)))
        assert answer.text == PROSE
        assert answer.account["stream"] == "leader"
        assert answer.account["leader"].endswith("@kitchen")


@pytest.mark.parametrize("here", [True, False], ids=["here", "at a peer"])
async def test_a_leader_lost_in_mid_answer_is_an_honest_error(here: bool) -> None:
    async with House() as house:
        gate = asyncio.Event()
        breaking: list[Step] = ["half an ", EngineFailed("out of memory")]
        if not here:
            await house.add("study", breaking, params=9_000_000)
        client = await house.add("kitchen", breaking if here else [gate], [gate], params=2_000_000)
        reply = await client.post(CHAT, asking(CHAT, "leader"))
        assert reply.said() == "half an "
        assert "out of memory" in reply.chunks[-1]["error"]["message"]
        assert not reply.done
        assert all(engine.running == 0 for engine in house.engines.values())


async def test_a_thinker_lost_in_mid_thought_costs_nobody_the_answer() -> None:
    async with House() as house:
        await house.add("study", [*THINKING, EngineFailed("broke")], params=9_000_000)
        client = await house.add("kitchen", PROSE, PROSE, PROSE)
        answer = shown(CHAT, await client.post(CHAT, asking(CHAT, "reasoning")))
        assert (answer.reasoning, answer.text) == ("let me see", PROSE)
        assert (answer.account["leader"], answer.account["confirmed"]) == (None, None)


async def test_a_silent_leader_holds_nothing_up_where_others_are_as_strong() -> None:
    """Everybody else has answered; whoever was to lead has not said a word, and is stopped."""
    async with House() as house:
        client = await house.add("kitchen", [asyncio.Event()], PROSE, PROSE)
        answer = shown(CHAT, await client.post(CHAT, asking(CHAT, "leader")))
        assert (answer.text, answer.account["stream"]) == (PROSE, "buffer")
        await house.engines["kitchen"].until(lambda engine: engine.running == 0 and engine.cancelled == 1)


async def test_the_strongest_is_waited_for_however_quick_the_others_are() -> None:
    async with House() as house:
        gate = asyncio.Event()
        await house.add("study", [gate, PROSE], params=4_000_000)
        client = await house.add("kitchen", OTHER, OTHER)
        vote = asyncio.create_task(client.post(CHAT, asking(CHAT, "leader")))
        await house.engines["kitchen"].until(lambda engine: len(engine.requests) == 1 and engine.running == 0)
        await asyncio.wait({vote}, timeout=3 * MIN_GRACE_S)
        assert not vote.done(), "a grace of half an instant would be over"
        gate.set()
        account = shown(CHAT, await vote).account
        assert sorted(part["voter"].split("@")[1] for part in account["candidates"]) == ["kitchen", "kitchen", "study"]


async def test_the_strongest_is_not_waited_for_beyond_the_deadline() -> None:
    async with House() as house:
        await house.add("study", [asyncio.Event()], params=4_000_000)
        client = await house.add("kitchen", OTHER, OTHER)
        body = asking(CHAT, "leader")
        body["swarm"] = {**body["swarm"], "deadline_s": 0.5}
        answer = shown(CHAT, await client.post(CHAT, body))
        assert (answer.text, answer.account["stopped_by"]) == (OTHER, "deadline")


@pytest.mark.parametrize("mode", STREAM_MODES)
@pytest.mark.parametrize(
    ("failure", "status"), [(BadRequest("no such thing"), 400), (ContextExceeded(9000, 4096), 400)], ids=["bad", "long"]
)
async def test_what_every_voter_refuses_keeps_its_status(mode: str, failure: Exception, status: int) -> None:
    """No stream opens before a voter has begun to answer."""
    async with House() as house:
        await house.add("study", [failure], params=9_000_000)
        client = await house.add("kitchen", [failure], [failure])
        assert (await client.post(CHAT, asking(CHAT, mode))).status == status


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("mode", STREAM_MODES)
async def test_a_client_that_leaves_in_mid_vote_frees_every_worker(path: str, mode: str) -> None:
    async with House() as house:
        never = asyncio.Event()
        await house.add("study", [*THINKING, "word ", never], ["word ", never], params=9_000_000)
        client = await house.add("kitchen", ["word ", never], ["word ", never])
        async with client.open(path, asking(path, mode, votes=4)) as response:
            await response.content.readuntil(b"\n\n")
            for engine in house.engines.values():
                await engine.until(lambda engine: engine.running > 0)
        for engine in house.engines.values():
            await engine.until(lambda engine: engine.running == 0)
        for node in house.nodes.values():
            (state,) = node.pool.states()
            await eventually(lambda node=node, slots=state.slots: node.pool.states()[0].slots_free == slots)


@pytest.mark.parametrize(
    ("path", "beat"), [(CHAT, b": still working"), (RESPONSES, b": still working"), (MESSAGES, b"event: ping")]
)
@pytest.mark.parametrize("mode", STREAM_MODES)
async def test_heartbeats_flow_in_every_mode(path: str, beat: bytes, mode: str) -> None:
    async with House() as house:
        gate = asyncio.Event()
        answer: list[Step] = [*THINKING, gate, PROSE]
        client = await house.add("kitchen", answer, answer, pacing=Pacing(client_beat_s=0.02))
        async with client.open(path, asking(path, mode, votes=2)) as response:
            await until_read(response, beat)
            gate.set()
            assert b'"swarm"' in await response.content.read()
