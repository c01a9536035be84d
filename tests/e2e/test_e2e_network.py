"""The test network leaves nothing behind, whatever becomes of the run that made it."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

import pytest

from tests.e2e.network import Network, run
from tests.e2e.node_process import ROOT

pytestmark = pytest.mark.netns

ENDED_S: Final = 5.0

KILLED_RUN: Final = """
import os, signal, subprocess
from tests.e2e.network import Network
network = Network(("orphan",)).__enter__()
subprocess.Popen(network.machines[0].command("sleep", "600"))
print(network.machines[0].namespace, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def namespaces() -> set[str]:
    return {line.split(" ")[0] for line in run("ip", "netns", "list").splitlines()}


def test_a_network_is_removed_after_a_failure(network: Network) -> None:
    other = Network(("one", "two"))
    with pytest.raises(ZeroDivisionError), other:
        _fail_in(other, network)
    gone = {machine.namespace for machine in other.machines}
    assert len(gone) == 2
    assert not gone & namespaces()
    assert {machine.namespace for machine in network.machines} < namespaces(), "the other network stays"
    assert other.machines[0].ip.removesuffix("1") not in run("ip", "-brief", "address")


def _fail_in(entered: Network, other: Network) -> None:
    assert {machine.namespace for machine in entered.machines} < namespaces()
    assert not {machine.ip for machine in entered.machines} & {machine.ip for machine in other.machines}
    raise ZeroDivisionError


def test_what_a_killed_run_left_behind_is_removed_by_the_next(network: Network) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED_RUN], cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        orphan = killed.stdout.readline().strip()
        assert killed.wait(ENDED_S) == -signal.SIGKILL
        assert orphan in namespaces()
        assert len(run("ip", "netns", "pids", orphan).split()) == 1
        with Network(()):
            assert orphan not in namespaces()
        killed.communicate(timeout=ENDED_S)  # returns once the orphaned process, which holds the pipe too, is gone
