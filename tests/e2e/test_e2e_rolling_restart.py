"""Three nodes restarted one after the other while clients keep asking: nobody is told an error."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from openai import DEFAULT_MAX_RETRIES

from tests.doubles.handing_over import held
from tests.e2e.asking import get_text
from tests.e2e.load import LONG, SHORT, Balancer, History, Kind, answer_of, load, sdk_client, watched
from tests.e2e.network import Network
from tests.e2e.node_process import NodeProcess
from tests.e2e.swarm_of_nodes import Swarm, all_see, federated
from tests.e2e.waiting import eventually

CLIENTS = 6
ENDED_S = 40.0  # the linger, and what the longest answer takes on a busy machine
READY_S = 20.0
ANSWERS_S = 120.0  # a dozen clients share two cores with other tests
BACK_S = 5.0
ASKED_EACH = 20  # answers that a node has to have given, so that the load was one


@pytest.fixture
def swarm(network: Network, tmp_path: Path) -> Iterator[Swarm]:
    with federated(network.machines, tmp_path, "--federation") as swarm:
        yield swarm


async def reference_of(nodes: Swarm) -> dict[str, str]:
    """The one answer to each question, whoever gives it."""
    said: dict[str, set[str]] = {SHORT: set(), LONG: set()}
    for node in nodes:
        async with sdk_client(node.url, retries=0) as client:
            for question in said:
                said[question] |= {await answer_of(client, Kind(question, streamed)) for streamed in (False, True)}
    assert all(len(texts) == 1 for texts in said.values()), said
    return {question: texts.pop() for question, texts in said.items()}


async def restart(node: NodeProcess) -> None:
    """Stop it as a supervisor does and start it again; return when it says that it is ready."""
    url = node.url
    node.send(signal.SIGTERM)
    assert await node.ended(ENDED_S) == 0
    assert "Traceback" not in node.errors, node.logs()
    node.start()

    async def ready() -> bool:
        assert node.exit_code is None, node.logs()
        return await get_text(f"{url}/readyz") == '{"status":"ok"}'

    await eventually(ready, READY_S, f"{node.name} is ready")


@pytest.mark.netns
async def test_a_rolling_restart_under_load_is_not_noticed_by_clients_of_a_balancer(swarm: Swarm) -> None:
    await swarm.whole()
    reference = await reference_of(swarm)
    balancer = Balancer([node.url for node in swarm])

    async def roll() -> None:
        for node in swarm:
            await restart(node)
            await all_see(swarm.nodes, swarm.nodes, BACK_S)

    async with load(CLIENTS, balancer.pick) as history:
        await watched(balancer, roll())
    assert history.errors == []
    assert history.wrong(reference) == []
    assert min(history.asked.values()) >= ASKED_EACH, history.asked


@contextmanager
def activated(tmp_path: Path, *names: str) -> Iterator[Swarm]:
    """Nodes on this machine whose ports are held open between their runs, as by `deploy/swarm.socket`."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(held(socket.create_server(("127.0.0.1", 0), backlog=1024))) for _ in names]
        peers = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
        nodes: list[NodeProcess] = []
        for place, name in enumerate(names):
            others = [part for peer in peers[:place] + peers[place + 1 :] for part in ("--peer", peer)]
            told = ("--host", "127.0.0.1", *others)
            nodes.append(NodeProcess(name, tmp_path / name, arguments=told, listener=listeners[place]))
        yield stack.enter_context(Swarm(nodes))


@pytest.mark.parametrize("names", [("kitchen",), ("kitchen", "study")], ids=["alone", "with a peer"])
async def test_a_node_whose_port_is_held_open_restarts_unnoticed_by_the_sdk(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    """All clients know one address only, and retry as the SDK does by itself."""
    with activated(tmp_path, *names) as nodes:
        await nodes.whole()
        kitchen = nodes.nodes[0]
        url, reference = kitchen.url, await reference_of(nodes)
        async with load(CLIENTS, lambda: url, retries=DEFAULT_MAX_RETRIES) as history:
            await restart(kitchen)
            await answered(history, ASKED_EACH)
        assert history.errors == []
        assert history.wrong(reference) == []


async def answered(history: History, more: int) -> None:
    """Return when `more` answers have come in from now on."""
    enough = len(history.told) + more

    async def came() -> bool:
        return len(history.told) >= enough

    await eventually(came, ANSWERS_S, f"{more} more answers")
