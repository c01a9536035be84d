"""All checks of `swarm doctor`, one after the other; each finding is given as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from federation.addresses import AnnouncedAddresses
from federation.errors import AddressError
from federation.hostport import Address
from federation.static_peers import read_list
from federation.trust import Trust
from hardware.probe import probe_hardware
from hardware.snapshot import HardwareSnapshot
from swarm import program_version
from swarm.doctor import machine_checks, machine_probes, network_checks, network_probes, own_node, peer_probes
from swarm.doctor.finding import Finding, fail, ok
from swarm.doctor.own_node import OwnNode
from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules, digest
from swarm.node.access import given_keys
from swarm.node.discovery import chosen_addresses
from swarm.node.engines import NodeEngines
from swarm.node.lending import lending_parts, wanted_bytes
from swarm.node.pairing import own_membership
from swarm.node.settings import Settings
from swarm.node.tools import read_tool_plan
from swarm.registry.model_memory import size_text
from swarm.tools.plan import AUTO, parse_sandbox
from swarm.tools.sandboxed_process import find_sandbox

LOOPBACK = ("127.0.0.1", "::1")


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding about this machine and the swarm around it, for a node with these settings."""
    yield from examine_machine(settings)
    yield from examine_network(settings)


def examine_machine(settings: Settings) -> Iterator[Finding]:
    """What a node needs of its machine: engine, models, memory, disk, a sandbox, keys, packages."""
    yield machine_checks.check_engine(machine_probes.probe_engine())
    yield machine_checks.check_models(*machine_probes.probe_models(settings.own_models_dir))
    snapshot = probe_hardware()
    yield machine_checks.check_memory(snapshot.memory)
    yield from _engines(settings, snapshot)
    yield machine_checks.check_disk(machine_probes.probe_data_folder(settings.data_path))
    yield from _tools(settings)
    yield from _lending(settings, snapshot)
    key_files = ((settings.api_key_file, "--api-key-file"), (settings.admin_key_file, "--admin-key-file"))
    yield machine_checks.check_keys(machine_probes.probe_keys(settings.data_path, key_files))
    yield machine_checks.check_requirements(
        program_version(), machine_probes.python_version(), machine_probes.probe_requirements()
    )


def _engines(settings: Settings, snapshot: HardwareSnapshot) -> Iterator[Finding]:
    """What computes models here, whether the GPU is used, and what was found of engines that cannot be used."""
    try:
        engines = NodeEngines.look(settings, snapshot)
    except SetupError as error:
        yield fail("engines", str(error), "correct it: a node does not start with it")
        return
    gpu = machine_checks.check_gpu(snapshot, engines.on_gpu)
    if gpu is not None:
        yield gpu
    yield from machine_checks.check_engine_problems(engines.problems())


def _lending(settings: Settings, snapshot: HardwareSnapshot) -> Iterator[Finding]:
    """Whether this machine can lend what --lend says."""
    if settings.lend is None:
        return
    try:
        parts = lending_parts(settings, snapshot)
        size_bytes = wanted_bytes(None if settings.lend == "half" else settings.lend, parts)
    except SetupError as error:
        yield fail("lending", f"a node with --lend does not start: {error}", "do what it says, or leave out --lend")
        return
    where = f"{parts.program.path} ({parts.program.build})"
    yield ok("lending", f"{size_text(size_bytes)} can be lent to members of a paired swarm, by {where} in bwrap")


def _tools(settings: Settings) -> Iterator[Finding]:
    """Whether commands can run in a sandbox, as agents and tool hosts have them run, and what is wrong with --tools."""
    plan = None
    try:
        plan = read_tool_plan(settings)
    except SetupError as error:
        yield fail("tools", str(error), "correct it: a node does not start with it")
    choice = AUTO if settings.tools_sandbox is None else parse_sandbox(settings.tools_sandbox)
    found = find_sandbox(choice, unsandboxed=settings.tools_unsandboxed)
    yield machine_checks.check_sandbox(found, plan is not None and "bash" in plan.names)
    if settings.mcp.servers:
        try:
            servers = machine_probes.probe_mcp_servers(settings, plan, found)
        except SetupError as error:
            yield fail("MCP server", str(error), "correct it: a node does not start with it")
        else:
            yield from map(machine_checks.check_mcp_server, servers)


