"""llama-cpp-python's low-level API, as far as it is needed here: the library itself, one loaded model, its tokens.

Its functions are llama.cpp's own, called through ctypes with structures that are copied from llama.cpp's header. Both
change between releases; a structure that is not the library's own is a crash, or worse, an answer that is wrong. So one
version is known here, and no other is used.

Everything here is called by the thread that computes, but for `Vocabulary`, which any thread may use: llama.cpp does
not change a vocabulary once it is loaded.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from swarm.engines.engine import Device
from swarm.engines.hosted.generator import LoadOrder
from swarm.engines.llama_cpp.server_host import WAIT_POLICY
from swarm.engines.openai_dialect import NO_TOKENS
from swarm.errors import BadRequest, EngineFailed

VERSION: Final = "0.3.36"
GPU, INTEGRATED_GPU = 1, 2  # of ggml_backend_dev_type
LOG_LINES = 40  # the last of them say why a model was not loaded
MARK = re.compile("think|tool|call", re.IGNORECASE)  # in a control token that says something to who reads an answer
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_REASON = re.compile(r"(?:error|failed|unknown|unable|cannot|invalid)[^\n]*", re.IGNORECASE)
_PIECE_BYTES = 256  # most tokens have less; a longer one is asked for again

log = logging.getLogger(__name__)
_log_lines: deque[str] = deque(maxlen=LOG_LINES)
_callbacks: list[Any] = []  # C has their addresses, and Python must not free them


def library() -> Any:
    """llama_cpp, which has no type information. Raises EngineFailed where it is another version than the known one."""
    os.environ.setdefault("OMP_WAIT_POLICY", WAIT_POLICY)
    try:
        llama = importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:  # what it says of libraries that cannot be loaded
        raise EngineFailed(f"llama-cpp-python cannot be used: {error}; run swarm engines install llama-cpp") from error
    if llama.__version__ != VERSION:
        raise EngineFailed(
            f"llama-cpp-python {llama.__version__} is installed, and this program knows {VERSION}, whose structures in "
            f"memory are its own: pip install llama-cpp-python=={VERSION}"
        )
    return llama


def devices() -> tuple[Device, ...]:
    """The GPUs that this build computes on. Loads the library, and what drives them."""
    library()
    ggml = importlib.import_module("llama_cpp._ggml").libggml
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(ggml, name).restype, getattr(ggml, name).argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p] + 2 * [ctypes.POINTER(ctypes.c_size_t)]
    ggml.ggml_backend_dev_memory.restype = None
    found: list[Device] = []
    for number in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(number)
        if ggml.ggml_backend_dev_type(device) in (GPU, INTEGRATED_GPU):
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            name, about = ggml.ggml_backend_dev_name(device), ggml.ggml_backend_dev_description(device)
            found.append(Device(name.decode(), about.decode(), total.value, free.value))
    return tuple(found)


def keep_the_log(llama: Any) -> None:
    """From now on what llama.cpp says goes to this program's log, and its last lines are remembered."""

    def note(_level: int, text: bytes, _data: object) -> None:
        line = text.decode("utf-8", "replace").rstrip()
        if line.strip("."):
            _log_lines.append(line)
            log.debug("%s", line)

    callback = llama.llama_log_callback(note)
    _callbacks.append(callback)
    llama.llama_log_set(callback, ctypes.c_void_p(0))


def reason_in_log() -> str:
    """What llama.cpp said last that looks like a reason; "" where nothing does."""
    reasons = [found[0] for line in _log_lines if (found := _REASON.search(line))]
    return reasons[0].strip() if reasons else ""


def offloaded_layers() -> tuple[int, int] | None:
    """How many layers llama.cpp said that it put on GPUs, and how many there are."""
    found = [match for line in _log_lines if (match := _OFFLOADED.search(line))]
    return (int(found[-1][1]), int(found[-1][2])) if found else None


def load_model(llama: Any, order: LoadOrder, on_gpu: bool) -> Any:
    """A llama_model. Where it is left open how much of it goes to a GPU: as much of it as there is room for."""
    if order.gpu_layers is not None or not on_gpu:
        return _loaded(llama, order.path, order.gpu_layers or 0)
    model = _loaded(llama, order.path, -1)
    layers = _layers_of(llama, order.path) if model is None else 0
    for share in (3, 2, 1, 0) if model is None else ():
        model = model or _loaded(llama, order.path, layers * share // 4)
    return model


def _loaded(llama: Any, path: Path, gpu_layers: int) -> Any:
    _log_lines.clear()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    return llama.llama_model_load_from_file(str(path).encode(), params) or None


def _layers_of(llama: Any, path: Path) -> int:
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        return 0
    try:
        return int(llama.llama_model_n_layer(model))
    finally:
        llama.llama_model_free(model)


class Vocabulary:
    """The tokens of one model."""

    def __init__(self, llama: Any, model: Any, template: str = "") -> None:
        self._llama = llama
        self._template = template
        self.handle = llama.llama_model_get_vocab(model)
        self.size = int(llama.llama_vocab_n_tokens(self.handle))
        self._shown: dict[int, bytes] = {}

    def refuse_unknown(self, tokens: Sequence[int]) -> None:
        """Raises BadRequest for numbers that are none of its tokens."""
        if tokens and not (min(tokens) >= 0 and max(tokens) < self.size):
            raise BadRequest(NO_TOKENS, param="tokens")

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """See `Generator`."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (self._llama.llama_token * room)()
            made = self._llama.llama_tokenize(self.handle, data, len(data), tokens, room, add_special, parse_special)
            if made >= 0:
                return tokens[:made]
            if room >= -made:
                raise BadRequest("the text is too long to be tokenized")
            room = -made

    def piece(self, token: int, special: bool = True) -> bytes:
        """What `token` stands for; a control token's own text where `special`, else nothing."""
        room = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            made = self._llama.llama_token_to_piece(self.handle, token, buffer, room, 0, special)
            if made >= 0:
                return buffer.raw[:made]
            room = -made

    def shown(self, token: int) -> bytes:
        """What `token` shows in an answer: a control token shows nothing, but for marks that its `template` writes."""
        known = self._shown.get(token)
        if known is None:
            known = self.piece(token, special=False)
            mark = "" if known else self.text(token)
            if mark and MARK.search(mark) and mark in self._template:
                known = self.piece(token)
            self._shown[token] = known
        return known

    def text(self, token: int) -> str:
        """The name of `token`; "" for the one that a vocabulary does not have."""
        return "" if token < 0 else self.piece(token).decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Whether `token` ends an answer."""
        return bool(self._llama.llama_vocab_is_eog(self.handle, token))

    def never_made(self) -> tuple[int, ...]:
        """Tokens that the model's file says are never to be generated."""
        count = ctypes.c_int32(0)
        tokens = self._llama.llama_vocab_get_suppress_tokens(self.handle, ctypes.byref(count))
        return tuple(tokens[number] for number in range(count.value))


def main() -> None:
    """What this build computes on, as one line of JSON: for `engine.py`, which imports no library."""
    try:
        print(json.dumps({"devices": [asdict(gpu) for gpu in devices()]}))  # noqa: T201
    except EngineFailed as error:
        print(json.dumps({"error": str(error)}))  # noqa: T201


if __name__ == "__main__":
    main()
