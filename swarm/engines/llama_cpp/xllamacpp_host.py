"""llama.cpp's server inside a process, through xllamacpp; run as a module, this is an engine host (`server_host.py`).

`xllamacpp.py` starts hosts, and starts the server in the node's own process where that is safe. Everything here blocks:
the constructor and the destructor of `xllamacpp.Server` hold the GIL for as long as they run, 0.1 s for the embedded
model, 1 s for 0.5 GB.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from swarm.engines.engine import Device, EngineSpec
from swarm.engines.free_memory import trim_from_time_to_time
from swarm.engines.llama_cpp.llama_program import placed
from swarm.engines.llama_cpp.server_host import (
    HTTP_THREADS_SPARE,
    LISTENER_READ_TIMEOUT_S,
    NGRAM_LEAST,
    NGRAM_MATCH,
    NGRAM_MOST,
    OPEN_FILES,
    PROMPT_CACHE_MIB,
    WAIT_POLICY,
    Batching,
    Pooling,
    Serving,
    files_words,
    log_end,
    serve,
    socket_names,
    tell,
)
from swarm.errors import EngineFailed

QUIET, TELLS_PLACES = -1, 4  # of llama.cpp's verbosities: the second one says nothing of what is said to a model
SET_VERBOSITY = "_Z30common_log_set_verbosity_tholdi"  # of its C++, on Linux and macOS
LOG_BYTES = 2**18  # from the end of the log: those of loading one model are a tenth of it
LOG_S = 0.2  # llama.cpp's log is written by a thread of its own
ASK = "--devices"


@dataclass(frozen=True)
class RunningServer:
    """A loaded model: `address` and `key` of its loopback listener, `socket` beside it; see `Serving`.

    Dropping `handle` unloads it.
    """

    address: str
    key: str
    handle: Any
    socket: str | None = None

    def serving(self, spec: EngineSpec) -> Serving:
        """With what it computes, as far as the library tells: it names its devices, and no layers."""
        found = devices() if spec.gpu_layers != 0 else ()
        names = tuple(device.description or device.name for device in found)
        return Serving(self.address, self.key, version("xllamacpp"), bool(found), names, socket=self.socket)


def library() -> Any:
    """xllamacpp, a native module without type information. Its threads do not spin, unless this process was told so."""
    os.environ.setdefault("OMP_WAIT_POLICY", WAIT_POLICY)
    return importlib.import_module("xllamacpp")


def devices() -> tuple[Device, ...]:
    """The GPUs that this build of llama.cpp sees. Loads the library: call it off the loop.

    What is no GPU is left out: the processor, and libraries that compute on it, such as Apple's Accelerate.
    """
    xllamacpp = library()
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return tuple(
        Device(str(found["name"]), str(found["description"]), found["memory_total"], found["memory_free"])
        for found in xllamacpp.get_device_info()
        if found["type"] in gpus
    )


def start_server(spec: EngineSpec, batching: Batching | None = None, verbosity: int = QUIET) -> RunningServer:
    """Load `spec.path` and listen on a free loopback port. Blocks, holding the GIL, until the model is ready.

    Raises EngineFailed where llama.cpp refuses the file; its reason goes to its own log only.
    """
    xllamacpp = library()
    params = xllamacpp.CommonParams()
    params.model.path = str(spec.path)
    if spec.projector is not None:
        params.mmproj.path = str(spec.projector)
    params.model_alias = {spec.model_id}
    batching = batching or Batching.of(spec, None)
    params.n_parallel = batching.slots or spec.slots
    params.n_ctx = spec.context_tokens * spec.slots
    params.kv_unified = True  # answers to one prompt share its cells
    params.kv_unified_per_slot = spec.context_tokens
    params.cpuparams.n_threads = spec.threads
    params.cpuparams_batch.n_threads = spec.reading_threads or spec.threads
    if spec.gpu_layers is not None:
        params.n_gpu_layers = spec.gpu_layers
    cache_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{spec.cache_type.upper()}")
    params.cache_type_k = params.cache_type_v = cache_type.value  # quantized values need flash attention: on by itself
    _guess(xllamacpp, params.speculative, spec)
    params.cache_ram_mib = PROMPT_CACHE_MIB
    # Which slot reads a prompt is decided here (`prompt_slots.py`): what others hold stays where it is.
    params.slot_prompt_similarity = 0.0
    params.cache_idle_slots = False
    if spec.saves is not None:
        params.slot_save_path = f"{spec.saves}{os.sep}"
    elif spec.copies is not None:
        params.slot_save_path = f"{OPEN_FILES}/"
    params.embedding = True  # costs nothing while nobody embeds (measured), and one context serves both
    pooling = batching.pooling or Pooling.MEAN
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.name}")
    params.n_ubatch = batching.step_tokens  # a step is no larger: with `embedding` the batch is as large
    params.n_threads_http = spec.slots + HTTP_THREADS_SPARE
    params.timeout_read = params.timeout_write = LISTENER_READ_TIMEOUT_S
    params.sse_ping_interval = -1  # heartbeats are the gateway's
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = verbosity
    params.port = 0
    params.hostnames = ["127.0.0.1"]
    sockets = socket_names()
    if sockets is not None:
        params.hostnames = ["127.0.0.1", sockets[0]]
    key = secrets.token_hex(16)
    params.api_keys = [key]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineFailed(
            f"llama.cpp could not load {files_words(spec)}: {error} (damaged file, unknown architecture, or too little "
            f"memory for {spec.slots} slots of {spec.context_tokens} tokens; try --context 2048 --workers 1)"
        ) from error
    return RunningServer(server.listening_address, key, server, sockets and sockets[1])


def _guess(xllamacpp: Any, speculative: Any, spec: EngineSpec) -> None:
    """Whoever guesses the next tokens: of what was written before, and a small model, in this order."""
    types: list[Any] = []
    if spec.ngram:
        types.append(xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_MOD)
        speculative.ngram_mod.n_match = NGRAM_MATCH
        speculative.ngram_mod.n_min, speculative.ngram_mod.n_max = NGRAM_LEAST, NGRAM_MOST
    if spec.draft is not None:
        types.append(xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE)
        speculative.draft.mparams.path = str(spec.draft)
        speculative.draft.cpuparams.n_threads = spec.threads
        speculative.draft.cpuparams_batch.n_threads = spec.reading_threads or spec.threads
        if spec.gpu_layers is not None:
            speculative.draft.n_gpu_layers = spec.gpu_layers
    if types:
        speculative.types = types


def _start(spec: EngineSpec, batching: Batching) -> Serving:
    """Standard error is a file while a host runs: what llama.cpp says as it loads tells where the weights went."""
    quieten = _verbosity_setter()
    try:
        running = start_server(spec, batching, QUIET if quieten is None else TELLS_PLACES)
    except EngineFailed:
        time.sleep(LOG_S)
        raise
    _kept.append(running)
    serving = running.serving(spec)
    if quieten is not None:
        time.sleep(LOG_S if serving.gpu else 0)
        quieten(QUIET)
        where = placed(log_end(sys.stderr.fileno(), LOG_BYTES).splitlines(), devices(), spec.gpu_layers)
        serving = replace(serving, gpu_layers=where.gpu_layers, layers=where.layers) if serving.gpu else serving
    return serving


def _verbosity_setter() -> Callable[[int], object] | None:
    """Sets how much llama.cpp logs from now on, which the wheel has no name for; None where its library has none."""
    try:
        return ctypes.CDLL(library().xllamacpp.__file__)[SET_VERBOSITY]
    except (OSError, AttributeError):
        return None


def tell_devices() -> None:
    """{"version", "devices"} on standard output."""
    tell({"version": version("xllamacpp"), "devices": [asdict(device) for device in devices()]})


_kept: list[RunningServer] = []  # for as long as this process lives


if __name__ == "__main__":
    if sys.argv[1:] == [ASK]:
        tell_devices()
        sys.exit()
    serve(_start, trim_from_time_to_time)
