"""Joining a swarm, finding a member, reading who is in it: alike for a running node and for its data directory."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from federation.errors import FederationError, InvitationError, PairingError, RosterNotKept
from federation.hostport import Address
from federation.identity import IDENTITY_FILE, NodeIdentity, load_identity
from federation.invitation import PREFIX, Invitation, code_id, decode
from federation.pairing_client import check_invitation, clock_difference_s, join
from federation.roster import Endpoint, Entry, Roster
from federation.roster_store import load_roster
from federation.trust import Trust
from swarm.control_messages import Joined, KnownCode, KnownNode, KnownNodes, Revoked
from swarm.errors import SetupError, SwarmError

MIN_ID_CHARS = 4  # of an id that is given by its beginning
ALL_CODES = "all"


@contextmanager
def translated() -> Generator[None]:
    """Errors of the federation as the program's: what can never work is a SetupError."""
    try:
        yield
    except InvitationError as error:
        raise SetupError(str(error)) from error
    except FederationError as error:
        raise SwarmError(str(error)) from error


async def join_swarm(trust: Trust, code: str, places: Iterable[Endpoint]) -> Joined:
    """Join with a code; `places` is where this node will be found. Nothing changes unless all of it worked.

    A member asks all the same: it may have been revoked without knowing. That nobody accepts its code is no failure.
    """
    with translated():
        invitation = decode(code)
        check_invitation(invitation, trust.identity, trust.roster)
        own = own_entry(trust, invitation)
        try:
            answer, _ = await join(invitation, trust.identity, places)
        except PairingError:
            if own is None:
                raise
            return _joined(trust, invitation, already=True)
        roster = await trust.adopt(answer.roster)
    now = roster.get(trust.node_id)
    joined = _joined(trust, invitation, already=own is not None and now is not None and not now.supersedes(own))
    return joined.model_copy(update={"clock_ahead_s": clock_difference_s(answer)})


def own_entry(trust: Trust, invitation: Invitation) -> Entry | None:
    """This node's entry, where as far as it knows it and the inviter are members of the invitation's swarm."""
    roster = trust.roster
    if roster is None or roster.swarm != invitation.swarm or trust.problem is not None:
        return None
    return roster.get(trust.node_id) if trust.is_member(invitation.node_id) else None


def _joined(trust: Trust, invitation: Invitation, *, already: bool) -> Joined:
    inviter = None if trust.roster is None else trust.roster.get(invitation.node_id)
    return Joined(
        inviter="" if inviter is None else inviter.name,
        members=tuple(entry.name for entry in trust.others),
        running=False,
        federated=False,
        already=already,
    )


def matching(known: Iterable[tuple[str, str]], who: str) -> tuple[str, ...]:
    """The ids of those (id, name) that `who` may mean: an id, else a name, else the beginning of an id."""
    nodes, wanted = tuple(known), who.strip()
    found = [node_id for node_id, _ in nodes if wanted.lower() == node_id]
    found = found or [node_id for node_id, name in nodes if unicodedata.normalize("NFC", wanted) == name]
    if not found and len(wanted) >= MIN_ID_CHARS:
        found = [node_id for node_id, _ in nodes if node_id.startswith(wanted.lower())]
    return tuple(found)


def find_member(trust: Trust, who: str) -> Entry:
    """The member with that id, beginning of an id, or name. Raises SetupError that lists what there is."""
    if trust.roster is None:
        raise SetupError("this node is open, so there is nobody to revoke: `swarm invite` makes it paired")
    own = trust.roster.get(trust.node_id)
    members = trust.roster.members if own is None or not own.revoked else (own, *trust.roster.members)
    ids = matching(((entry.id, entry.name) for entry in members), who)
    found = [entry for entry in members if entry.id in ids]
    if len(found) == 1:
        return found[0]
    listing = ", ".join(f"{entry.name} ({entry.id[:8]})" for entry in (found or members))
    why = "is the name of several members: give the id" if found else "is not a member"
    raise SetupError(f"{who[:60]!r} {why}; there are {listing}")


def find_codes(codes: Sequence[KnownCode], which: str) -> tuple[KnownCode, ...]:
    """The codes of that id, beginning of an id, or text, or all of them. Raises SetupError where there is none."""
    wanted = "".join(which.split()).lower()
    if wanted == ALL_CODES:
        return tuple(codes)
    if wanted.startswith(PREFIX):
        with translated():
            wanted = code_id(decode(wanted).secret)
    found = tuple(code for code in codes if len(wanted) >= MIN_ID_CHARS and code.id.startswith(wanted))
    if not found:
        listing = ", ".join(code.id for code in codes)
        there = f"there are {listing}" if listing else "there is none"
        raise SetupError(f"{which[:60]!r} is no code of the node that runs here; {there} (`swarm invite --list`)")
    return found


