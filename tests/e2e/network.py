"""A small network of Linux network namespaces: one bridge, one namespace for each machine, all removed on exit.

The bridge has a namespace of its own, so that this machine's packet filter (Docker's drops bridged packets) has no say.
One link leads from the bridge to the tests, which reach every machine at its own address.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import psutil

COMMAND_TIMEOUT_S: Final = 10.0  # each takes milliseconds; a hung one must not hang the suite
SUBNETS: Final = 254  # 10.77.1.0/24 to 10.77.254.0/24: one for each network that exists at the same time
OWN_HOST: Final = 254  # the tests' own address in each; the machines count up from 1
SWITCH: Final = "switch"  # the namespace of the bridge

_NAMESPACE = re.compile(r"^swarm-e2e-(?P<pid>\d+)-(?P<subnet>\d+)-(?P<name>\w+)$")

# Dropped in both directions: switched-off multicast on the way in, a strict local firewall on the way out.
_NO_MULTICAST: Final = """
table inet e2e {
    counter dropped { }
    chain incoming {
        type filter hook input priority 0;
        udp dport 5353 counter name dropped drop
        ip daddr 224.0.0.0/4 counter name dropped drop
    }
    chain outgoing {
        type filter hook output priority 0;
        udp dport 5353 counter name dropped drop
        ip daddr 224.0.0.0/4 counter name dropped drop
    }
}
"""


class CommandFailed(Exception):
    """A command of the system did not do what it was asked."""


def run(*command: str, stdin: str | None = None) -> str:
    """The command's output; raises CommandFailed with its own words."""
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        raise CommandFailed(f"{' '.join(command)}: {error.stderr.strip()}") from error
    return done.stdout


def why_impossible() -> str | None:
    """Why this machine cannot make network namespaces; None if it can."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: install {package}"
    try:
        with Network(("trial",)) as network:
            network.machines[0].block_multicast()
            return None
    except CommandFailed as error:
        return f"this machine does not allow network namespaces: {error}"


@dataclass(frozen=True, slots=True)
class Machine:
    """One network namespace: `ip` is its only address beside loopback, `port` its socket on the switch."""

    name: str
    namespace: str
    ip: str
    port: str

    def command(self, *command: str) -> tuple[str, ...]:
        """`command`, to be run in here; the process keeps its id, so signals reach it."""
        return ("ip", "netns", "exec", self.namespace, *command)

    def block_multicast(self) -> None:
        """Drop every mDNS and IPv4 multicast packet, in and out, until the network ends."""
        run(*self.command("nft", "-f", "-"), stdin=_NO_MULTICAST)

    def dropped_packets(self) -> int:
        """How many packets `block_multicast` has dropped."""
        listing = json.loads(run(*self.command("nft", "-j", "list", "counter", "inet", "e2e", "dropped")))
        return next(int(entry["counter"]["packets"]) for entry in listing["nftables"] if "counter" in entry)


class Network:
    """Machines called `names` on one bridge, from `__enter__` to `__exit__`. Raises CommandFailed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._stack = ExitStack()
        self.machines: tuple[Machine, ...] = ()
        self.switch = ""

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            subnet = self._claim_subnet()
            self.switch = switch = self._namespace(subnet, SWITCH)
            run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
            run("ip", "-n", switch, "link", "set", "bridge", "up")
            run("ip", "link", "set", _far_end(subnet), "netns", switch)
            run("ip", "-n", switch, "link", "set", _far_end(subnet), "master", "bridge", "up")
            run("ip", "address", "add", f"10.77.{subnet}.{OWN_HOST}/24", "dev", _own_end(subnet))
            run("ip", "link", "set", _own_end(subnet), "up")
            self.machines = tuple(
                self._plug_in(switch, subnet, host, name) for host, name in enumerate(self._names, start=1)
            )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _claim_subnet(self) -> int:
        """A subnet that no other run uses: the link's name, which can exist once only, is the claim."""
        for offset in range(SUBNETS):
            subnet = (os.getpid() + offset) % SUBNETS + 1
            try:
                run("ip", "link", "add", _own_end(subnet), "type", "veth", "peer", "name", _far_end(subnet))
            except CommandFailed as error:
                if "File exists" not in str(error):
                    raise
            else:
                self._stack.callback(_remove_link, subnet)
                return subnet
        raise CommandFailed(f"all {SUBNETS} test networks are in use")

    def _namespace(self, subnet: int, name: str) -> str:
        namespace = f"swarm-e2e-{os.getpid()}-{subnet}-{name}"
        self._stack.callback(_remove_namespace, namespace)
        run("ip", "netns", "add", namespace)
        return namespace

    def _plug_in(self, switch: str, subnet: int, host: int, name: str) -> Machine:
        port = f"port{host}"
        machine = Machine(name, self._namespace(subnet, name), f"10.77.{subnet}.{host}", port)
        run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
        run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
        inside = ("ip", "-n", machine.namespace)
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{machine.ip}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        return machine


def remove_leftovers() -> None:
    """Remove the networks of runs that were killed before they could."""
    for line in run("ip", "netns", "list").splitlines():
        match = _NAMESPACE.match(line.split(" ")[0])
        if match and not psutil.pid_exists(int(match["pid"])):
            if match["name"] == SWITCH:  # once the link is gone its subnet may be another run's
                _remove_link(int(match["subnet"]))
            _remove_namespace(match[0])


def _own_end(subnet: int) -> str:
    """A name that nodes outside take for a container's, and so never announce."""
    return f"vethe2e{subnet}"


def _far_end(subnet: int) -> str:
    return f"vethe2x{subnet}"


def _remove_link(subnet: int) -> None:
    with suppress(CommandFailed):  # it goes with its other end's namespace
        run("ip", "link", "delete", _own_end(subnet))


def _remove_namespace(namespace: str) -> None:
    """End what still runs in it, and remove it, if it is there."""
    with suppress(CommandFailed):
        for pid in run("ip", "netns", "pids", namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "delete", namespace)