def examine_network(settings: Settings) -> Iterator[Finding]:
    """What a node needs to be found and asked: port, addresses, multicast, firewall, trust; and each peer."""
    chosen: AnnouncedAddresses | None = None
    problem = ""
    try:
        chosen = chosen_addresses(settings)
    except AddressError as error:
        problem = str(error)
    announced = () if chosen is None else chosen.announce
    trust, unreadable = _membership(settings)
    own = own_node.find_own_node((*LOOPBACK, *announced), settings.port, _api_key(settings), trust)
    yield _port(settings, chosen, own)
    yield network_checks.check_interfaces(chosen, problem)
    yield network_checks.check_multicast(network_probes.probe_multicast(announced))
    yield network_checks.check_firewall(settings.port, network_probes.probe_firewalls(settings.port))
    if unreadable is None:
        yield network_checks.check_membership(
            None if trust is None else len(trust.others), None if trust is None else trust.problem
        )
    else:
        yield fail(
            "trust", unreadable, "repair it: a node does not start without it, since it would be open to anybody"
        )
    access = _key_and_peers(settings, own, trust)
    if access is not None:
        yield access
    yield from _examine_peers(settings, own, trust)


def _key_and_peers(settings: Settings, own: OwnNode | None, trust: Trust | None) -> Finding | None:
    if own is not None:
        access = own.access
        return None if access is None else network_checks.check_key_and_peers(access.api == "key", access.peers, True)
    keys = () if (key := _api_key(settings)) is None else (digest(key),)
    rules = AccessRules(key_digests=keys, federated=settings.federated, open_federation=settings.open_federation)
    peers = rules.peers("open" if trust is None else trust.mode)
    return network_checks.check_key_and_peers(rules.wants_key, peers, False)


def _api_key(settings: Settings) -> str | None:
    """The first API key of the node; None without any. A key file that cannot be read is another check's finding."""
    try:
        keys = tuple(given.key for given in given_keys(settings))
    except SetupError:
        keys = settings.api_key
    return next(iter(keys), None)


def _membership(settings: Settings) -> tuple[Trust | None, str | None]:
    """This node's membership (None: an open node), and why it cannot be read, where it cannot."""
    try:
        return own_membership(settings.data_path, settings.name), None
    except SetupError as error:
        return None, str(error)


def _port(settings: Settings, chosen: AnnouncedAddresses | None, own: OwnNode | None) -> Finding:
    if own is not None:
        return network_checks.check_port(settings.port, "node", f"the node {own.name} runs here")
    hosts = ("0.0.0.0",) if chosen is None else chosen.bind_hosts
    why = network_probes.why_not_free(hosts, settings.port)
    if why is None:
        return network_checks.check_port(settings.port, "free")
    if "in use" in why:
        return network_checks.check_port(settings.port, "other")
    return network_checks.check_port(settings.port, "refused", why)


def _examine_peers(settings: Settings, own: OwnNode | None, trust: Trust | None) -> Iterator[Finding]:
    listed: tuple[Address, ...] = ()
    try:
        listed = () if settings.peer_file is None else read_list(settings.peer_file)
    except AddressError as error:
        yield fail("peers", str(error), "correct it (one HOST:PORT a line): a node does not start with it")
    try:
        addresses = peer_probes.peer_addresses(own, Path(settings.data_path), settings.peer, listed, trust)
    except AddressError as error:
        yield fail("peers", str(error), "write --peer HOST:PORT")
        return
    peers = peer_probes.probe_peers(addresses, own, trust)
    addressless = peer_probes.without_address(own, trust)
    unseen = network_checks.check_unknown_peers(own is not None and own.wants_key, addressless)
    yield from unseen
    broken = {peer.address for peer in peers if peer.problem is not None}  # reported below, by this machine's own check
    rejected = () if own is None else (entry for entry in own.rejected if entry.address not in broken)
    refused = [finding for finding in map(network_checks.check_rejected, rejected) if finding is not None]
    yield from refused
    if not (peers or unseen or refused):
        known = "the node that runs here knows none" if own else "none are known, and no node runs here to find any"
        yield ok("peers", f"{known}: start another with `swarm --federation`, or name one with --peer")
        return
    for peer in peers:
        yield from network_checks.check_peer(peer)
    if any(peer.version is not None for peer in peers):
        yield network_checks.check_peer_versions(program_version(), peers)
