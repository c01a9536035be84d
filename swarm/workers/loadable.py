"""What a node can load, where it is told of it, and what loads may take of the machine's memory.

`ModelSource` is where the pool finds models; the node's own disks are one (`node/models.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from swarm.engines.engine import Capabilities, Engine, EngineBuild
from swarm.registry.catalogue import Format
from swarm.registry.gguf_header import GgufFacts
from swarm.workers.ledger import Bytes

UNTOLD = Capabilities()  # of a model that nobody has loaded
NO_BYTES: Bytes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LoadOption:
    """One way to load a model: `slots` answers at once of `context_tokens` each, for which it takes `need`.

    `nodes` are the names of all machines that are to compute it together, this one first, which takes `need`; empty:
    this one alone does. `waits`: others are to compute a part, and cannot be had now.
    """

    context_tokens: int
    slots: int
    need: Bytes
    nodes: tuple[str, ...] = ()
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """A model that this node can load.

    `options` are the ways to load it where so much is free, the best first and the smallest last, never none; `usual`
    is the one on this machine while nothing else runs. `fingerprint` and `sha256` say what it is, `also` by which other
    names people know it, `facts` what its `format` of files says; `template` is the file of its chat template where it
    has one of its own, `modified_s` when its file was last changed (Unix time). One that is not `listed` is loaded when
    asked for by name, and shown to clients only while it runs. `build` of the `engine` loads it, None where that is not
    told. `ttl_s` None: it stays until its memory is wanted.

    `rest` waits for so many seconds before a load is tried again: less, where what it lacked is there sooner. `hint`
    says what else could be done where there is no room for it here, with so much free.
    """

    model_id: str
    usual: LoadOption
    options: Callable[[Bytes], tuple[LoadOption, ...]]
    load: Callable[[LoadOption], Awaitable[Engine]]
    engine: str = "xllamacpp"
    build: EngineBuild | None = None
    params: int | None = None
    size_bytes: int = 0
    fingerprint: str | None = None
    sha256: str | None = None
    capabilities: Capabilities = UNTOLD
    expected_load_s: float | None = None
    listed: bool = True
    ttl_s: float | None = None
    pinned: bool = False
    also: tuple[str, ...] = ()
    format: Format | None = None
    facts: GgufFacts | None = None
    template: Path | None = None
    modified_s: float | None = None
    rest: Callable[[float], Awaitable[None]] = asyncio.sleep
    hint: Callable[[Bytes], str] = lambda free: ""

    @property
    def context_tokens(self) -> int:
        return self.usual.context_tokens

    @property
    def slots(self) -> int:
        return self.usual.slots


class ModelSource(Protocol):
    """The models that lie on this node's disks. Both are cheap, and touch no disk."""

    def find(self, model_id: str) -> Loadable | None:
        """The model of exactly this id."""
        ...

    def all(self) -> Sequence[Loadable]:
        """All of them."""
        ...


class NoModels:
    """The source of a node that loads nothing by itself."""

    def find(self, model_id: str) -> Loadable | None:
        del model_id
        return None

    def all(self) -> Sequence[Loadable]:
        return ()


async def nobody_reads() -> Bytes:
    """Where nobody reads how much memory is free: nothing is bounded then."""
    return NO_BYTES


@dataclass(frozen=True, slots=True)
class MemoryRules:
    """`free` reads what the system has, now; a pool that it leaves out is taken for boundless. See `ledger.make_room`.

    `limit` is the most that all models may take together, `reserve` what is left free, `most_models` how many run.
    """

    free: Callable[[], Awaitable[Bytes]] = nobody_reads
    limit: Bytes = field(default_factory=lambda: NO_BYTES)
    reserve: Bytes = field(default_factory=lambda: NO_BYTES)
    most_models: int | None = None

    def room(self, pool: str, free_bytes: int | None) -> int | None:
        """What of `free_bytes` one model may take; None where nothing is known and nothing limited."""
        rest = None if free_bytes is None else max(0, free_bytes - self.reserve.get(pool, 0))
        return min((size for size in (rest, self.limit.get(pool)) if size is not None), default=None)
