"""Files copied from peers: who has what, whom to believe, and what follows from wrong bytes.

A file is wanted by its sha256. What peers say of its pieces may be a lie, told by one or by several together: those
who say the same are drawn from together, most voices first, and where the whole is then not the file, none of them is
asked again.

Files that other nodes of the swarm have, as a download sees them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from federation.client import PeerClient
from federation.errors import PeerError, PeerUntrusted
from federation.file_exchange import FilePeer, PieceHashes, SharedFile, list_files, piece_hashes
from swarm.registry.download import SPARE_DISK_BYTES
from swarm.registry.file_hashes import FileHashes, stoppable
from swarm.registry.hub import Progress
from swarm.registry.piece_copy import MAX_SOURCES, CopyPace, PieceCopy
from swarm.registry.piece_file import PieceFile, pieces_path, taken_bytes

MAX_ASKED = 32  # peers asked for what they have
MAX_VERSIONS = 3  # different accounts of one file's pieces that are tried: each wrong one may cost a whole download
MAX_TRIES = 3  # to hear why a peer gives nothing
FRESH_S = 10.0  # a model in parts asks for each of them

T = TypeVar("T")
Peers = Callable[[], Awaitable[Sequence[FilePeer]]]

log = logging.getLogger(__name__)


class LanFiles:
    """What the peers that `peers` names have. The methods of `Nearby` are for other threads than the loop's.

    `believe_names`: whether peers may say which hash a name has (a paired swarm). `say` is told of liars.
    """

    def __init__(
        self,
        client: PeerClient,
        peers: Peers,
        loop: asyncio.AbstractEventLoop,
        *,
        say: Callable[[str], None],
        believe_names: Callable[[], bool] = lambda: False,
        failed: Callable[[str], None] = lambda node_id: None,
        pace: CopyPace | None = None,
    ) -> None:
        self._client = client
        self._peers = peers
        self._loop = loop
        self._say = say
        self._believe_names = believe_names
        self._failed = failed
        self._pace = pace
        self._liars: dict[str, str] = {}  # node id -> why; as many as have been peers, which is bounded
        self._offers: tuple[float, dict[str, tuple[FilePeer, tuple[SharedFile, ...]]]] | None = None

    # For a downloading thread

    def sizes(self) -> dict[str, int]:
        """Of several sizes that are told for one hash, the smallest: a lie must not look like a full disk."""
        found: dict[str, int] = {}
        for _, files in self._wait_for(self._offered()):
            for file in files:
                found[file.sha256] = min(file.size_bytes, found.get(file.sha256, file.size_bytes))
        return found

    def sha256_of(self, name: str) -> str | None:
        if not self._believe_names():
            return None
        offered = self._wait_for(self._offered())
        told = {file.sha256 for _, files in offered for file in files if file.name == name}
        return told.pop() if len(told) == 1 else None

    def name_of(self, sha256: str) -> str | None:
        """OWNER/REPO/FILE, as the first peer that has this file calls it: what it is, its hash says alone."""
        offered = self._wait_for(self._offered())
        return next((file.name for _, files in offered for file in files if file.sha256 == sha256), None)

    def fetch(self, sha256: str, partial: Path, progress: Progress) -> FileHashes | None:
        return self._wait_for(self._fetch(sha256, partial, progress))

    # On the loop

    async def _fetch(self, sha256: str, partial: Path, progress: Progress) -> FileHashes | None:
        holders = [peer for peer, files in await self._offered() if any(file.sha256 == sha256 for file in files)]
        last: tuple[PieceFile, frozenset[int]] | None = None
        for hashes, peers in await self._versions(sha256, holders):
            if not await asyncio.to_thread(_has_room, partial, hashes.size_bytes):
                log.warning("%s is said to have %d bytes: no room for it", sha256[:12], hashes.size_bytes)
                continue
            self._say(f"  copying    from {', '.join(peer.label for peer in peers[:MAX_SOURCES])}")
            file = PieceFile(partial, hashes)
            copy = PieceCopy(
                self._client, sha256, hashes, peers, file,
                progress=progress, charge=self._charge, failed=lambda peer: self._failed(peer.id), pace=self._pace,
            )  # fmt: skip
            await copy.run()
            if not copy.is_whole:
                await self._say_who_refuses(peers)
                last = file, frozenset(copy.right)
                continue
            if (found := await stoppable(functools.partial(file.finish, sha256))) is not None:
                return found
            last = file, frozenset()
            for peer in peers:
                self._charge(peer, f"what it says of file {sha256[:12]} is another file")
        if last is not None:
            file, right = last
            await asyncio.to_thread(file.hand_over, right)
        return None

    async def _versions(
        self, sha256: str, holders: Sequence[FilePeer]
    ) -> list[tuple[PieceHashes, tuple[FilePeer, ...]]]:
        """What the holders say of the file's pieces, with those who say it: what most say comes first."""
        told = await asyncio.gather(*(self._pieces_of(peer, sha256) for peer in holders))
        voices: defaultdict[PieceHashes, list[FilePeer]] = defaultdict(list)
        for peer, hashes in zip(holders, told, strict=True):
            if hashes is not None:
                voices[hashes].append(peer)
        ranked = sorted(voices.items(), key=lambda item: len(item[1]), reverse=True)
        return [(hashes, tuple(peers)) for hashes, peers in ranked[:MAX_VERSIONS]]

    async def _pieces_of(self, peer: FilePeer, sha256: str) -> PieceHashes | None:
        try:
            return await piece_hashes(self._client, peer, sha256)
        except PeerError as error:
            log.info("%s", error)
            return None

    async def _offered(self) -> list[tuple[FilePeer, tuple[SharedFile, ...]]]:
        """Who has what, without those who lied; asked again when the last answers are not fresh any more."""
        now = self._loop.time()
        if self._offers is None or now - self._offers[0] > FRESH_S:
            peers = [peer for peer in await self._peers() if peer.id not in self._liars][:MAX_ASKED]
            lists = await asyncio.gather(*(self._list_of(peer) for peer in peers))
            self._offers = now, {peer.id: (peer, files) for peer, files in zip(peers, lists, strict=True)}
        return [offer for node_id, offer in self._offers[1].items() if node_id not in self._liars]

    async def _list_of(self, peer: FilePeer) -> tuple[SharedFile, ...]:
        try:
            return await list_files(self._client, peer)
        except PeerError as error:  # a node of an older version answers 404
            log.info("%s", error)
            return ()

    async def _say_who_refuses(self, peers: Sequence[FilePeer]) -> None:
        """Say it where this node was put out of the swarm during a copy, which looks like a lost peer."""

        async def ask(peer: FilePeer) -> None:
            for _ in range(MAX_TRIES):
                try:
                    await self._client.describe(peer.address)
                except PeerUntrusted as error:
                    self._say(f"* peer {peer.label} gives this node nothing any more: {error}")
                except PeerError as error:  # what a refusal looks like whose last word was lost with the connection
                    log.info("%s", error)
                    continue
                return

        await asyncio.gather(*(ask(peer) for peer in peers[:MAX_SOURCES]))

    def _charge(self, peer: FilePeer, why: str) -> None:
        if peer.id not in self._liars:
            self._liars[peer.id] = why
            self._say(f"* peer {peer.label} sent wrong bytes ({why}): it is not asked for files again")

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _has_room(partial: Path, size_bytes: int) -> bool:
    partial.parent.mkdir(parents=True, exist_ok=True)
    here_bytes = max(taken_bytes(partial), taken_bytes(pieces_path(partial)))
    return size_bytes - here_bytes + SPARE_DISK_BYTES <= shutil.disk_usage(partial.parent).free
