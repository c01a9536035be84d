"""A node that is killed, frozen or stopped leaves a swarm that still answers, and comes back into it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.asking import LONG_TOKENS, ask, long_stream, peer_seen, voted_on
from tests.e2e.network import Network
from tests.e2e.swarm_of_nodes import Swarm, all_see, federated

pytestmark = pytest.mark.netns

KILLED_OUT_S = 2.0  # refused connections say it at once
FROZEN_OUT_S = 6.0  # silence has to be told from a lost packet first
UNHURT_S = 4.0  # an answer that waited for the frozen node's silence to be noticed would take 5
BACK_S = 5.0  # from its answering again
GOODBYE_S = 1.0  # it says so to everyone, and to whoever probes it meanwhile
DRAIN_S = 30.0  # what running answers get


@pytest.fixture
def swarm(network: Network, tmp_path: Path) -> Iterator[Swarm]:
    with federated(network.machines, tmp_path, "--federation") as swarm:
        yield swarm


async def test_a_killed_node_is_not_missed_and_rejoins_when_it_comes_back(swarm: Swarm) -> None:
    await swarm.whole()
    *survivors, killed = swarm.nodes
    known_as = await peer_seen(survivors[0], killed.name)
    killed.kill()
    for node in survivors:
        await voted_on(node, [survivor.name for survivor in survivors])
    await all_see(survivors, survivors, KILLED_OUT_S)
    for node in survivors:
        await node.says(f"^- peer {killed.name}: ")

    killed.start()
    await killed.ready()
    await all_see(swarm.nodes, swarm.nodes, BACK_S)
    for node in survivors:
        assert node.output.rfind(f"\n+ peer {killed.name} ") > node.output.rfind(f"\n- peer {killed.name}: ")
    known_again = await peer_seen(survivors[0], killed.name)
    assert known_as is not None
    assert known_again is not None
    assert known_again["id"] == known_as["id"]
    await voted_on(survivors[0], [node.name for node in swarm])


async def test_a_frozen_node_leaves_in_time_while_questions_are_answered(swarm: Swarm) -> None:
    await swarm.whole()
    *survivors, frozen = swarm.nodes
    frozen.send(signal.SIGSTOP)
    async with asyncio.TaskGroup() as tasks:
        leaving = tasks.create_task(all_see(survivors, survivors, FROZEN_OUT_S))
        while not leaving.done():
            async with asyncio.timeout(UNHURT_S):
                answer = await ask(survivors[0])
            assert "Paris" in answer.text
            assert frozen.name not in answer.voting_nodes

    frozen.send(signal.SIGCONT)
    await all_see(swarm.nodes, swarm.nodes, BACK_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_stopped_node_says_goodbye_and_finishes_the_stream_it_is_in(
    swarm: Swarm, number: signal.Signals
) -> None:
    await swarm.whole()
    *others, stopped = swarm.nodes
    async with long_stream(stopped, strategy="single") as response:
        stopped.send(number)
        await all_see(others, others, GOODBYE_S)
        for node in others:
            await node.says(rf"^- peer {stopped.name}: (said goodbye|is shutting down)$")
            await voted_on(node, [other.name for other in others])
        assert stopped.exit_code is None, "it left before its stream was over"
        rest = await response.read()
    *_, last, done, nothing = rest.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    end = json.loads(last.removeprefix(b"data: "))
    assert end["choices"][0]["finish_reason"] == "length"
    assert end["swarm"]["total_completion_tokens"] == LONG_TOKENS
    assert await stopped.ended(DRAIN_S) == 0
    assert "Traceback" not in stopped.errors, stopped.logs()
