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
from federation.errors import FederationError, RosterNotKept
from federation.hostport import Address
from federation.invitation import (
    MAX_HOSTS,
    Invitation,
    Invitations,
    JoinAnswer,
    JoinReply,
    JoinRequest,
    PairingTiming,
    ProofResult,
    code_id,
    encode,
    inviter_proof,
)
from federation.membership import Membership
from federation.pairing_server import PairingServer
from federation.peer import Peer
from federation.roster import Endpoint, Entry
from federation.roster_sync import LOOK_S, RosterSync
from federation.tasks import cancel_and_wait
from federation.timing import MAX_ADDRESSES_PER_PEER
from federation.tls import fingerprint
from federation.trust import Trust, TrustChange
from swarm.control_messages import Invited, Joined, KnownCode, KnownNode, KnownNodes, PageLink, Revoked, Withdrawn
from swarm.errors import SetupError, SwarmError
from swarm.gateway.http.access import comes_from_loopback
from swarm.gateway.http.page_access import LINK_LIFE_S, PageAccess
from swarm.gateway.peers.control import ControlServer, LendingCommands
from swarm.node.pairing import (
    check_standing,
    find_codes,
    find_member,
    join_swarm,
    known_revoked,
    tell_others,
    translated,
)

log = logging.getLogger(__name__)

STAYS_CLOSED = "It has an API key, so it stays closed to other nodes: `swarm invite` or `swarm join` pairs it anew"

USED_OR_OLD = "this invitation was used already, is too old, or was withdrawn: run `swarm invite` for a new one"


