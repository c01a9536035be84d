"""A swarm of real node processes in network namespaces of this machine, for the figures about faults.

Each node has a namespace and an address of its own on one bridge; this process stands beside them on the same bridge,
so that it sees every node whatever is done to the links between them. Everything is removed on the way out, also on
Ctrl-C.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from load import Endpoint, RunError

from tests.doubles.handing_over import held
from tests.e2e.network import SWITCH, Machine, Network, run, why_impossible
from tests.e2e.node_process import PROGRAM, NodeProcess, environment

PORT = 17615  # the default of --port
POLL_S = 0.015  # what an instant may be late by, beside the answer's own millisecond or two
VIEW_TIMEOUT_S = 2.0  # a node that is alive answers in milliseconds, on a starved machine in a second
START_S = 60.0  # a random model of 500 MB on a busy machine; the embedded one takes a second
WHOLE_S = 30.0  # until all found each other: a few seconds; more means that something is broken
COMMAND_TIMEOUT_S = 60.0
BACKLOG = 1024  # as the node's own listeners
CLONE_NEWNET = 0x40000000  # <sched.h>; os.setns is Python 3.12's


@dataclass(frozen=True, slots=True)
class Stage:
    """Machines on one bridge, and the nodes that run on them; `folder` has their files."""

    folder: Path
    network: Network
    session: aiohttp.ClientSession
    nodes: dict[str, NodeProcess]

    def machine(self, name: str) -> Machine:
        return next(machine for machine in self.network.machines if machine.name == name)

    def node(
        self,
        name: str,
        machine: Machine,
        arguments: Sequence[str],
        listener: socket.socket | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> NodeProcess:
        """A node called `name` with an empty data folder, not started yet; it is handed the `listener`, if any."""
        return NodeProcess(name, self.folder / name, machine, arguments, listener, program)

    async def routed_by(self, node: NodeProcess) -> frozenset[str] | None:
        """Names of the nodes that `node` would ask for anything, itself among them; None where it does not answer."""
        try:
            models = (await self.health(node))["models"]
        except (aiohttp.ClientError, TimeoutError):
            return None
        return frozenset(name for names in models.values() for name in names)

    async def health(self, node: NodeProcess) -> dict[str, Any]:
        """Its /v1/federation/health. Raises aiohttp.ClientError or TimeoutError."""
        assert node.machine is not None
        async with self.session.get(f"http://{node.machine.ip}:{PORT}/v1/federation/health") as response:
            response.raise_for_status()
            return await response.json()

    async def instant(
        self, watching: Sequence[NodeProcess], wanted: Callable[[frozenset[str]], bool], timeout_s: float, what: str
    ) -> float:
        """When (`time.perf_counter`) the last of `watching` had come to route as `wanted`."""
        instants = await asyncio.gather(*(self._instant_of(node, wanted, timeout_s, what) for node in watching))
        return max(instants)

    async def _instant_of(
        self, node: NodeProcess, wanted: Callable[[frozenset[str]], bool], timeout_s: float, what: str
    ) -> float:
        deadline = time.perf_counter() + timeout_s
        while (seen := await self.routed_by(node)) is None or not wanted(seen):
            if time.perf_counter() > deadline:
                sees = "does not answer" if seen is None else f"sees {sorted(seen)}"
                raise RunError(f"not within {timeout_s:g} s in the eyes of {node.name}: {what}; it {sees}")
            await asyncio.sleep(POLL_S)
        return time.perf_counter()

    async def found_by_mdns(self, newcomer: NodeProcess, residents: Sequence[NodeProcess]) -> None:
        """Raises RunError where neither side heard of the other by mDNS: then something else was measured.

        Each listens; whoever hears first introduces itself, and the other then knows it as the one that asked.
        """
        sources = [
            peer["source"]
            for node in (newcomer, *residents)
            for peer in (await self.health(node))["peers"]
            if newcomer.name in (node.name, peer["name"])
        ]
        if "mdns" not in sources:
            raise RunError(f"{newcomer.name} was found through {sources}, not through mDNS")

    async def model_of(self, node: NodeProcess) -> str:
        """The id of the model that it serves itself."""
        models = (await self.health(node))["models"]
        return next(model for model, names in models.items() if node.name in names)

    def give_address(self, machine: Machine, ip: str) -> None:
        """Have `machine` use `ip` and no other IPv4 address."""
        inside = ("ip", "-n", machine.namespace, "-4", "address")
        run(*inside, "flush", "dev", "eth0", "scope", "global")
        run(*inside, "add", f"{ip}/24", "dev", "eth0")

    async def whole(self, timeout_s: float = WHOLE_S) -> float:
        """When every node routes to all."""
        names = frozenset(self.nodes)
        return await self.instant(tuple(self.nodes.values()), names.__eq__, timeout_s, "all are there")

    def cut(self, side: Sequence[str]) -> None:
        """Drop everything, multicast included, that goes over the bridge between `side` and the other machines."""
        ports = [f'"port{number}"' for number, _ in enumerate(self.network.machines, 1)]
        here = [port for port, machine in zip(ports, self.network.machines, strict=True) if machine.name in side]
        there = [port for port in ports if port not in here]
        one, other = (f"{{ {', '.join(group)} }}" for group in (here, there))
        self._filter_bridge(
            "table bridge cut {\n chain forward {\n  type filter hook forward priority 0\n"
            f"  iifname {one} oifname {other} drop\n  iifname {other} oifname {one} drop\n }}\n}}\n"
        )

    def heal(self) -> None:
        self._filter_bridge("delete table bridge cut\n")

    def _filter_bridge(self, rules: str) -> None:
        switch = self.network.machines[0].namespace.rsplit("-", 1)[0] + f"-{SWITCH}"
        run("ip", "netns", "exec", switch, "nft", "-f", "-", stdin=rules)

    async def command(self, node: NodeProcess, *words: str) -> dict[str, object]:
        """What a `swarm` command on the node's own machine prints with --json."""
        assert node.machine is not None
        home = self.folder / node.name
        command = node.machine.command(*PROGRAM, *words, "--json", "--data-dir", str(home / "data"))
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment(home), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        if done.returncode:
            raise RunError(f"swarm {words[0]} failed: {done.stderr}")
        return json.loads(done.stdout)

    async def pair(self) -> None:
        """Make the nodes a paired swarm: mutual TLS between them from now on."""
        first, *others = self.nodes.values()
        for node in others:
            code = str((await self.command(first, "invite"))["code"])
            await self.command(node, "join", code)
        await self.whole()


