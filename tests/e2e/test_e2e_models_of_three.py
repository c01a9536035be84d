"""Three machines, each with other models on its disk, kept there by other programs: any of them answers for all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.model_homes import into_hub_cache, into_lm_studio, into_ollama
from tests.doubles.tiny_models import write_named_model
from tests.e2e.asking import Answer, ask, get_text, metrics_of
from tests.e2e.network import Network
from tests.e2e.node_process import NodeProcess
from tests.e2e.swarm_of_nodes import JOIN_S, Swarm, federated
from tests.e2e.waiting import eventually

pytestmark = pytest.mark.netns

LOADING_S = 30.0  # from a request to the beginning of its load
ONCE = {"strategy": "single"}
HUB, OLLAMA, LM_STUDIO = "hub-tale", "tale:1b", "studio-tale"  # one on each disk, by the ids that they have there
WANTED_TWICE = "second-tale"  # on the kitchen's
TWINS = (
    "smollm2:135m:q4_1",
    "twin-of-attic",
)  # one content on two disks: the hub's cache tells its hash, and so its name
LOADS = 'swarm_model_loads_total{to="ready"}'


@pytest.fixture
def swarm(network: Network, tmp_path: Path, smollm2: Path) -> Iterator[Swarm]:
    kitchen, study, attic = (tmp_path / machine.name for machine in network.machines)
    into_hub_cache(kitchen, write_named_model(tmp_path / "a.gguf"), "someone/Hub-Tale-GGUF", f"{HUB}.gguf")
    into_hub_cache(kitchen, write_named_model(tmp_path / "b.gguf"), "someone/Second-GGUF", f"{WANTED_TWICE}.gguf")
    into_hub_cache(kitchen, smollm2, "someone/Twin-GGUF", "twin-of-kitchen.gguf")
    into_ollama(study, write_named_model(tmp_path / "c.gguf", source="demo:b"), OLLAMA)
    into_lm_studio(attic, write_named_model(tmp_path / "d.gguf"), "publisher/Studio-Tale-GGUF", f"{LM_STUDIO}.gguf")
    into_lm_studio(attic, smollm2, "publisher/Twin-GGUF", f"{TWINS[1]}.gguf")
    config = tmp_path / "config.toml"
    config.write_text("[peers]\nloads_a_minute = 60\n")
    with federated(network.machines, tmp_path, "--federation", "--isolate", "--config", str(config)) as swarm:
        yield swarm


async def states(node: NodeProcess) -> dict[str, dict[str, str]]:
    """Each model that it lists, with its state on each node."""
    text = await get_text(f"{node.url}/v1/models")
    return {} if text is None else {model["id"]: model["states"] for model in json.loads(text)["data"]}


async def all_are_listed(swarm: Swarm) -> None:
    async def missing() -> list[str]:
        wanted = {HUB: {"kitchen"}, OLLAMA: {"study"}, LM_STUDIO: {"attic"}, WANTED_TWICE: {"kitchen"}}
        found = [(node, await states(node)) for node in swarm]
        gaps = [
            f"{node.name}: {name}"
            for node, models in found
            for name, nodes in wanted.items()
            if set(models.get(name, ())) != nodes
        ]
        twins = ({node for name in TWINS for node in models.get(name, ())} for _, models in found)
        return gaps + [f"twins: {nodes}" for nodes in twins if nodes != {"kitchen", "attic"}]

    await eventually(missing, JOIN_S, "each node lists the models of all", until=lambda gaps: not gaps)


async def loads(swarm: Swarm) -> dict[str, float]:
    """How many models each node has loaded."""
    return {node.name: (await metrics_of(node)).get(LOADS, 0) for node in swarm if node.exit_code is None}


def answered_by(answer: Answer) -> tuple[str, str]:
    (candidate,) = answer.swarm["candidates"]
    return candidate["model"], candidate["voter"].rpartition("@")[2]


async def test_three_nodes_answer_for_the_models_of_all(swarm: Swarm) -> None:
    """One after the other: the engines that they start live as long as this test."""
    await swarm.whole()
    await all_are_listed(swarm)
    await two_clients_at_two_nodes_make_one_load(swarm)
    await any_node_answers_for_what_lies_on_the_disk_of_any(swarm)
    await a_node_that_is_killed_while_it_loads_is_followed_by_another_that_has_the_model(swarm)
    for node in swarm:
        assert "Traceback" not in node.errors, node.logs()


async def two_clients_at_two_nodes_make_one_load(swarm: Swarm) -> None:
    before = await loads(swarm)
    asked = (swarm.nodes[1], swarm.nodes[2])
    answers = await asyncio.gather(*(ask(node, model=WANTED_TWICE, **ONCE) for node in asked))
    assert [answered_by(answer) for answer in answers] == [(WANTED_TWICE, "kitchen")] * 2
    assert all("Paris" in answer.text for answer in answers)
    after = await loads(swarm)
    assert {name: after[name] - before[name] for name in after} == {"kitchen": 1, "study": 0, "attic": 0}


async def any_node_answers_for_what_lies_on_the_disk_of_any(swarm: Swarm) -> None:
    for name, where in ((HUB, "kitchen"), (OLLAMA, "study"), (LM_STUDIO, "attic")):
        for node in swarm:
            answer = await ask(node, model=name, **ONCE)
            assert answered_by(answer) == (name, where)
            assert "Paris" in answer.text
    for name, meant in (
        ("hf:someone/Hub-Tale-GGUF/hub-tale.gguf", HUB),
        ("publisher/Studio-Tale-GGUF", LM_STUDIO),
        ("TALE:1b", OLLAMA),
    ):
        for node in swarm:
            assert answered_by(await ask(node, model=name, **ONCE))[0] == meant


async def a_node_that_is_killed_while_it_loads_is_followed_by_another_that_has_the_model(swarm: Swarm) -> None:
    asked = swarm.nodes[1]
    asking = asyncio.create_task(ask(asked, model=TWINS[1], **ONCE))

    async def loading() -> NodeProcess | None:
        for node in swarm:
            for name, nodes in (await states(node)).items():
                if name in TWINS and nodes.get(node.name) == "loading":
                    return node
        return None

    node = await eventually(loading, LOADING_S, "somebody loads it")
    assert node is not None
    node.kill()
    answer = await asking
    survivor = "attic" if node.name == "kitchen" else "kitchen"
    assert answered_by(answer)[1] == survivor
    assert answer.swarm["routed"]["node"] == survivor