def check_standing(trust: Trust) -> None:
    """Raises SetupError for a node that was revoked: nobody believes what it says of its swarm."""
    if trust.problem is not None:
        raise SetupError(trust.problem)


def known_revoked(roster: Roster | None, node_id: str) -> tuple[KnownNode, ...]:
    """Those that were revoked, beside `node_id`, this node."""
    entries = () if roster is None else (entry for entry in roster.entries if entry.id != node_id)
    return tuple(
        KnownNode(id=entry.id, name=entry.name, state="revoked", by=entry.revoked_by)
        for entry in entries
        if entry.revoked
    )


# Without a running node


def load_trust(data_dir: Path, new: bool = False) -> Trust:
    """As a node started with this data directory would have it. Blocks. Raises SetupError.

    Only with `new` is an identity made where there is none.
    """
    if not new and not (data_dir / IDENTITY_FILE).exists():
        raise SetupError(f"no node has run with the data directory {data_dir} yet: start one, or give its --data-dir")
    try:
        return Trust.load(load_identity(data_dir), data_dir)
    except FederationError as error:
        raise SetupError(str(error)) from error


def own_membership(data_dir: Path, name: str | None = None) -> Trust | None:
    """With what this machine's node is a member of its swarm, to ask the others as it does; None for an open one.

    Blocks. Raises SetupError for an identity or a list of members that cannot be read.
    """
    try:
        if load_roster(data_dir) is None:
            return None
        return Trust.load(load_identity(data_dir, name), data_dir)
    except FederationError as error:
        raise SetupError(str(error)) from error


def join_at_rest(data_dir: Path, code: str) -> Joined:
    """Join while no node runs here; the next one started is a member."""
    return asyncio.run(join_swarm(load_trust(data_dir, new=True), code, ()))


def peers_at_rest(data_dir: Path) -> KnownNodes:
    trust = load_trust(data_dir)
    return KnownNodes(
        mode=trust.mode,
        swarm=None if trust.roster is None else trust.roster.swarm,
        id=trust.node_id,
        name=trust.identity.name,
        running=False,
        nodes=tuple(
            KnownNode(
                id=entry.id,
                name=entry.name,
                state="absent",
                addresses=tuple(str(place.address) for place in entry.places),
            )
            for entry in trust.others
        ),
        revoked=known_revoked(trust.roster, trust.node_id),
        problem=trust.problem,
    )


def revoke_at_rest(data_dir: Path, who: str) -> Revoked:
    """Unpin here; the others learn of it when a node is started with this data directory.

    A node that leaves tells the others at once, where they can be reached: nobody would later.
    """
    trust = load_trust(data_dir)
    entry = find_member(trust, who)
    if entry.id == trust.node_id:
        return leave_at_rest(trust, entry)
    check_standing(trust)
    try:
        with translated():
            asyncio.run(_revoke(trust, entry.id))
    except SwarmError as error:
        if isinstance(error.__cause__, RosterNotKept):  # there is no process that it could hold in
            raise SwarmError(f"{error.__cause__.__cause__}: nothing has changed") from error
        raise
    untold = tuple(other.name for other in trust.others)
    return Revoked(id=entry.id, name=entry.name, itself=False, untold=untold)


async def _revoke(trust: Trust, node_id: str) -> None:
    await trust.revoke(node_id)


def leave_at_rest(trust: Trust, entry: Entry) -> Revoked:
    """Forget the members, then tell them, from a process of the command's own. `entry` is this node's."""
    roster = trust.roster
    assert roster is not None
    others = () if entry.revoked else trust.others

    async def leave() -> tuple[tuple[str, ...], tuple[str, ...]]:
        await trust.leave()
        places = {other.id: tuple(place.address for place in other.places) for other in others}
        return await tell_others(trust.identity, roster, others, places)

    with translated():
        told, untold = asyncio.run(leave())
    return Revoked(id=entry.id, name=entry.name, itself=True, told=told, untold=untold)


async def tell_others(
    identity: NodeIdentity, roster: Roster, others: Sequence[Entry], places: Mapping[str, Sequence[Address]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell the `others` of `roster` that this node has left; the names of those who heard it, and of the rest."""
    if not others:
        return (), ()
    from federation.client import tell_of_leaving  # brings aiohttp, which most commands do without

    revocation = roster.revoke(identity.node_id, identity.name)
    heard = await asyncio.gather(
        *(tell_of_leaving(identity, other.der, places[other.id], revocation) for other in others)
    )
    told = tuple(other.name for other, did in zip(others, heard, strict=True) if did)
    return told, tuple(other.name for other, did in zip(others, heard, strict=True) if not did)
