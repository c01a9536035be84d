"""llama.cpp's server inside a process, through xllamacpp; run as a module, this is that process: an engine host.

    python -m swarm.engines.llama_cpp.xllamacpp_host < one JSON line of `order_to_json`; then the pipe is held open

The host answers one JSON line, {"address", "key", "gpu"} or {"error"}, and serves its one model on loopback; "gpu" is
whether a GPU computes it. It ends when its standard input ends, so it never outlives the node, not even one killed with
SIGKILL; one that hangs while it loads ends by a timer in C. JSON on pipes only: no pickle. `xllamacpp.py` starts hosts,
and starts the server in the node's own process where that is safe. Everything here blocks: the constructor and the
destructor of `xllamacpp.Server` hold the GIL for as long as they run, 0.1 s for the embedded model, 1 s for 0.5 GB.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from swarm.engines.engine import Device, EngineSpec
from swarm.engines.free_memory import trim_from_time_to_time
from swarm.errors import EngineFailed

if TYPE_CHECKING:
    from swarm.registry.gguf_header import GgufFacts

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
LOAD_LEAST_S = 60.0  # a model of any size: the slowest machine reads and checks a small one in seconds
LOAD_BYTES_PER_S = 10 * 2**20  # a worn disk or a busy network share; whatever is slower is taken for hung


class Pooling(IntEnum):
    """How a model makes one vector, or one score, of a text, in GGUF's numbers. Models that write have none."""

    MEAN, CLS, LAST, RANK = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model is to read texts. `pooling` is None for one that writes.

    `step_tokens` of prompts are computed at once, in one micro-batch: the largest step that llama.cpp makes.
    """

    pooling: Pooling | None
    step_tokens: int

    @staticmethod
    def of(spec: EngineSpec, facts: GgufFacts | None) -> Batching:
        """For a model with such `facts`; None where its file tells nothing."""
        number = facts.pooling_type if facts else None
        encoder = facts is not None and "bert" in facts.architecture
        at_once = min(ENCODER_TEXT_TOKENS, spec.context_tokens) if encoder else EMBEDDING_TEXT_TOKENS
        # llama.cpp aborts while it loads if a micro-batch cannot be divided among the slots (seen with 3, 5, 6 and 7).
        at_once = -(-at_once // spec.slots) * spec.slots
        return Batching(Pooling(number) if number in tuple(Pooling) else None, at_once)


def load_limit_s(path: Path | None, least_s: float = LOAD_LEAST_S) -> float:
    """How long loading `path` may take: a hostile template in it can loop for ever."""
    size = path.stat().st_size if path is not None and path.exists() else 0
    return least_s + size / LOAD_BYTES_PER_S


@dataclass(frozen=True)
class RunningServer:
    """A loaded model: `address` and `key` of its loopback listener. Dropping `handle` unloads it."""

    address: str
    key: str
    handle: Any


def library() -> Any:
    """xllamacpp, a native module without type information. Its threads do not spin, unless this process was told so."""
    os.environ.setdefault("OMP_WAIT_POLICY", WAIT_POLICY)
    return importlib.import_module("xllamacpp")


def devices() -> tuple[Device, ...]:
    """The GPUs that this build of llama.cpp sees. Loads the library: call it off the loop."""
    xllamacpp = library()
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return tuple(
        Device(str(found["name"]), str(found["description"]), found["memory_total"], found["memory_free"])
        for found in xllamacpp.get_device_info()
        if found["type"] in gpus
    )


def has_gpu() -> bool:
    """Whether it sees one. Loads the library, too."""
    return bool(devices())


def computes_on_gpu(spec: EngineSpec) -> bool:
    """Whether a model that was just loaded has weights on a GPU. Loads the library."""
    return spec.gpu_layers != 0 and has_gpu()


def start_server(spec: EngineSpec, batching: Batching | None = None) -> RunningServer:
    """Load `spec.path` and listen on a free loopback port. Blocks, holding the GIL, until the model is ready.

    Raises EngineFailed where llama.cpp refuses the file; its reason goes to its own log only.
    """
    xllamacpp = library()
    params = xllamacpp.CommonParams()
    params.model.path = str(spec.path)
    params.model_alias = {spec.model_id}
    params.n_parallel = spec.slots
    params.n_ctx = spec.context_tokens * spec.slots
    params.kv_unified = True  # answers to one prompt share its cells
    params.kv_unified_per_slot = spec.context_tokens
    params.cpuparams.n_threads = spec.threads
    params.cpuparams_batch.n_threads = spec.reading_threads or spec.threads
    if spec.gpu_layers is not None:
        params.n_gpu_layers = spec.gpu_layers
    cache_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{spec.cache_type.upper()}")
    params.cache_type_k = params.cache_type_v = cache_type.value  # quantized values need flash attention: on by itself
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.embedding = True  # costs nothing while nobody embeds (measured), and one context serves both
    batching = batching or Batching.of(spec, None)
    pooling = batching.pooling or Pooling.MEAN
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.name}")
    params.n_ubatch = batching.step_tokens  # a step is no larger: with `embedding` the batch is as large
    params.n_threads_http = spec.slots + HTTP_THREADS_SPARE
    params.timeout_read = params.timeout_write = LISTENER_READ_TIMEOUT_S
    params.sse_ping_interval = -1  # heartbeats are the gateway's
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = -1
    params.port = 0
    params.hostnames = ["127.0.0.1"]
    key = secrets.token_hex(16)
    params.api_keys = [key]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineFailed(
            f"llama.cpp could not load {spec.path}: {error} (damaged file, unknown architecture, or too little memory "
            f"for {spec.slots} slots of {spec.context_tokens} tokens; try --context 2048 --workers 1)"
        ) from error
    return RunningServer(server.listening_address, key, server)


def order_to_json(spec: EngineSpec, batching: Batching) -> str:
    """What a host is to load, as one line that `order_from_json` reads back."""
    return json.dumps(
        {
            "model_id": spec.model_id,
            "path": None if spec.path is None else str(spec.path),
            "context_tokens": spec.context_tokens,
            "slots": spec.slots,
            "threads": spec.threads,
            "gpu_layers": spec.gpu_layers,
            "reading_threads": spec.reading_threads,
            "cache_type": spec.cache_type,
            "pooling": batching.pooling,
            "step_tokens": batching.step_tokens,
        }
    )


def order_from_json(line: str) -> tuple[EngineSpec, Batching]:
    fields: dict[str, Any] = json.loads(line)
    path, pooling = fields.pop("path"), fields.pop("pooling")
    batching = Batching(None if pooling is None else Pooling(pooling), fields.pop("step_tokens"))
    return EngineSpec(path=None if path is None else Path(path), **fields), batching


def _tell(answer: dict[str, object]) -> None:
    """Ends this process where the node is gone: nobody is left to be told."""
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except OSError:
        os._exit(1)


def serve() -> NoReturn:
    """Load what standard input says, report the address, and wait for the parent to go.

    Never returns: leaving this function would unload the model, which never ends where llama.cpp hangs.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches the whole group; the parent drains first
    spec, batching = order_from_json(sys.stdin.readline())
    faulthandler.dump_traceback_later(load_limit_s(spec.path), exit=True)
    try:
        running = start_server(spec, batching)
    except EngineFailed as error:
        _tell({"error": str(error)})
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()
    _tell({"address": running.address, "key": running.key, "gpu": computes_on_gpu(spec)})
    trim_from_time_to_time()
    sys.stdin.read()
    os._exit(0)  # llama.cpp's teardown is not needed: the system takes the memory back at once


if __name__ == "__main__":
    serve()
