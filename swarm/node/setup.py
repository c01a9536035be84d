"""Who and where a node is: settled once, before anything of it runs."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field

from federation.addresses import AnnouncedAddresses
from federation.errors import FederationError
from federation.hostport import Address, make_address, parse_address
from federation.identity import NodeIdentity, load_identity
from federation.static_peers import read_list
from federation.trust import Trust
from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules
from swarm.node.access import check_federation, read_access
from swarm.node.discovery import chosen_addresses
from swarm.node.listeners import AlsoPorts, open_also, open_listeners, take_listeners
from swarm.node.settings import Settings
from swarm.node.tools import check_no_model, check_reach, read_tool_plan
from swarm.node.upstream import read_upstreams
from swarm.routing.upstream import UpstreamPlan
from swarm.tools.plan import ToolPlan

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class NodeSetup:
    """Who and where this node is."""

    identity: NodeIdentity
    instance: str
    addresses: AnnouncedAddresses
    port: int
    access: AccessRules
    trust: Trust
    upstreams: tuple[UpstreamPlan, ...] = ()
    tools: ToolPlan | None = None
    has_successor: bool = False  # systemd holds the port: who connects while no process listens waits for the next
    also: AlsoPorts = field(default_factory=AlsoPorts)

    @property
    def announced(self) -> Address:
        return make_address(self.addresses.announce[0], self.port)

    @property
    def local(self) -> Address:
        """Where this node's API is, from this machine: of the addresses it listens on the one that may manage it."""
        return make_address(LOOPBACK, self.port) if self.addresses.is_everywhere else self.announced

    @property
    def all_announced(self) -> tuple[Address, ...]:
        return tuple(make_address(host, self.port) for host in self.addresses.announce)


def settle(settings: Settings) -> tuple[NodeSetup, tuple[socket.socket, ...]]:
    """Identity, addresses and the listening sockets, the further ones in `also`. Blocks.

    Raises SetupError for what cannot be had; a further port that is taken is none of it.
    """
    try:
        identity = load_identity(settings.data_path, settings.name)
        trust = Trust.load(identity, settings.data_path)
        addresses = chosen_addresses(settings)
        for peer in settings.peer:
            parse_address(peer)
        if settings.peer_file is not None:
            read_list(settings.peer_file)
    except FederationError as error:
        raise SetupError(str(error)) from error
    access = read_access(settings, identity.name)
    check_federation(access, trust.mode)
    upstreams = read_upstreams(settings)
    check_no_model(settings)
    tools = read_tool_plan(settings)
    if tools is not None or settings.mcp.servers:
        check_reach(access, addresses.bind_hosts)
    handed_over = take_listeners(os.environ, os.getpid(), addresses.bind_hosts)
    listeners = handed_over or open_listeners(addresses.bind_hosts, settings.port)
    port = int(listeners[0].getsockname()[1])
    has_successor = bool(handed_over)
    also = open_also(addresses.bind_hosts, [other for other in settings.also_port if other != port])
    setup = NodeSetup(
        identity, secrets.token_hex(8), addresses, port, access, trust, upstreams, tools, has_successor, also
    )
    return setup, listeners
