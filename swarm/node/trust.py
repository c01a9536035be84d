"""Who belongs to a running node's swarm: inviting, joining, revoking, and telling the other members."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from federation.client import PeerClient, tell_revoked
from federation.errors import FederationError, PeerError, RosterNotKept
from federation.hostport import Address, pairing_port
from federation.invitation import (
    MAX_HOSTS,
    Invitation,
    Invitations,
    JoinAnswer,
    JoinReply,
    JoinRequest,
    PairingTiming,
    ProofResult,
    encode,
    inviter_proof,
)
from federation.membership import Membership
from federation.pairing_listener import PairingListener
from federation.roster import Endpoint, Entry, Roster
from federation.roster_sync import LOOK_S, TELL_TIMEOUT_S, RosterSync
from federation.tasks import cancel_and_wait
from federation.timing import MAX_ADDRESSES_PER_PEER
from federation.tls import fingerprint, pairing_context
from federation.trust import Trust, TrustChange
from swarm.control_messages import Invited, Joined, KnownNode, KnownNodes, Revoked
from swarm.errors import SetupError, SwarmError
from swarm.gateway.peers.control import ControlServer
from swarm.node.pairing import check_standing, find_member, join_swarm, known_revoked, translated

log = logging.getLogger(__name__)

STAYS_CLOSED = "It has an API key, so it stays closed to other nodes: `swarm invite` or `swarm join` pairs it anew"

USED_OR_OLD = "this invitation was used already, is too old, or was withdrawn: run `swarm invite` for a new one"


class TrustService:
    """Keeps a running node's trust from `__aenter__` to `__aexit__`. `say` prints a line for whoever started the node.

    `bind_hosts` are what the node listens on; `addresses` tells where others reach it now, the best first. A node that
    is for `members_only` (it has an API key) never stands open: when it leaves its swarm, it becomes one of its own.
    """

    def __init__(
        self,
        trust: Trust,
        membership: Membership,
        client: PeerClient,
        *,
        data_dir: Path,
        bind_hosts: tuple[str, ...],
        addresses: Callable[[], tuple[Address, ...]],
        federated: bool,
        say: Callable[[str], None],
        members_only: bool = False,
        look_s: float = LOOK_S,
        timing: PairingTiming | None = None,
    ) -> None:
        self._trust = trust
        self._membership = membership
        self._client = client
        self._data_dir = data_dir
        self._addresses = addresses
        self._federated = federated
        self._say = say
        self._members_only = members_only
        trust.subscribe(self._on_change)  # first, so that people read why before they read what follows from it
        self._sync = RosterSync(trust, membership, client, look_s)
        timing = timing or PairingTiming()
        self._invitations = Invitations(fingerprint(trust.identity.certificate), life_s=timing.code_life_s)
        self._usual_port = pairing_port(addresses()[0].port)
        context = pairing_context(trust.identity.pem)
        self._listener = PairingListener(
            bind_hosts, self._usual_port, context, self._redeem, exchange_s=timing.exchange_s
        )
        self._codes_changed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop)
            if self._federated:
                await stack.enter_async_context(self._sync)
            await stack.enter_async_context(ControlServer(self, self._data_dir))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _stop(self) -> None:
        self._invitations.withdraw_all()
        tasks = [task for task in (self._watch, *self._tasks) if task is not None]
        await cancel_and_wait(*tasks)
        await self._listener.close(at_once=True)

    @property
    def pairing_port(self) -> int | None:
        """Where whoever is invited connects; None while no code is live."""
        return self._listener.port

    # What the commands ask

    async def invite(self) -> Invited:
        if not self._federated:
            raise SetupError(
                "this node takes part in no federation: start it with `swarm --federation` and invite then"
            )
        check_standing(self._trust)
        was_open = self._trust.mode == "open"
        try:
            port = await self._listener.open()
        except OSError as error:
            raise SwarmError(f"cannot listen for whoever is invited: {error.strerror}") from error
        try:
            with translated():
                roster = await self._trust.found(self._places)
        except BaseException:
            self._watch_codes()  # closes the port again, unless another code is live
            raise
        secret = self._invitations.issue(time.monotonic())
        self._watch_codes()
        hosts = tuple(address.host for address in self._addresses()[:MAX_HOSTS])
        invitation = Invitation(roster.swarm, fingerprint(self._trust.identity.certificate), secret, hosts, port)
        return Invited(
            code=encode(invitation),
            addresses=tuple(map(str, invitation.addresses)),
            life_s=self._invitations.life_s,
            node=self._trust.identity.name,
            was_open=was_open,
            other_port=None if port == self._usual_port else port,
        )

    async def join(self, code: str) -> Joined:
        joined = await join_swarm(self._trust, code, self._places if self._federated else ())
        if not joined.already:
            self._withdraw_codes()  # they were for the swarm that this node has left
        return joined.model_copy(update={"running": True, "federated": self._federated})

    def peers(self) -> KnownNodes:
        seen = {peer.id: peer for peer in self._membership.peers()}
        roster = self._trust.roster
        if roster is None:
            nodes = tuple(
                KnownNode(
                    id=peer.id, name=peer.label, state=peer.state.value, addresses=tuple(map(str, peer.addresses))
                )
                for peer in seen.values()
            )
        else:
            nodes = tuple(
                KnownNode(
                    id=entry.id,
                    name=seen[entry.id].label if entry.id in seen else entry.name,
                    state=seen[entry.id].state.value if entry.id in seen else "absent",
                    addresses=tuple(str(place.address) for place in entry.places),
                )
                for entry in self._trust.others
            )
        return KnownNodes(
            mode=self._trust.mode,
            swarm=None if roster is None else roster.swarm,
            id=self._trust.node_id,
            name=self._trust.identity.name,
            running=True,
            nodes=nodes,
            revoked=known_revoked(roster, self._trust.node_id),
            problem=self._trust.problem,
        )

    async def revoke(self, who: str) -> Revoked:
        entry = find_member(self._trust, who)
        if entry.id == self._trust.node_id:
            return await self._leave(entry)
        check_standing(self._trust)
        places = self._found_at(entry)
        not_kept: RosterNotKept | None = None
        try:
            with translated():
                roster = await self._trust.revoke(entry.id)
        except SwarmError as error:
            if not isinstance(error.__cause__, RosterNotKept) or self._trust.roster is None:
                raise
            not_kept, roster = (
                error.__cause__,
                self._trust.roster,
            )  # it is revoked all the same: the others must learn of it
        told = await self._sync.push_to_all()
        knows = await tell_revoked(self._trust.identity, entry.der, places, roster)
        others, here = self._trust.others, {peer.id for peer in self._membership.alive()}
        untold = tuple(other.name for other in others if other.id not in here)
        log.info("%s is revoked; told %s of %d", entry.name, ", ".join(told) or "none", len(others))
        if not_kept is not None:
            known = f"{', '.join(told)} know of it" if told else "nobody else knows of it yet"
            raise SwarmError(f"{entry.name} is revoked here, and {known}; {not_kept}") from not_kept
        return Revoked(id=entry.id, name=entry.name, itself=False, told=told, untold=untold, knows=knows)

    def _found_at(self, entry: Entry) -> tuple[Address, ...]:
        """Where a member answers now, or did last."""
        peer = self._membership.get(entry.id)
        return tuple(place.address for place in entry.places) if peer is None else peer.addresses

    async def _leave(self, entry: Entry) -> Revoked:
        """Tell the others that this node is out, then forget them."""
        roster = self._trust.roster
        assert roster is not None
        revocation = roster if entry.revoked else roster.revoke(entry.id, entry.name)
        others = () if entry.revoked else self._trust.others
        told = await asyncio.gather(*(self._tell_of_leaving(other, revocation) for other in others))
        self._withdraw_codes()
        with translated():
            await (self._trust.leave_for_own(self._places) if self._members_only else self._trust.leave())
        if self._members_only:
            self._say(f"* this node has left its swarm. {STAYS_CLOSED}")
            log.warning("this node has left its swarm. %s", STAYS_CLOSED)
        told_names = tuple(name for name in told if name is not None)
        return Revoked(id=entry.id, name=entry.name, itself=True, told=told_names, closed=self._members_only)

    async def _tell_of_leaving(self, member: Entry, revocation: Roster) -> str | None:
        """Tell a member, where it is or was last, that this node left; its name if it was reached. Nobody else will."""
        peer = next((peer for peer in self._membership.alive() if peer.id == member.id), None)
        addresses = self._found_at(member) if peer is None else (peer.address,)

        async def reach(address: Address) -> bool:
            try:
                await self._client.exchange_roster(address, revocation, TELL_TIMEOUT_S)
            except PeerError as error:  # it cuts the connection of who is not a member any more, this one's
                log.debug("%s: %s", member.name, error)
                return peer is not None
            return True

        reached = await asyncio.gather(*map(reach, addresses))
        return (member.name if peer is None else peer.label) if any(reached) else None

    # What joiners ask

    async def _redeem(self, request: JoinRequest, host: str) -> JoinReply:
        certificate = request.der
        joiner = fingerprint(certificate)
        outcome, secret = self._invitations.redeem(joiner, request.proof, time.monotonic())
        self._codes_changed.set()
        if outcome is not ProofResult.RIGHT:
            if outcome is ProofResult.WITHDRAWN:
                self._say(f"! an invitation is withdrawn: {host} tried too many wrong codes")
            log.warning("refused a joiner at %s: its code is not live", host)
            return JoinReply(refusal=USED_OR_OLD)
        try:
            roster = await self._trust.admit(certificate, request.name, _places_of(request, host))
        except FederationError as error:
            return JoinReply(refusal=str(error))
        self._start(self._tell())
        mine = fingerprint(self._trust.identity.certificate)
        return JoinReply(
            answer=JoinAnswer(proof=inviter_proof(secret, mine, joiner), roster=roster, unix_s=time.time())
        )

    async def _tell(self) -> None:
        await self._sync.push_to_all()

    # Keeping the pairing port open no longer than there is a code for it

    def _withdraw_codes(self) -> None:
        self._invitations.withdraw_all()
        self._codes_changed.set()

    def _watch_codes(self) -> None:
        self._codes_changed.set()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._close_when_over(), name="invitations")

    async def _close_when_over(self) -> None:
        while True:
            self._codes_changed.clear()
            ends_at = self._invitations.next_end(time.monotonic())
            if ends_at is None:
                await self._listener.close()
                if self._invitations.next_end(time.monotonic()) is None:
                    return
                continue
            try:
                async with asyncio.timeout(max(0.0, ends_at - time.monotonic())):
                    await self._codes_changed.wait()
            except TimeoutError:
                continue

    def _on_change(self, change: TrustChange) -> None:
        if change.was != change.now:
            self._say(f"* {trust_words(self._trust)}")
        for entry in change.joined:
            self._say(f"* {entry.name} is a member of this swarm")
        for entry in change.left:
            self._say(f"* {entry.name} is not a member of this swarm any more")
        if change.excluded is not None:
            self._say(f"! {change.excluded}")
            self._withdraw_codes()  # nobody would take whom this node invites

    @property
    def _places(self) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(host=host, port=port) for host, port in self._addresses()[:MAX_ADDRESSES_PER_PEER])

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def trust_words(trust: Trust) -> str:
    """What the banner says of who may be a peer."""
    if trust.mode == "open":
        return "open: any node on this network may join (until the first `swarm invite`)"
    if trust.problem is not None:
        return f"paired, and alone: {trust.problem}"
    names = ", ".join(entry.name for entry in trust.others) or "nobody else yet"
    return f"paired: this node talks to members only ({names})"


def _places_of(request: JoinRequest, host: str) -> tuple[Endpoint, ...]:
    """Where the joiner says it is, and first of all where it came from, at the port that it claims."""
    claimed = request.places
    came_from = [Endpoint(host=host, port=claimed[0].port)] if claimed else []
    return tuple(dict.fromkeys((*came_from, *claimed)))[:MAX_ADDRESSES_PER_PEER]
