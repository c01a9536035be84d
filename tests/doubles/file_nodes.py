"""Nodes that share model files: honest ones, and those that lie, stall or vanish."""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from federation.client import PeerClient
from federation.file_exchange import PIECE_BYTES, FilePeer, PieceHashes, SharedFile
from swarm.errors import Unavailable
from swarm.gateway.peers.model_files import FileService, Transfers
from swarm.registry.file_hashes import hash_bytes
from swarm.registry.lan_download import LanFiles
from swarm.registry.piece_copy import CopyPace
from swarm.registry.shared_files import RESCAN_S, SharedFiles
from tests.doubles.running_node import NodeOptions, RunningNode

OWNER, REPO, FILE = "owner", "repo-GGUF", "model-q4_k_m.gguf"
PIECES = 3
CONTENT = random.Random(7).randbytes(2 * PIECE_BYTES + 12_345)
HASHES = hash_bytes(io.BytesIO(CONTENT))
SHA256 = HASHES.sha256
FAST_BYTES_PER_S = 1e12
QUICK = CopyPace(failure_pause_s=0.01, busy_pause_s=0.01)


def stocked(models_dir: Path, content: bytes = CONTENT, rescan_s: float = RESCAN_S) -> SharedFiles:
    """A models folder with the file in it, hashed."""
    path = models_dir / f"{OWNER}--{REPO}" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    files = SharedFiles(models_dir, rescan_s)
    while files.hash_one(threading.Event()):
        pass
    return files


class CountingTransfers(Transfers):
    """Unlimited speed; notes how many bytes went, and stops before `stop_at` until told to go on."""

    def __init__(self, stop_at: int | None = None, bytes_per_s: float = FAST_BYTES_PER_S) -> None:
        super().__init__(lambda: False, bytes_per_s, bytes_per_s)
        self.sent_bytes = 0
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.refused = asyncio.Event()
        self.stop_at = stop_at

    @contextmanager
    def place(self, host: str) -> Generator[None]:
        try:
            with super().place(host):
                yield
        except Unavailable:
            self.refused.set()
            raise

    async def take_turn(self, size_bytes: int) -> None:
        await super().take_turn(size_bytes)
        self.sent_bytes += size_bytes
        if self.stop_at is not None and self.sent_bytes > self.stop_at:
            self.reached.set()
            await self.go_on.wait()


class LyingFiles(SharedFiles):
    """Offers SHA256 and sends `served`. `claimed` is what it says of the pieces: the truth, unless given."""

    def __init__(self, served: bytes, claimed: PieceHashes | None = None) -> None:
        super().__init__(Path("/nowhere"))
        self._served = served
        self._claimed = claimed or HASHES.shared

    def listed(self) -> tuple[SharedFile, ...]:
        return (SharedFile(sha256=SHA256, size_bytes=self._claimed.size_bytes, name=f"{OWNER}/{REPO}/{FILE}"),)

    def pieces(self, sha256: str) -> PieceHashes:
        return self._claimed

    def open(self, sha256: str) -> tuple[BinaryIO, int]:
        return io.BytesIO(self._served), len(self._served)


class SharingNode(RunningNode):
    """A running node without models, but with files."""

    def __init__(
        self, name: str, files: SharedFiles, transfers: CountingTransfers | None = None, **limits: float
    ) -> None:
        self.transfers = transfers or CountingTransfers()
        super().__init__(name, options=NodeOptions(files=FileService(files, self.transfers, **limits)))

    @property
    def peer(self) -> FilePeer:
        return FilePeer(self.id, self.name, self.address)


class Asker:
    """A node that needs files, as `LanFiles` sees it: whom it knows, what it was told."""

    def __init__(self, client: PeerClient, *nodes: SharingNode, paired: bool = False, pace: CopyPace = QUICK) -> None:
        self.peers: Sequence[FilePeer] = [node.peer for node in nodes]
        self.said: list[str] = []
        self.failed: list[str] = []
        self.nearby = LanFiles(
            client, self._peers, asyncio.get_running_loop(),
            say=self.said.append, believe_names=lambda: paired, failed=self.failed.append, pace=pace,
        )  # fmt: skip

    @property
    def charges(self) -> list[str]:
        """What was said of liars."""
        return [line for line in self.said if "wrong bytes" in line]

    async def _peers(self) -> Sequence[FilePeer]:
        return self.peers
