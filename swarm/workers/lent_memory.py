"""The memory that this node lends to other members: who has how much of it, and who gets more. Pure.

A lease takes what it was granted from the moment it is granted, whatever of it is in use: that is what the host counts
on. What this node's own models need comes first only where its owner says so (`swarm lend off`): a lease is never ended
for a model of this node, which is told that there is no room, as it is beside a pinned one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from federation.lending import (
    LENDING_DRAINS,
    MEMORY_ENDED,
    NO_SUCH_LEASE,
    NOT_ENOUGH_LENT,
    OTHER_BUILD,
    TOO_MANY_STREAMS,
    LendRequest,
    same_llama_cpp,
)
from hardware.pools import PoolName
from swarm.registry.model_memory import MIB, size_text
from swarm.workers.ledger import Holding

BARRED_S: Final = 600.0  # that a guest is lent nothing after it took more than it had been lent
LEAST_BYTES: Final = MIB  # that is worth an RPC server
MOST_LEASES: Final = 16  # at once: each is a process with threads of its own
MOST_STREAMS: Final = 16  # of one lease at once: llama.cpp has one, and makes half a dozen one after another


@dataclass(frozen=True, slots=True)
class LentPart:
    """One lease: `bytes` for a part of `model`, which the member `guest` (an id; `name` for people) hosts.

    `since` is an instant (monotonic seconds); `held_bytes` are in use by its server now.
    """

    lease: str
    guest: str
    name: str
    model: str
    bytes: int
    since: float
    held_bytes: int = 0

    @property
    def words(self) -> str:
        """As it is listed among models."""
        return f"lent to {self.name} for {self.model}"


@dataclass(frozen=True, slots=True)
class LendingRefused:
    """Why nothing is lent: a `code` of `federation/lending.py`, and `words` with the remedy."""

    code: str
    words: str


@dataclass(slots=True)
class LentMemory:
    """What is lent of `limit_bytes` of one pool of this machine's memory. `build` and `rpc` are its llama.cpp's.

    While `draining` says why, nothing new is lent.
    """

    limit_bytes: int
    build: str
    rpc: str
    draining: str | None = None
    _parts: dict[str, LentPart] = field(default_factory=dict[str, LentPart])
    _barred: dict[str, float] = field(default_factory=dict[str, float])  # guests, until an instant

    @property
    def parts(self) -> tuple[LentPart, ...]:
        """All leases, the oldest first."""
        return tuple(self._parts.values())

    @property
    def lent_bytes(self) -> int:
        return sum(part.bytes for part in self._parts.values())

    def free_bytes(self, room_bytes: int | None) -> int:
        """What could be lent now; `room_bytes` is what the machine has left for anything, None where nobody knows.

        What was lent and is not in use yet is not free there.
        """
        if self.draining is not None:
            return 0
        left = self.limit_bytes - self.lent_bytes
        if room_bytes is not None:
            unused = sum(max(0, part.bytes - part.held_bytes) for part in self._parts.values())
            left = min(left, room_bytes - unused)
        return max(0, left)

    def refusal(self, guest: str, request: LendRequest, room_bytes: int | None, now: float) -> LendingRefused | None:
        """Why `request` gets nothing; None where it gets what it asks for."""
        wanted = size_text(request.bytes)
        if self.draining is not None:
            return LendingRefused(LENDING_DRAINS, f"this node lends nothing more: {self.draining}")
        if not same_llama_cpp(request.build, request.rpc, self.build, self.rpc):
            return LendingRefused(
                OTHER_BUILD,
                f"this node's llama.cpp is {self.build} (RPC {self.rpc}) and yours is {request.build} "
                f"(RPC {request.rpc}): "
                "run `swarm engines install native` on the older one, so that both are the same",
            )
        if self._barred.get(guest, now) > now:
            return LendingRefused(
                MEMORY_ENDED,
                "your last lease took more memory than it had asked for: this node lends to you again in "
                f"{self._barred[guest] - now:.0f} s",
            )
        free = self.free_bytes(room_bytes)
        if request.bytes > free or request.bytes < LEAST_BYTES:
            of_all = f"{size_text(free)} of the {size_text(self.limit_bytes)} that this node lends are free"
            lent = f" ({'; '.join(part.words for part in self.parts)})" if self._parts else ""
            return LendingRefused(NOT_ENOUGH_LENT, f"{wanted} were asked for and {of_all}{lent}: ask for less")
        if len(self._parts) >= MOST_LEASES:
            return LendingRefused(NOT_ENOUGH_LENT, f"this node has {MOST_LEASES} leases, which is all it takes")
        return None

    def take(self, lease: str, guest: str, name: str, request: LendRequest, now: float) -> LentPart:
        """Count what `refusal` has nothing against. Raises ValueError for a lease that there is."""
        if lease in self._parts:
            raise ValueError(f"the lease {lease} is there already")
        part = self._parts[lease] = LentPart(lease, guest, name, request.model, request.bytes, now)
        return part

    def holds(self, lease: str, held_bytes: int) -> None:
        """Its server has so much in use now."""
        if lease in self._parts:
            self._parts[lease] = replace(self._parts[lease], held_bytes=held_bytes)

    def give_back(self, lease: str, now: float, took_more: bool = False) -> None:
        """It is over. `took_more`: than it was lent, for which its guest gets nothing for a while."""
        part = self._parts.pop(lease, None)
        if part is not None and took_more:
            self._barred = {guest: until for guest, until in self._barred.items() if until > now}
            self._barred[part.guest] = now + BARRED_S

    def check(self, guest: str, lease: str) -> LendingRefused | None:
        """Why `guest` may not use `lease`; None where it is its own. Another's is as unknown as one that is none."""
        part = self._parts.get(lease)
        if part is None or part.guest != guest:
            return LendingRefused(NO_SUCH_LEASE, "you have no such lease here: it may have ended")
        return None

    def holdings(self, pool: PoolName) -> list[Holding]:
        """As the ledger of models has them: what nobody unloads."""
        return [
            Holding(
                f"{part.words} ({part.lease[:8]})",
                {pool: part.held_bytes},
                idle=False,
                pinned=True,
                wanted_at=part.since,
                load_s=0.0,
                growth={pool: max(0, part.bytes - part.held_bytes)},
                is_model=False,
            )
            for part in self._parts.values()
        ]


def too_many_streams(there: int) -> LendingRefused | None:
    """Why a lease with so many connections to its server gets no other; None where it does.

    The server answers one at a time, so that each more of them only waits, and costs this node two descriptors.
    """
    if there < MOST_STREAMS:
        return None
    return LendingRefused(TOO_MANY_STREAMS, f"this lease has {there} connections, which is all that one gets")