class TrustService:
    """Keeps a running node's trust from `__aenter__` to `__aexit__`. `say` prints a line for whoever started the node.

    `pairing` is what the node's port gives joiners to; `addresses` tells where others reach it now, the best first,
    `local` where programs of this machine do; `page_access` makes the links of `swarm page`, and `lending` does what
    `swarm lend` asks. A node that is for `members_only` (it has an API key) never stands open: when it leaves its
    swarm, it becomes one of its own.
    """

    def __init__(
        self,
        trust: Trust,
        membership: Membership,
        client: PeerClient,
        *,
        data_dir: Path,
        pairing: PairingServer,
        addresses: Callable[[], tuple[Address, ...]],
        federated: bool,
        say: Callable[[str], None],
        local: Address | None = None,
        page_access: PageAccess | None = None,
        lending: LendingCommands | None = None,
        members_only: bool = False,
        look_s: float = LOOK_S,
        timing: PairingTiming | None = None,
    ) -> None:
        self._trust = trust
        self._membership = membership
        self._client = client
        self._data_dir = data_dir
        self._addresses = addresses
        self._local = local
        self._page_access = page_access or PageAccess()
        self._federated = federated
        self._say = say
        self._lending = lending
        self._members_only = members_only
        trust.subscribe(self._on_change)  # first, so that people read why before they read what follows from it
        self._sync = RosterSync(trust, membership, client, look_s)
        life_s = (timing or PairingTiming()).code_life_s
        self._invitations = Invitations(fingerprint(trust.identity.certificate), life_s=life_s)
        self._pairing = pairing
        self._codes_changed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stop)
            if self._federated:
                await stack.enter_async_context(self._sync)
            await stack.enter_async_context(ControlServer(self, self._data_dir, self._lending))
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
        await self._pairing.close(at_once=True)

    @property
    def takes_joiners(self) -> bool:
        """Whether a code is live."""
        return self._pairing.is_open

    # What the commands ask

    async def invite(self, uses: int = 1, life_s: float | None = None) -> Invited:
        if not self._federated:
            raise SetupError(
                "this node takes part in no federation: start it with `swarm --federation` and invite then"
            )
        check_standing(self._trust)
        was_open = self._trust.mode == "open"
        with translated():
            roster = await self._trust.found(self._places)
            secret = self._invitations.issue(time.monotonic(), uses, life_s)
        self._watch_codes()
        addresses = self._addresses()[:MAX_HOSTS]
        mine = fingerprint(self._trust.identity.certificate)
        hosts = tuple(address.host for address in addresses)
        return Invited(
            code=encode(Invitation(roster.swarm, mine, secret, hosts, addresses[0].port)),
            addresses=tuple(map(str, addresses)),
            life_s=self._invitations.life_s if life_s is None else life_s,
            node=self._trust.identity.name,
            was_open=was_open,
            id=code_id(secret),
            uses=uses,
        )

    def withdraw(self, code: str) -> Withdrawn:
        ended = find_codes(self._codes(), code)
        self._invitations.withdraw(known.id for known in ended)
        self._codes_changed.set()
        return Withdrawn(codes=ended)

    def _codes(self) -> tuple[KnownCode, ...]:
        return tuple(
            KnownCode(id=code.id, uses=code.uses, joined=code.joined, ends_in_s=code.ends_in_s)
            for code in self._invitations.states(time.monotonic())
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
                    addresses=_addresses(seen.get(entry.id), entry),
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
            codes=self._codes(),
            api=None if self._local is None else f"http://{self._local}",
        )

    async def revoke(self, who: str) -> Revoked:
        entry = find_member(self._trust, who)
        if entry.id == self._trust.node_id:
            return await self._leave(entry)
        check_standing(self._trust)
        places = self._found_at(entry)
        live = [code.id for code in self._codes() if code.uses_left]
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
        left = {code.id for code in self._codes()}
        ended = tuple(code for code in live if code not in left)
        return Revoked(id=entry.id, name=entry.name, itself=False, told=told, untold=untold, knows=knows, codes=ended)

    def _found_at(self, entry: Entry) -> tuple[Address, ...]:
        """Where a member answers now, or did last."""
        peer = self._membership.get(entry.id)
        return tuple(place.address for place in entry.places) if peer is None else peer.addresses

    async def _leave(self, entry: Entry) -> Revoked:
        """Forget the others, then tell them: what the disk does not take has not happened, and nobody heard of it."""
        roster = self._trust.roster
        assert roster is not None
        others = () if entry.revoked else self._trust.others
        places = {other.id: self._found_at(other) for other in others}
        with translated():
            await (self._trust.leave_for_own(self._places) if self._members_only else self._trust.leave())
        self._withdraw_codes()
        told, untold = await tell_others(self._trust.identity, roster, others, places)
        if self._members_only:
            self._say(f"* this node has left its swarm. {STAYS_CLOSED}")
            log.warning("this node has left its swarm. %s", STAYS_CLOSED)
        closed = self._members_only
        return Revoked(id=entry.id, name=entry.name, itself=True, told=told, untold=untold, closed=closed)

    def page(self, lan: bool = False) -> PageLink:
        """A link for a browser on this machine; for `lan`, or where the node is at no loopback address, for all."""
        announced = self._addresses()[0]
        address = announced if lan else self._local or announced
        is_here = comes_from_loopback(address.host, ())
        if lan and is_here:
            raise SetupError(
                f"this node listens on {address.host} only, which no other machine reaches: start it with "
                "`--host 0.0.0.0` (or --federation), then `swarm page --lan`"
            )
        token = self._page_access.new_link(lan=not is_here)
        log.warning("`swarm page` made a link that opens the page of this node as its owner, %s", _opens(not is_here))
        name = self._trust.identity.name
        return PageLink(url=f"{address.url}/#owner={token}", node=name, life_s=LINK_LIFE_S, lan=not is_here)

    # What joiners ask

    async def _redeem(self, request: JoinRequest, host: str) -> JoinReply:
        certificate = request.der
        joiner = fingerprint(certificate)
        redeemed = self._invitations.redeem(joiner, request.name, request.proof, host, time.monotonic())
        self._codes_changed.set()
        if redeemed.result is ProofResult.TOO_MANY:
            if redeemed.is_news:
                self._say(f"! {host} tried too many wrong codes: it has to wait. Codes stay good")
                log.warning("%s tried too many wrong codes: it is not heard for %.0f s", host, redeemed.wait_s)
            return JoinReply(refusal="too many wrong codes came from your address: wait a minute, then try once more")
        if redeemed.result is ProofResult.WRONG:
            log.warning("refused a joiner at %s: its code is not live", host)
            return JoinReply(refusal=USED_OR_OLD)
        secret = redeemed.secret
        try:
            roster = await self._trust.admit(certificate, request.name, _places_of(request, host))
        except FederationError as error:
            self._invitations.give_back(secret, joiner)
            self._watch_codes()
            return JoinReply(refusal=str(error))
        self._start(self._tell())
        mine = fingerprint(self._trust.identity.certificate)
        return JoinReply(
            answer=JoinAnswer(proof=inviter_proof(secret, mine, joiner), roster=roster, unix_s=time.time())
        )

    async def _tell(self) -> None:
        await self._sync.push_to_all()

    # Taking joiners no longer than there is a code for them

    def _withdraw_codes(self) -> None:
        self._invitations.withdraw_all()
        self._codes_changed.set()

    def _watch_codes(self) -> None:
        """Take joiners from now on, while a code is live."""
        self._codes_changed.set()
        if self._invitations.next_end(time.monotonic()) is not None:
            self._pairing.open(self._redeem)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._close_when_over(), name="invitations")

    async def _close_when_over(self) -> None:
        while True:
            self._codes_changed.clear()
            ends_at = self._invitations.next_end(time.monotonic())
            if ends_at is None:
                await self._pairing.close()
                if self._invitations.next_end(time.monotonic()) is None:
                    return
                self._pairing.open(self._redeem)
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
            for known in self._invitations.withdraw_known_to(fingerprint(entry.der)):  # it could come back by it
                self._say(f"* code {known} is withdrawn, because {entry.name} knows it: `swarm invite` makes a new one")
                self._codes_changed.set()
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


def _addresses(peer: Peer | None, entry: Entry) -> tuple[str, ...]:
    """Where a member answers now, then where the list of members has it, which may be behind."""
    now = () if peer is None else peer.addresses
    return tuple(dict.fromkeys(str(address) for address in (*now, *(place.address for place in entry.places))))


def _opens(lan: bool) -> str:
    return "from any machine" if lan else "from this machine"


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
