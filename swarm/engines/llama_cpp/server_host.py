"""What every engine host of a llama.cpp server does: it takes an order, answers, and ends with the node.

    python -m swarm.engines.llama_cpp.xllamacpp_host    < one JSON line of `order_to_json`; then the pipe is held open
    python -m swarm.engines.llama_cpp.llama_server_host

A host answers one JSON line, {"address", "key", ...} of `Serving` or {"error", "unknown_architecture"?}, and serves its
one model on loopback. One that ends because its server ended may say {"ended": why} before. It ends when its standard
input ends, so it never outlives the node, not even one killed with SIGKILL; one that hangs while it loads ends by a
timer in C. JSON on pipes only: no pickle. `server_engine.py` is the other end. Everything here blocks.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from swarm.engines.engine import Device, EngineBuild, EnginePart, EngineSpec
from swarm.errors import EngineFailed, UnknownArchitecture
from swarm.registry.model_memory import Load, memory_needed

if TYPE_CHECKING:
    from swarm.registry.gguf_header import GgufFacts

OPEN_FILES = "/proc/self/fd"  # where a process finds what it has open, under its number
PROMPT_CACHE_MIB = 256  # llama.cpp keeps prompts of left slots in RAM; its default, 8 GiB, would surprise a laptop
HTTP_THREADS_SPARE = 8  # the listener needs one thread per stream, and some for /metrics and /tokenize meanwhile
# Pooling needs all of a text in one micro-batch. A larger one costs a model that writes memory for logits: 2,048 tokens
# instead of 512 were 1.8 GB more with a vocabulary of 150,000 (measured). Encoders have none.
EMBEDDING_TEXT_TOKENS = 512
ENCODER_TEXT_TOKENS = 2048  # four times the usual piece of a document; attention's own memory grows with the square
LISTENER_READ_TIMEOUT_S = 3600  # loopback and our own client: deadlines are kept by the gateway
# OpenMP's threads spin at every barrier unless they are told not to: beside one busy program, or a second model, an
# engine was 10 to 20 times slower (docs/development/benchmarks.md). libgomp reads this once, when it is loaded.
WAIT_POLICY = "passive"
# Guesses from what was written before: what followed so many tokens, the least and the most of it at a time. Its
# own (24, 48 to 64) suit a GPU, which checks 64 tokens about as quickly as one; on two cores wrong ones cost more than
# right ones saved, and shorter ones brought 1.2 times the speed where those brought 0.97 (measured).
NGRAM_MATCH, NGRAM_LEAST, NGRAM_MOST = 16, 8, 16
HAS_ABSTRACT_SOCKETS = sys.platform == "linux"  # which have a name and no file: nothing is left to be removed
# Slots beyond those that answer at once keep what was read: an agent's prompt stays beside a title or a chat that has a
# slot of its own. They share the cells of those that answer.
LEAST_SLOTS = 4
MOST_SLOTS = 256  # sequences that llama.cpp can have
LOAD_LEAST_S = 60.0  # a model of any size: the slowest machine reads and checks a small one in seconds
LOAD_BYTES_PER_S = 10 * 2**20  # a worn disk or a busy network share; whatever is slower is taken for hung


class Pooling(IntEnum):
    """How a model makes one vector, or one score, of a text, in GGUF's numbers. Models that write have none."""

    MEAN, CLS, LAST, RANK = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model is to read texts. `pooling` is None for one that writes.

    `step_tokens` of prompts are computed at once, in one micro-batch: the largest step that llama.cpp makes. `slots` is
    how many it has, of which `EngineSpec.slots` answer at once; 0: no more than these.
    """

    pooling: Pooling | None
    step_tokens: int
    slots: int = 0

    @staticmethod
    def of(spec: EngineSpec, facts: GgufFacts | None) -> Batching:
        """For a model with such `facts`; None where its file tells nothing."""
        number = facts.pooling_type if facts else None
        encoder = facts is not None and "bert" in facts.architecture
        at_once = min(ENCODER_TEXT_TOKENS, spec.context_tokens) if encoder else EMBEDDING_TEXT_TOKENS
        pooling = Pooling(number) if number in tuple(Pooling) else None
        slots = 0
        if facts is not None and pooling is None and not encoder and may_keep(spec, facts):
            slots = keeping_slots(spec.slots)
        # llama.cpp aborts while it loads if a micro-batch cannot be divided among the slots (seen with 3, 5, 6 and 7).
        parts = math.lcm(spec.slots, slots or 1)
        return Batching(pooling, -(-at_once // parts) * parts, slots)


def keeping_slots(answering: int) -> int:
    """How many slots a server has of which so many answer at once: a power of two, twice as many at least."""
    wanted = max(LEAST_SLOTS, 1 << (2 * answering - 1).bit_length())
    return wanted if wanted <= MOST_SLOTS else answering


def may_keep(spec: EngineSpec, facts: GgufFacts) -> bool:
    """Whether further slots keep what llama.cpp's own memory for prompts does not hold, and take no memory themselves.

    A sliding window, a recurrent state and a draft model have some for each slot.
    """
    cache = facts.cache
    if cache is None or spec.draft is not None or spec.ngram:
        return False
    if cache.state_bytes_per_slot or any(group.window_tokens is not None for group in cache.groups):
        return False
    load = Load(spec.context_tokens, spec.slots, spec.cache_type)
    return memory_needed(facts.shape, load).kv_bytes > PROMPT_CACHE_MIB * 2**20


@dataclass(frozen=True, slots=True)
class Serving:
    """A loaded model and its loopback listener: `address` and `key`, and the Unix `socket` where it has one.

    `devices` compute it besides the processor, with `gpu_layers` of its `layers`; None where the library does not tell.
    `gpu` is whether a GPU has weights of it. `pid` is the process that has the model, where that is not the host.

    Of what older servers cannot do: `embeds` texts while they write, make `several` answers to one request, follow a
    `grammar`.
    """

    address: str
    key: str
    version: str = ""
    gpu: bool = False
    devices: tuple[str, ...] = ()
    gpu_layers: int | None = None
    layers: int | None = None
    pid: int | None = None
    embeds: bool = True
    several: bool = True
    grammar: bool = True
    socket: str | None = None

    @staticmethod
    def of(answer: dict[str, Any]) -> Serving:
        """From a host's answer, which a host of ours wrote."""
        known = {field.name: answer[field.name] for field in fields(Serving) if field.name in answer}
        return replace(Serving(**known), devices=tuple(answer.get("devices", ())))


