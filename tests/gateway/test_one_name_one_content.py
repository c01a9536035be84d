"""Models of two nodes that are called alike and are not, or are one and are called differently: over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from federation.advertisement import LoadableModel
from swarm.errors import EngineFailed
from swarm.registry.weights_file import Measured
from swarm.routing.loadables import soonest_ready
from swarm.routing.rules import RoutingRules
from tests.doubles.clients import Client, Reply, connect
from tests.doubles.loadable_models import WrittenList
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.waiting import eventually

X, Y = "aa" * 32, "bb" * 32
SUM = "What is 40 + 2?"
VOTE = {"votes": 5, "min_votes": 5}
ANSWERS = {"x": "Answer: 42", "y": "Answer: 43"}
CONTENTS = {"x": X, "y": Y}


class House:
    """The last node is asked, by `client`."""

    def __init__(self) -> None:
        self.nodes: dict[str, RunningNode] = {}
        self.engines: dict[str, ScriptedEngine] = {}
        self.client: Client

    def asked(self, node: str) -> int:
        return len(self.engines[node].requests)


@asynccontextmanager
async def house(
    *nodes: tuple[str, str, str], own: tuple[str, str] | None = None, **options: Any
) -> AsyncIterator[House]:
    """Nodes as NAME, MODEL, CONTENT ("x", "y" or "" for one that does not tell); the asked one may have its `own`."""
    found = House()
    async with AsyncExitStack() as stack:
        for name, model, content in (*nodes, ("asked", *(own or ("", "")))):
            loaders = []
            if model:
                engine = found.engines[name] = ScriptedEngine(saying(ANSWERS[content or "x"]), model_id=model, slots=2)
                engine.has = {"chat_template": f"content {content}"} if content else {}
                loaders.append(ready(engine))
            node = RunningNode(
                name,
                *loaders,
                options=NodeOptions(
                    peers=[other.address for other in found.nodes.values()],
                    contents={model: CONTENTS[content]} if content else {},
                    **(options if name == "asked" else {}),
                ),
            )
            found.nodes[name] = await stack.enter_async_context(node)
        asked = found.nodes["asked"]
        await asked.until(lambda: len(asked.membership.alive()) == len(nodes))
        found.client = await stack.enter_async_context(connect(asked.url))
        yield found


def said(reply: Reply) -> str:
    assert reply.status == 200, reply.text
    return reply.json["choices"][0]["message"]["content"]


def voters(reply: Reply) -> dict[str, str]:
    """By the node of each voter, the model that it is said to have."""
    return {part["voter"].split("@", 1)[1]: part["model"] for part in reply.json["swarm"]["candidates"]}


async def models_of(client: Client) -> list[str]:
    return sorted(model["id"] for model in (await client.get("/v1/models")).json["data"])


async def test_two_contents_of_one_id_are_two_models_that_never_vote_together() -> None:
    async with house(("a", "m", "x"), ("b", "m", "y"), ("c", "m", "x"), own=("m", "x")) as swarm:
        assert await models_of(swarm.client) == ["m", "m@bbbbbb", "swarm"]
        reply = await swarm.client.chat(SUM, model="m", swarm=VOTE)
        assert said(reply) == ANSWERS["x"]
        assert voters(reply) == {"a": "m", "c": "m", "asked": "m"}
        reply = await swarm.client.chat(SUM, model="m@bbbbbb", swarm={"votes": 2})
        assert (said(reply), voters(reply)) == (ANSWERS["y"], {"b": "m@bbbbbb"})
        assert swarm.engines["b"].requests[-1].model == "m", "it is asked by the name that it knows"
        streamed = await swarm.client.chat(SUM, model="m@bbbbbb", stream=True, swarm={"strategy": "single"})
        assert streamed.status == 200
        assert '"model":"m@bbbbbb"' in streamed.text.replace(" ", "")


async def test_one_content_under_two_ids_is_one_model() -> None:
    async with house(("a", "qwen3-4b-q4_k_m", "x"), ("b", "q", "x"), own=("qwen3:4b", "x")) as swarm:
        assert await models_of(swarm.client) == ["qwen3:4b", "swarm"]
        for name in ("qwen3:4b", "q", "qwen3-4b-q4_k_m"):
            reply = await swarm.client.chat(SUM, model=name, swarm=VOTE)
            assert voters(reply) == dict.fromkeys(("a", "b", "asked"), "qwen3:4b")
        assert {engine.requests[-1].model for engine in swarm.engines.values()} == {"qwen3:4b", "q", "qwen3-4b-q4_k_m"}
        reply = await swarm.client.post("/v1/tokenize", {"model": "q", "content": "ab"})
        assert reply.json["tokens"] == [97, 98]


async def test_nothing_fails_over_to_another_content() -> None:
    async with house(("a", "m", "x"), ("b", "m", "y"), ("c", "n", "x")) as swarm:
        names = await models_of(swarm.client)
        assert names == ["m", "n", "swarm"] or names == ["m", "m@bbbbbb", "swarm"]
        of_y, of_x = ("m", "n") if "n" in names else ("m@bbbbbb", "m")
        swarm.engines["a"].script = lambda *_: [EngineFailed("broken")]
        reply = await swarm.client.chat(SUM, model=of_x, swarm={"strategy": "single"})
        assert said(reply) == ANSWERS["x"], "the other node of that content, whatever it calls it"
        swarm.engines["c"].script = lambda *_: [EngineFailed("broken")]
        before = swarm.asked("b")
        reply = await swarm.client.chat(SUM, model=of_x, swarm={"strategy": "single"})
        assert (reply.status, swarm.asked("b")) == (502, before)
        assert said(await swarm.client.chat(SUM, model=of_y, swarm={"strategy": "single"})) == ANSWERS["y"]


async def test_vectors_of_two_contents_are_never_mixed() -> None:
    async with house(("a", "m", "x"), ("b", "m", "y"), own=("m", "x")) as swarm:
        swarm.engines["asked"].utility_error = EngineFailed("broken")
        swarm.engines["a"].utility_error = EngineFailed("broken")
        for name in ("m", "swarm"):
            reply = await swarm.client.post("/v1/embeddings", {"model": name, "input": ["a", "bb"]})
            assert reply.status in (502, 503), reply.text
        reply = await swarm.client.post("/v1/embeddings", {"model": "m@bbbbbb", "input": ["a", "bb"]})
        assert (reply.status, reply.json["model"]) == (200, "m@bbbbbb")


async def test_a_conversation_follows_its_content() -> None:
    story = [{"role": "user", "content": "Tell me a story."}]
    async with house(("a", "m", "x"), ("b", "m", "y")) as swarm:
        first = await swarm.client.chat(messages=story, model="m@bbbbbb", swarm={"strategy": "single"})
        go_on = [*story, {"role": "assistant", "content": said(first)}, {"role": "user", "content": "Go on."}]
        for name, node in (("m", "a"), ("m@bbbbbb", "b")):
            reply = await swarm.client.chat(messages=go_on, model=name, swarm={"strategy": "single"})
            assert reply.json["swarm"]["routed"]["node"] == node


async def test_sizes_weights_and_pins_follow_the_content() -> None:
    known = {"m": {"number": Measured(40, 40)}, "n": {"number": Measured(0, 40)}}
    rules = RoutingRules(pins={"m": ("a",)})
    async with house(
        ("a", "n", "x"), ("b", "m", "y"), own=("m", "x"), measurements=known, rules=rules, sizes={}
    ) as swarm:
        found = {replica.node: replica for replica in swarm.nodes["asked"].dispatcher.replicas()}
        assert {node: (r.model, r.model_there) for node, r in found.items()} == {
            "a": ("m", "n"),
            "b": ("m@bbbbbb", "m"),
            "asked": ("m", "m"),
        }
        assert found["a"].params == found["asked"].params, "as read here, of the same content"
        assert found["b"].params is None, "of another content that name says nothing"
        assert (found["a"].pinned, found["asked"].pinned) == (True, False)
        reply = await swarm.client.chat(SUM, model="m", swarm={"votes": 3, "strategy": "weighted"})
        assert set(voters(reply).values()) == {"m"}


async def test_nodes_of_an_older_version_count_by_their_names() -> None:
    async with house(("a", "m", ""), ("b", "m", "x"), ("c", "m", "")) as swarm:
        assert await models_of(swarm.client) == ["m", "swarm"]
        reply = await swarm.client.chat(SUM, model="m", swarm=VOTE)
        assert set(voters(reply)) == {"a", "b", "c"}


# What could be loaded


async def test_what_peers_could_load_is_known_here_by_its_content_and_gone_with_them() -> None:
    qwen = LoadableModel(id="qwen3-4b-q4_k_m", fingerprint=X, load_s=2.0, also=("llama3.2:3b",))
    own = NodeOptions(loadables=WrittenList(LoadableModel(id="qwen3:4b", fingerprint=X, load_s=9.0)))
    async with AsyncExitStack() as stack:
        attic = await stack.enter_async_context(RunningNode("attic", options=NodeOptions(loadables=WrittenList(qwen))))
        options = NodeOptions(peers=[attic.address], loadables=own.loadables)
        kitchen = await stack.enter_async_context(RunningNode("kitchen", options=options))
        await eventually(lambda: len(kitchen.dispatcher.loadable("qwen3:4b")) == 2)
        first, second = soonest_ready(kitchen.dispatcher.loadable("qwen3:4b"))
        assert (first.node, first.model_there, first.load_s) == ("attic", "qwen3-4b-q4_k_m", 2.0)
        assert (second.node, second.local, second.load_s) == ("kitchen", True, 9.0)
        assert kitchen.dispatcher.names.known["qwen3:4b"] == {"qwen3-4b-q4_k_m", "llama3.2:3b"}
        assert kitchen.dispatcher.names.own == {"qwen3:4b": frozenset()}
        assert kitchen.dispatcher.loadable("qwen3-4b-q4_k_m") == (), "by its name here"
        engine = ScriptedEngine(saying("hello"), model_id="qwen3-4b-q4_k_m")
        await attic.pool.serve(ready(engine))
        await eventually(lambda: [each.node for each in kitchen.dispatcher.loadable("qwen3:4b")] == ["kitchen"])
        assert kitchen.dispatcher.loadable("qwen3:4b")[0].local, (
            "what runs there is not loaded there, whatever is listed"
        )
        await attic.stop()
        await eventually(lambda: [each.node for each in kitchen.dispatcher.loadable()] == ["kitchen"])