@dataclass(frozen=True, slots=True)
class PinnedMachine(Machine):
    """A machine of one core: whatever is started on it, engines included, stays there."""

    core: int = 0

    def command(self, *command: str) -> tuple[str, ...]:
        return Machine.command(self, "taskset", "--cpu-list", str(self.core), *command)


def listener_on(machine: Machine) -> socket.socket:
    """A socket that listens on the machine's port, as `deploy/swarm.socket` holds it open while a node is restarted."""

    def listen() -> socket.socket:
        with Path("/run/netns", machine.namespace).open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise RunError(f"no entry to {machine.namespace}: {os.strerror(ctypes.get_errno())}")
        return socket.create_server(("0.0.0.0", PORT), backlog=BACKLOG)

    with ThreadPoolExecutor(1) as threads:  # only the thread that enters the namespace is in it, and it ends here
        return threads.submit(listen).result()


def endpoint(node: NodeProcess) -> Endpoint:
    """Where clients ask it."""
    assert node.machine is not None
    return Endpoint(node.machine.ip, PORT)


async def ready_at(node: NodeProcess, timeout_s: float = START_S) -> float:
    """When (`time.perf_counter`) its `ready` line was there."""
    deadline = time.perf_counter() + timeout_s
    while "\nready: " not in node.output:
        if node.exit_code is not None or time.perf_counter() > deadline:
            raise RunError(f"{node.name} did not start\n{node.logs()}")
        await asyncio.sleep(POLL_S / 3)
    return time.perf_counter()


@asynccontextmanager
async def stage(
    members: Mapping[str, Sequence[str]],
    spare: Sequence[str] = (),
    pins: Mapping[str, int] | None = None,
    ports_held: bool = False,
    programs: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> AsyncGenerator[Stage]:
    """Nodes called like the keys, each with its arguments, all ready; whether they know each other, `whole` tells.

    Machines called `spare` stand empty. Nodes in `pins` have that one core. With `ports_held` their ports
    stay open while they are restarted. Nodes in `programs` are run by these in place of main.py. A run that fails
    inside shows what the nodes said. Raises RunError where network namespaces are impossible.
    """
    reason = why_impossible()
    if reason is not None:
        raise RunError(reason)
    timeout = aiohttp.ClientTimeout(total=VIEW_TIMEOUT_S)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        network = stack.enter_context(Network((*members, *spare)))
        session = aiohttp.ClientSession(timeout=timeout)
        made = Stage(folder, network, session, {})
        try:
            for name, arguments in members.items():
                machine = made.machine(name)
                if pins is not None and name in pins:
                    machine = PinnedMachine(machine.name, machine.namespace, machine.ip, pins[name])
                listener = stack.enter_context(held(listener_on(machine))) if ports_held else None
                made.nodes[name] = made.node(name, machine, arguments, listener, programs.get(name, PROGRAM))
                stack.enter_context(made.nodes[name])
            for node in made.nodes.values():
                await ready_at(node)
            yield made
        except (RunError, AssertionError, ExceptionGroup) as error:  # a group: from clients that ran meanwhile
            for node in made.nodes.values():
                error.add_note(f"--- {node.name}\n{node.logs()[-3000:]}")
            raise
        finally:
            await session.close()
