"""The fake hub as huggingface_hub's endpoint, and GGUF files to order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGUFWriter

from swarm.registry import hub as hub_module
from tests.registry.fake_hub import Hub, handler_of


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub and the host that stores its large files; HF_ENDPOINT points to it, after huggingface_hub was imported."""
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub)) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(hub_module, "time", SimpleNamespace(sleep=lambda seconds: None))
    yield hub
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def make_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small but complete GGUF file: `keys` are added as they are, under their full names."""

    def make(
        name: str = "small.gguf",
        architecture: str = "llama",
        tokens: int = 32,
        general_type: str | None = None,
        weights: bool = True,
        **keys: object,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(path, architecture)
        writer.add_name("Small")
        writer.add_context_length(4096)
        writer.add_embedding_length(64)
        writer.add_block_count(2)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_token_list([f"token {i}" for i in range(tokens)])
        writer.add_token_scores([0.0] * tokens)
        for key, value in keys.items():
            full = f"{architecture}.{key.replace('__', '.')}"
            if isinstance(value, list):
                writer.add_array(full, value)
            else:
                assert isinstance(value, int)
                writer.add_uint32(full, value)
        if general_type is not None:
            writer.add_type(general_type)
        if weights:
            writer.add_tensor("token_embd.weight", np.ones((tokens, 64), dtype=np.float16))
            writer.add_tensor("blk.0.ffn_up_exps.weight", np.ones((4, 8, 64), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make
