"""Whom this node trusts, now: open, or paired with the members of its roster. The one place where that changes."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from federation.errors import RosterError, RosterNotKept
from federation.identity import NodeIdentity
from federation.roster import Endpoint, Entry, Exclusion, Refusals, Roster, exclusion_in, new_roster
from federation.roster_store import load_roster, save_roster
from federation.tasks import tell_each
from federation.tls import client_context, server_context

Mode = Literal["open", "paired"]
Listener = Callable[["TrustChange"], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrustChange:
    """What a new roster means: who came in, who went out, what the mode was until now, and who revoked this node."""

    joined: tuple[Entry, ...]
    left: tuple[Entry, ...]
    was: Mode
    now: Mode
    excluded: Exclusion | None = None


@dataclass(frozen=True, slots=True)
class _Contexts:
    client: ssl.SSLContext
    server: ssl.SSLContext
    joining: ssl.SSLContext


class Trust:
    """For the event loop's thread. Listeners are called on it, after a change, and must not block.

    One that raises is a defect, which the log names: neither the change nor the other listeners suffer from it.
    """

    def __init__(
        self, identity: NodeIdentity, data_dir: Path, roster: Roster | None, refusals: Refusals | None = None
    ) -> None:
        self.identity = identity
        self._data_dir = data_dir
        self._roster = roster
        self._member_ids = frozenset[str]()
        self._contexts: _Contexts | None = None
        self._listeners: list[Listener] = []
        self._changing = asyncio.Lock()
        self._is_unkept = False
        self._refusals = refusals or Refusals()
        self._exclusion = exclusion_in(roster, identity.node_id)
        self._take(roster, _contexts(identity, roster))

    @classmethod
    def load(cls, identity: NodeIdentity, data_dir: Path, refusals: Refusals | None = None) -> Trust:
        """As kept in the data directory. Blocks. Raises RosterError for a list of members that cannot be used."""
        return cls(identity, data_dir, load_roster(data_dir), refusals)

    # Queries

    @property
    def mode(self) -> Mode:
        return "open" if self._roster is None else "paired"

    @property
    def roster(self) -> Roster | None:
        return self._roster

    @property
    def node_id(self) -> str:
        return self.identity.node_id

    @property
    def others(self) -> tuple[Entry, ...]:
        """The members beside this node."""
        members = () if self._roster is None else self._roster.members
        return tuple(entry for entry in members if entry.id != self.node_id)

    def is_member(self, node_id: str | None) -> bool:
        """Whether it is another member of this swarm."""
        return node_id in self._member_ids

    @property
    def exclusion(self) -> Exclusion | None:
        """Who put this node out of its swarm; None while it belongs to it, and while it is open."""
        return self._exclusion

    @property
    def problem(self) -> str | None:
        """`exclusion` in words."""
        return None if self._exclusion is None else str(self._exclusion)

    @property
    def client_context(self) -> ssl.SSLContext | None:
        """For connections to members; None while open."""
        return None if self._contexts is None else self._contexts.client

    @property
    def server_context(self) -> ssl.SSLContext | None:
        """For connections from members; None while open."""
        return None if self._contexts is None else self._contexts.server

    @property
    def joining_context(self) -> ssl.SSLContext | None:
        """For connections while an invitation is live: who shows no certificate is taken, too. None while open."""
        return None if self._contexts is None else self._contexts.joining

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # Changes. What lets somebody in, founds a swarm or leaves it is on disk before it holds: where RosterError says
    # that it could not be kept, nothing has changed. What puts somebody out holds at once: RosterNotKept says that it
    # may not last, and `keep` tries again.

    async def found(self, places: Iterable[Endpoint]) -> Roster:
        """Be paired: the present roster, or a new one of this node alone."""

        def founded(roster: Roster | None) -> Roster:
            return roster or new_roster(self.identity.certificate, self.identity.name, places)

        return _paired(await self._change(founded))

    async def admit(self, certificate: bytes, name: str, places: Iterable[Endpoint]) -> Roster:
        """Pin a newcomer. Raises RosterError where this node is open, or the swarm full."""
        return _paired(await self._change(lambda roster: _paired(roster).admit(certificate, name, places)))

    async def revoke(self, node_id: str) -> Roster:
        """Unpin a member. Raises RosterError for one that is none."""
        return _paired(
            await self._change(lambda roster: _paired(roster).revoke(node_id, self.identity.name), at_once=True)
        )

    async def merge_reported(self, reported: Roster, sender: str) -> Roster:
        """Merge what the member with the id `sender` reported. Raises RosterError for another swarm's list."""

        def learned(roster: Roster | None) -> Roster:
            held = _paired(roster)
            return held.merge(held.as_reported_by(sender, reported))

        return _paired(await self._change(learned, at_once=True))

    async def adopt(self, offered: Roster) -> Roster:
        """Join the swarm of `offered`, which this node was invited to. Its own list is of that swarm, or of itself.

        What it noted while it was revoked counts for nothing: the list that admits it again replaces its own.
        """

        def adopted(roster: Roster | None) -> Roster:
            if roster is None or roster.swarm != offered.swarm:
                return offered
            was, now = roster.get(self.node_id), offered.get(self.node_id)
            is_back = was is not None and now is not None and now.supersedes(was)
            return offered if is_back else roster.merge(offered)

        return _paired(await self._change(adopted))

    async def found_at(self, node_id: str, places: Iterable[Endpoint]) -> None:
        """Keep where a member answers now."""
        found = tuple(places)
        held = None if self._roster is None else self._roster.get(node_id)
        if held is not None and not held.revoked and found and held.places != found:
            await self._change(
                lambda roster: None if roster is None else roster.with_endpoints(node_id, found), at_once=True
            )

    async def keep(self) -> None:
        """Try once more to keep what the disk did not take."""
        if self._is_unkept:
            await self._change(lambda roster: roster, at_once=True)

    async def leave(self) -> None:
        """Forget all members: this node is open again."""
        await self._change(lambda _: None)

    async def leave_for_own(self, places: Iterable[Endpoint]) -> None:
        """Forget all members and be a swarm of this node alone, so that it does not stand open for a moment."""
        own = new_roster(self.identity.certificate, self.identity.name, places)
        await self._change(lambda _: own)

    # Whether the other members accept this node, to explain it where it is alone

    def refused_by(self, node_id: str) -> None:
        """A member, proved by its certificate, does not accept this node as one."""
        if self.is_member(node_id):
            self._refusals.refused(node_id, time.monotonic())
            self._judge()

    def accepted_by(self, node_id: str) -> None:
        """A member accepts this node."""
        if self.is_member(node_id):
            self._refusals.accepted()
            self._judge()

    def _judge(self) -> None:
        """Find out whether this node is revoked, and call the listeners once."""
        found = exclusion_in(self._roster, self.node_id)
        by = self._refusals.by(time.monotonic())
        if found is None and by is not None and self._roster is not None and (entry := self._roster.get(by)):
            found = Exclusion(entry.name, reported=False)
        was, self._exclusion = self._exclusion, found
        if found is not None and was is None:
            _log.warning("%s", found)
            self._notify(TrustChange((), (), self.mode, self.mode, found))

    async def _change(
        self, decide: Callable[[Roster | None], Roster | None], *, at_once: bool = False
    ) -> Roster | None:
        """Apply `decide`, keep what it says, call the listeners; the roster from now on. `at_once`: it is kept last.

        Whoever asked may be cancelled: what has begun is brought to its end, so that disk and memory say the same.
        """
        change = asyncio.create_task(self._changed(decide, at_once), name="trust")
        change.add_done_callback(_note_failure)
        return await asyncio.shield(change)

    async def _changed(self, decide: Callable[[Roster | None], Roster | None], at_once: bool) -> Roster | None:
        async with self._changing:
            before = self._roster
            after = decide(before)
            if after == before:
                if self._is_unkept:
                    await self._keep(after)
                return after
            same_members = after is not None and before is not None and after.digest == before.digest
            contexts = self._contexts if same_members else await asyncio.to_thread(_contexts, self.identity, after)
            if not at_once:
                await asyncio.to_thread(save_roster, self._data_dir, after)
                self._is_unkept = False
            was = self.mode
            self._take(after, contexts)
            # Written meanwhile: neither must a slow disk hold up that connections are cut, nor what is done about the
            # change keep it from the disk.
            saving = self._saving(after) if at_once else None
            self._report(before, after, was)
            if not same_members:
                self._refusals.accepted()  # those were of the swarm as it was
            self._judge()
            if saving is not None:
                await self._keep(after, saving)
        return after

    def _saving(self, roster: Roster | None) -> asyncio.Future[None]:
        """`roster` on its way to the disk, from now on."""
        return asyncio.get_running_loop().run_in_executor(None, save_roster, self._data_dir, roster)

    async def _keep(self, roster: Roster | None, saving: asyncio.Future[None] | None = None) -> None:
        """Raises RosterNotKept."""
        try:
            await (saving or self._saving(roster))
        except RosterError as error:
            self._is_unkept = True
            raise RosterNotKept(
                f"{error}: what was changed holds only until this node stops, unless the disk takes it before: make "
                "room there, or make it writable"
            ) from error
        if self._is_unkept:
            self._is_unkept = False
            _log.info("the list of members is on disk again")

    def _take(self, roster: Roster | None, contexts: _Contexts | None) -> None:
        self._roster = roster
        self._contexts = contexts
        self._member_ids = frozenset(entry.id for entry in self.others)

    def _report(self, before: Roster | None, after: Roster | None, was: Mode) -> None:
        old = {entry.id: entry for entry in (() if before is None else before.members)}
        new = {entry.id: entry for entry in (() if after is None else after.members)}
        change = TrustChange(
            joined=tuple(entry for node_id, entry in new.items() if node_id not in old and node_id != self.node_id),
            left=tuple(entry for node_id, entry in old.items() if node_id not in new and node_id != self.node_id),
            was=was,
            now=self.mode,
        )
        if not (change.joined or change.left or change.was != change.now):
            return
        for entry in change.joined:
            _log.info("%s (%s) is a member of the swarm", entry.name, entry.id)
        for entry in change.left:
            _log.info("%s (%s) is not a member of the swarm any more", entry.name, entry.id)
        self._notify(change)

    def _notify(self, change: TrustChange) -> None:
        tell_each(self._listeners, change)


def _note_failure(change: asyncio.Task[Roster | None]) -> None:
    """Its failure is known, even where whoever asked is gone."""
    if not change.cancelled() and (error := change.exception()) is not None:
        _log.debug("a change of members came to nothing: %s", error)


def _paired(roster: Roster | None) -> Roster:
    if roster is None:
        raise RosterError("this node is open: it has no members; `swarm invite` makes it paired")
    return roster


def _contexts(identity: NodeIdentity, roster: Roster | None) -> _Contexts | None:
    """Blocks for the key's file."""
    if roster is None:
        return None
    pinned = [entry.der for entry in roster.members if entry.id != identity.node_id]
    # Its own certificate lets a node that meets itself say so; `is_member` is never true of it.
    known = [*pinned, identity.certificate]
    return _Contexts(
        client_context(identity.pem, known),
        server_context(identity.pem, pinned),
        server_context(identity.pem, pinned, joining=True),
    )
