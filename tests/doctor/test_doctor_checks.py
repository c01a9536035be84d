"""The checks as plain functions: healthy and broken facts, what is said and which remedy comes with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.addresses import AnnouncedAddresses, choose_addresses
from federation.interfaces import Interface
from hardware.snapshot import GIB_BYTES, MIB_BYTES, AppleSilicon, Gpu, HardwareSnapshot, Memory
from swarm.commands.doctor import conclusion, text_of
from swarm.doctor.finding import Finding, Level, exit_code, fail, ok, unknown, warn
from swarm.doctor.firewall import Passage
from swarm.doctor.machine_checks import (
    DataFolder,
    EngineFacts,
    McpServerFacts,
    SecretFile,
    check_disk,
    check_engine,
    check_gpu,
    check_keys,
    check_mcp_server,
    check_memory,
    check_models,
    check_requirements,
    check_sandbox,
)
from swarm.doctor.network_checks import (
    PeerFacts,
    check_clock,
    check_firewall,
    check_interfaces,
    check_key_and_peers,
    check_multicast,
    check_peer,
    check_peer_versions,
    check_port,
)
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox


def on(name: str, *ips: str) -> AnnouncedAddresses:
    return choose_addresses((Interface("lo", ("127.0.0.1",)), Interface(name, ips)))


CARD = HardwareSnapshot(gpus=(Gpu("nvidia", "RTX 4090", memory_total_bytes=24 * GIB_BYTES),))
SHARED = HardwareSnapshot(gpus=(Gpu("amd", "Radeon 780M", integrated=True),))
APPLE = HardwareSnapshot(apple=AppleSilicon("Apple M2"))
UNUSED = "not used, the engine computes on the CPU"


@pytest.mark.parametrize(
    ("snapshot", "used", "level", "said"),
    [
        (HardwareSnapshot(), False, None, ""),
        (CARD, True, Level.OK, "RTX 4090: the engine computes on it"),
        (CARD, False, Level.WARN, f"RTX 4090: {UNUSED}"),
        (replace(CARD, gpus=CARD.gpus * 4), False, Level.WARN, f"RTX 4090 and 3 more: {UNUSED}"),
        (SHARED, False, Level.OK, f"Radeon 780M: {UNUSED}"),
        (APPLE, True, Level.OK, "Apple's: the engine computes on it"),
        (APPLE, False, Level.WARN, f"the GPU of Apple M2: {UNUSED}"),
    ],
)
def test_a_gpu_that_is_not_used_is_said(snapshot: HardwareSnapshot, used: bool, level: Level | None, said: str) -> None:
    finding = check_gpu(snapshot, used)
    assert (finding and finding.level) == level
    assert finding is None or finding.message == said


PEER = PeerFacts("10.0.0.2:17615", "study", version="1.0", clock_ahead_s=0.3, sees_us=True)

NO_BWRAP = NoSandbox("bwrap is not installed", "install the package bubblewrap")
HEALTHY = [
    check_engine(EngineFacts("xllamacpp", 4, 0.7)),
    check_models({}, 2),
    check_memory(Memory(16 * GIB_BYTES, 8 * GIB_BYTES)),
    check_disk(DataFolder("/data", 90 * GIB_BYTES)),
    check_keys([]),
    check_keys([SecretFile("/data/node.json")]),
    check_sandbox(Sandbox("bwrap"), True),
    check_sandbox(Sandbox("docker", image="debian:stable"), False),
    check_mcp_server(McpServerFacts("git", 3)),
    check_requirements("1.0", "3.12.1", []),
    check_port(17615, "free"),
    check_port(17615, "node", "the node kitchen runs here"),
    check_interfaces(on("eth0", "192.168.1.5")),
    check_multicast({"192.168.1.5": "received"}),
    check_firewall(17615, [Passage("ufw", "open", "open")]),
    *check_peer(PEER),
    *check_peer(replace(PEER, problem="wants a certificate", node_says="alive")),
    check_peer_versions("1.0", [PEER]),
]

BROKEN = [
    (check_engine(EngineFacts("xllamacpp", 0, 0.0, "cannot be loaded: no AVX")), "pip install"),
    (check_engine(EngineFacts("xllamacpp", 0, 0.5)), "report this"),
    (check_models({"/m/x.gguf": "/m/x.gguf is cut short"}, 1), "delete /m/x.gguf"),
    (check_memory(Memory(free_bytes=100 * MIB_BYTES)), "swarm models fit"),
    (check_disk(DataFolder("/data", 10 * MIB_BYTES)), "swarm models rm"),
    (check_disk(DataFolder("/data", None, "cannot be written to")), "--data-dir"),
    (check_keys([SecretFile("/data/node.json", "/data/node.json holds no id")]), "repair or remove /data/node.json"),
    (check_keys([SecretFile("/data/node.json", exposed=True)]), "chmod 600 /data/node.json"),
    (check_sandbox(NO_BWRAP, True), "install the package bubblewrap"),
    (check_requirements("1.0", "3.12.1", ["aiohttp 3.9 is older than 3.14"]), "--upgrade"),
    (check_port(17615, "other"), "swarm --port 17617"),
    (check_port(17616, "other"), "swarm --port 17618"),
    (check_port(17616, "refused", "why"), "swarm --port 17618"),
    (check_port(65535, "refused", "why"), "swarm --port 65533"),
    (check_port(80, "refused", "Permission denied"), "--port"),
    (check_interfaces(on("eth0")), "connect this machine"),
    (check_interfaces(None, "--interface wg9 has no address now"), "leave the option out"),
    (check_multicast({"10.0.0.1": "not sent"}), "UDP 5353"),
    (check_multicast({"10.0.0.1": "not received"}), "--peer HOST:PORT"),
    (check_firewall(17615, [Passage("ufw", "blocked", "open")]), "sudo ufw allow 17615/tcp"),
    (check_firewall(17615, [Passage("nftables", "open", "blocked")]), "udp dport 5353 accept"),
    (check_firewall(17615, [Passage("firewalld", "blocked", "blocked")]), "--add-port=17615/tcp"),
    (check_peer(replace(PEER, problem="cannot be reached"))[0], "start a node there"),
    (check_peer(replace(PEER, problem="speaks 2", other_protocol=True))[0], "same version"),
    (check_peer(replace(PEER, sees_us=False))[0], "this machine's firewall"),
    (check_clock("study", -3600.0), "network"),
]

DOUBTFUL = [
    check_sandbox(NO_BWRAP, False),
    check_sandbox(Sandbox("none"), True),
    check_mcp_server(McpServerFacts("git", 0, "ended with exit code 127")),
    check_memory(Memory(free_bytes=GIB_BYTES)),
    check_memory(Memory()),
    check_disk(DataFolder("/data", GIB_BYTES)),
    check_disk(DataFolder("/data", None)),
    check_interfaces(on("wg0", "10.8.0.2")),
    check_interfaces(on("docker0", "172.17.0.1")),
    check_interfaces(on("eth0", "169.254.3.4")),
    check_multicast({"10.0.0.1": "received", "10.0.0.2": "not sent"}),
    check_multicast({"10.0.0.1": "untried"}),
    check_multicast({}),
    check_firewall(17615, []),
    check_firewall(17615, [Passage("macOS", "unknown", "unknown", "it asks for each program")]),
    check_peer(replace(PEER, sees_us=None))[0],
    check_clock("study", 45.0),
    *filter(None, [check_key_and_peers(True, "anyone", True), check_key_and_peers(True, "nobody", True)]),
    *filter(None, [check_key_and_peers(True, "nobody", False)]),
    check_peer_versions("1.0", [replace(PEER, version="0.9")]),
]


@pytest.mark.parametrize("finding", HEALTHY, ids=lambda finding: finding.check)
def test_what_is_well_needs_no_remedy(finding: Finding) -> None:
    assert (finding.level, finding.remedy) == (Level.OK, None)


@pytest.mark.parametrize(("finding", "remedy"), BROKEN, ids=lambda value: getattr(value, "check", None))
def test_what_is_broken_fails_with_its_remedy(finding: Finding, remedy: str) -> None:
    assert finding.level is Level.FAIL
    assert remedy in (finding.remedy or "")


@pytest.mark.parametrize("finding", DOUBTFUL, ids=lambda finding: finding.check)
def test_what_is_doubtful_is_said_and_fails_nothing(finding: Finding) -> None:
    assert finding.level in (Level.WARN, Level.UNKNOWN)
    assert exit_code([finding]) == 0


@pytest.mark.parametrize(("with_key", "peers"), [(False, "anyone"), (True, "members"), (True, "none")])
def test_a_key_that_closes_all_or_is_not_there_is_worth_no_word(with_key: bool, peers: str) -> None:
    assert check_key_and_peers(with_key, peers, True) is None


def test_the_exit_code_and_the_last_line_follow_the_worst() -> None:
    well, badly = ok("a", "fine"), fail("b", "broken", "mend it")
    assert (exit_code([well]), conclusion([well])) == (0, "all well")
    assert (exit_code([well, badly]), conclusion([well, badly])) == (1, "1 of 2 checks failed")
    doubts = [well, warn("c", "little", "more"), unknown("d", "who knows")]
    assert conclusion(doubts) == "nothing failed; 1 warnings, 1 could not be looked at"


def test_what_peers_say_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in text_of(fail("peer \x1b[2J", "calls itself \x1b[31m", "\x07"))