def socket_names() -> tuple[str, str] | None:
    """A new Unix socket's name, as llama.cpp's `--host` takes it and as the system does; None where there are none."""
    if not HAS_ABSTRACT_SOCKETS:
        return None
    name = f"swarm-{secrets.token_hex(8)}.sock"  # by its ending llama.cpp knows it for one
    return f"@{name}", f"\0{name}"


def load_limit_s(path: Path | None, least_s: float = LOAD_LEAST_S) -> float:
    """How long loading `path` may take: a hostile template in it can loop for ever."""
    files = () if path is None else path.iterdir() if path.is_dir() else (path,)
    size = sum(file.stat().st_size for file in files if file.exists())
    return least_s + size / LOAD_BYTES_PER_S


def log_end(log: int, most_bytes: int) -> str:
    """The end of the file `log`, to which another process may be writing: nobody's position in it is moved for that."""
    size = os.fstat(log).st_size
    if hasattr(os, "pread"):
        return os.pread(log, most_bytes, max(0, size - most_bytes)).decode("utf-8", "replace")
    return ""  # Windows has no such thing


def passed_on(spec: EngineSpec) -> tuple[int, ...]:
    """The open files of this process that one which loads `spec` has open, too, under the same number."""
    return () if spec.copies is None else (spec.copies,)


def order_to_json(spec: EngineSpec, batching: Batching) -> str:
    """What a host is to load, as one line that `order_from_json` reads back."""
    return json.dumps({"spec": asdict(spec), "batching": asdict(batching)}, default=str)  # paths are the only others


def order_from_json(line: str) -> tuple[EngineSpec, Batching]:
    order: dict[str, Any] = json.loads(line)
    wanted, batching = order["spec"], order["batching"]
    wanted |= {name: _path(wanted[name]) for name in ("path", "projector", "draft", "saves")}
    wanted["parts"] = tuple(EnginePart(**part) for part in wanted["parts"])
    if (build := wanted["build"]) is not None:
        build["devices"] = tuple(Device(**device) for device in build["devices"])
        build |= {name: _path(build[name]) for name in ("program", "packages")}
        wanted["build"] = EngineBuild(**build)
    pooling = batching["pooling"]
    return EngineSpec(**wanted), Batching(
        None if pooling is None else Pooling(pooling), batching["step_tokens"], batching["slots"]
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def files_words(spec: EngineSpec) -> str:
    """All files that a model is loaded from, for people: each of them may be the one that cannot be."""
    parts = (("its image part", spec.projector), ("its draft model", spec.draft))
    return " with ".join([str(spec.path), *(f"{words} {path}" for words, path in parts if path is not None)])


def tell(answer: dict[str, object], stop: Callable[[], None] = lambda: None) -> None:
    """Ends this process, after `stop`, where the node is gone: nobody is left to be told."""
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except OSError:
        stop()
        os._exit(1)


def serve(
    start: Callable[[EngineSpec, Batching], Serving],
    once_serving: Callable[[], None],
    stop: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Load what standard input says by `start`, report the address, and wait for the parent to go; then `stop`.

    Never returns: leaving this function would unload the model, which never ends where llama.cpp hangs.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches the whole group; the parent drains first
    os.umask(0o077)  # what it saves of prompts is its user's alone
    spec, batching = order_from_json(sys.stdin.readline())
    faulthandler.dump_traceback_later(load_limit_s(spec.path), exit=True)
    try:
        serving = start(spec, batching)
    except BaseException as error:
        stop()
        if not isinstance(error, EngineFailed):
            raise
        tell({"error": str(error), "unknown_architecture": isinstance(error, UnknownArchitecture)})
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()
    tell(asdict(serving), stop)
    once_serving()
    sys.stdin.read()
    stop()
    os._exit(0)  # llama.cpp's teardown is not needed: the system takes the memory back at once
