"""The switch of a test network, made to lose, cut and delay what it carries between machines.

The tests' own link is never touched: clients see what nodes do, not what the line does to the clients.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tests.e2e.network import Network, run
from tests.e2e.node_process import ROOT

ALL_PERCENT: Final = 100
STOP_TIMEOUT_S: Final = 5.0  # the delaying program ends as soon as its input does


@dataclass(frozen=True, slots=True)
class Loss:
    """`percent` of the frames that `sender` has carried to `receiver` are lost: all of them in a cut line."""

    sender: str
    receiver: str
    percent: int = ALL_PERCENT


def cut(some: Collection[str], others: Collection[str]) -> frozenset[Loss]:
    """Nothing passes between `some` and `others`, either way."""
    return one_way(some, others) | one_way(others, some)


def one_way(senders: Collection[str], receivers: Collection[str]) -> frozenset[Loss]:
    """Nothing of `senders` reaches `receivers`; the other way all is well."""
    return frozenset(Loss(sender, receiver) for sender in senders for receiver in receivers)


def lossy(names: Collection[str], percent: int) -> frozenset[Loss]:
    """Every line between two of `names` loses `percent` each way."""
    return frozenset(Loss(one, other, percent) for one in names for other in names if one != other)


def rules(losses: Iterable[Loss], ports: dict[str, str]) -> str:
    """The switch's packet filter, which replaces the one before; `ports` by machine."""
    lines = ["table bridge faults", "delete table bridge faults", "table bridge faults {", "counter lost { }"]
    lines += ["chain forward {", "type filter hook forward priority 0;"]
    for loss in sorted(losses, key=lambda loss: (loss.sender, loss.receiver, loss.percent)):
        share = "" if loss.percent == ALL_PERCENT else f"numgen random mod 100 < {loss.percent} "
        way = f'iifname "{ports[loss.sender]}" oifname "{ports[loss.receiver]}"'
        lines.append(f"{way} {share}counter name lost drop")
    return "\n".join([*lines, "}", "}", ""])


class FaultySwitch:
    """The faults on a network's lines, from `__enter__` to `__exit__`, which heals them. For several threads."""

    def __init__(self, network: Network) -> None:
        self._namespace = network.switch
        self._machines = {machine.name: machine for machine in network.machines}
        self._ports = {machine.name: machine.port for machine in network.machines}
        self._losses: dict[str, frozenset[Loss]] = {}
        self._slow: dict[str, subprocess.Popen[str]] = {}
        self._one_at_a_time = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as healing:
            healing.callback(self._stop_losing)
            for name in list(self._slow):
                healing.callback(self.at_once, name)

    def lose(self, reason: str, losses: frozenset[Loss]) -> None:
        """Lose this from now on, beside what is lost for other reasons."""
        with self._one_at_a_time:
            self._losses[reason] = losses
            self._apply()

    def heal(self, reason: str) -> None:
        """Lose nothing for that reason any more."""
        with self._one_at_a_time:
            self._losses.pop(reason, None)
            self._apply()

    def lost_frames(self) -> int:
        """How many frames the rules in force have lost."""
        listing = json.loads(self._run("nft", "-j", "list", "counter", "bridge", "faults", "lost"))
        return next(int(entry["counter"]["packets"]) for entry in listing["nftables"] if "counter" in entry)

    def unplug(self, name: str) -> None:
        """Pull the machine's cable: it sees that its link is down, and the tests reach it no more either."""
        self._run("ip", "link", "set", self._machines[name].port, "down")

    def plug_in(self, name: str) -> None:
        self._run("ip", "link", "set", self._machines[name].port, "up")

    def delay(self, name: str, one_way_s: float) -> None:
        """Everything that the machine sends and gets takes this long on the way."""
        port = self._machines[name].port
        far, near = f"{port}-far", f"{port}-near"
        self._run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        self._run("ip", "link", "set", near, "up")
        program = (sys.executable, "-m", "tests.faults.slow_line", port, near, str(one_way_s))
        line = subprocess.Popen(
            ("ip", "netns", "exec", self._namespace, *program),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._slow[name] = line
        assert line.stdout is not None
        assert line.stdout.readline() == "ready\n", "the slow line does not start"
        with self._one_at_a_time:
            self._run("ip", "link", "set", port, "nomaster")
            self._run("ip", "link", "set", far, "master", "bridge", "up")
            self._ports[name] = far
            self._apply()

    def at_once(self, name: str) -> None:
        """The end of `delay`."""
        port = self._machines[name].port
        with self._one_at_a_time:
            self._run("ip", "link", "set", f"{port}-far", "nomaster")
            self._run("ip", "link", "set", port, "master", "bridge")
            self._ports[name] = port
            self._apply()
        line = self._slow.pop(name)
        line.communicate(timeout=STOP_TIMEOUT_S)
        self._run("ip", "link", "delete", f"{port}-far")

    def _stop_losing(self) -> None:
        self._losses.clear()
        self._apply()

    def _apply(self) -> None:
        losses = frozenset[Loss]().union(*self._losses.values())
        run("ip", "netns", "exec", self._namespace, "nft", "-f", "-", stdin=rules(losses, self._ports))

    def _run(self, *command: str) -> str:
        return run("ip", "netns", "exec", self._namespace, *command)
