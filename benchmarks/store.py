"""How long it takes to know which models lie on the disk: 200 files of four programs, sparse, with real-sized headers.

    python benchmarks/store.py [--files N] [--rounds N]

Each file has its own name and table of tensors, and the vocabulary of one of five families, from 32,000 to 262,000
tokens with their merges, as files of a real disk do. What is asked of it: a look that reads every header (cold: no
index, and the headers out of the system's cache) within 2 s; one with the index of an earlier process within 50 ms.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from measure import Figure, Target, interleaved, ratios
from report import parser, progress, publish, read_environment

from swarm.registry.catalogue import Catalogue
from swarm.registry.found_files import ModelPlace
from swarm.registry.gguf_header import read_gguf
from swarm.registry.places import ModelPlaces
from swarm.registry.stored import ModelStore, StoredModels

FAMILIES = {"llama": 32_000, "smollm": 49_152, "llama3": 128_256, "qwen": 151_936, "gemma": 262_144}
LAYERS, WIDTH = 28, 2048
PROGRAMS = ("own", "hugging face", "hugging face", "ollama", "lm studio")  # two of five files in the hub's cache


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key.encode()) + struct.pack("<I", kind) + value


def strings(items: list[bytes]) -> bytes:
    return struct.pack("<IQ", 8, len(items)) + b"".join(map(text, items))


def vocabulary(family: str, tokens: int) -> bytes:
    """The keys of a tokenizer, seven of them, with tokens as long as those of real ones."""
    dice = random.Random(family)
    texts = [
        f"{number:x}".encode() + bytes(dice.choices(b"abcdefgh", k=dice.randint(1, 7))) for number in range(tokens)
    ]
    merges = [texts[number] + b" " + texts[number // 2] for number in range(tokens)]
    return (
        pair("tokenizer.ggml.model", 8, text(b"gpt2"))
        + pair("tokenizer.ggml.tokens", 9, strings(texts))
        + pair("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, tokens) + bytes(4 * tokens))
        + pair("tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, tokens) + bytes(4 * tokens))
        + pair("tokenizer.ggml.merges", 9, strings(merges))
        + pair("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2))
        + pair("tokenizer.chat_template", 8, text(b"{{ messages }}" * 300))
    )


def header(name: str, tokenizer: bytes, tokens: int) -> tuple[bytes, int]:
    """A header, and the size of its whole file."""
    counts = {"block_count": LAYERS, "context_length": 32768, "embedding_length": WIDTH}
    counts |= {"attention.head_count": 16, "attention.head_count_kv": 8}
    keys = pair("general.architecture", 8, text(b"llama")) + pair("general.name", 8, text(name.encode()))
    keys += b"".join(pair(f"llama.{key}", 4, struct.pack("<I", value)) for key, value in counts.items())
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm")
    tensors = [(f"blk.{layer}.{part}.weight", WIDTH, WIDTH) for layer in range(LAYERS) for part in parts]
    tensors.append(("token_embd.weight", WIDTH, tokens))
    table, offset = b"", 0
    for tensor, *dimensions in tensors:
        table += text(tensor.encode()) + struct.pack("<IQQIQ", 2, *dimensions, 8, offset)  # q8_0
        offset += dimensions[0] * dimensions[1] // 32 * 34
    whole = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 2 + len(counts) + 7) + keys + tokenizer + table
    return whole, -(-len(whole) // 32) * 32 + offset


def write(path: Path, content: bytes, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size_bytes)


def fill(root: Path, count: int) -> tuple[ModelPlaces, list[Path]]:
    """`count` files below `root`, as four programs lay them out."""
    written: list[Path] = []
    tokenizers = {family: vocabulary(family, tokens) for family, tokens in FAMILIES.items()}
    for number in range(count):
        family = list(FAMILIES)[number % len(FAMILIES)]
        program = PROGRAMS[number // len(FAMILIES) % len(PROGRAMS)]
        name = f"{family}-{number}-Instruct-Q8_0"
        content, size_bytes = header(name, tokenizers[family], FAMILIES[family])
        digest = hashlib.sha256(name.encode()).hexdigest()
        repo = f"owner-{number % 7}--{name}-GGUF"
        if program == "own":
            path = root / "own" / repo / f"{name}.gguf"
        elif program == "lm studio":
            path = root / "lm" / f"owner-{number % 7}" / f"{name}-GGUF" / f"{name}.gguf"
        elif program == "ollama":
            path = root / "ollama" / "blobs" / f"sha256-{digest}"
            manifest = root / "ollama" / "manifests" / "registry.ollama.ai" / "library" / name.lower() / "8b"
            manifest.parent.mkdir(parents=True, exist_ok=True)
            layer = {
                "mediaType": "application/vnd.ollama.image.model",
                "digest": f"sha256:{digest}",
                "size": size_bytes,
            }
            manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
        else:
            path = root / "hub" / f"models--{repo}" / "blobs" / digest
            link = root / "hub" / f"models--{repo}" / "snapshots" / "c0ffee" / f"{name}.gguf"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        write(path, content, size_bytes)
        written.append(path)
    os.sync()
    places = [
        ModelPlace("own", root / "own"),
        ModelPlace("hugging face", root / "hub"),
        ModelPlace("ollama", root / "ollama"),
    ]
    return ModelPlaces((*places, ModelPlace("lm studio", root / "lm"))), written


def out_of_cache(files: list[Path]) -> None:
    if hasattr(os, "posix_fadvise"):
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(look: Callable[[], object], before: Callable[[], object] | None = None) -> float:
    if before is not None:
        before()
    began = time.perf_counter()
    look()
    return time.perf_counter() - began


def checked(found: StoredModels, count: int) -> None:
    listed = [model for model in found.models if model.listed]
    assert len(listed) >= count, f"{len(listed)} of {count} files found: {found.problems[:3]}"


def rss_mib() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--files", type=int, default=200, metavar="N", help="default 200")
    made.add_argument("--rounds", type=int, metavar="N", help="default 9")
    options = made.parse_args()
    rounds, count = options.rounds or (2 if options.quick else 9), options.files
    environment = read_environment()
    with tempfile.TemporaryDirectory(prefix="swarm-store-") as folder:
        root = Path(folder)
        progress(f"writing {count} files")
        places, files = fill(root, count)
        catalogue, index = Catalogue.load(), root / "models.json"
        before = rss_mib()
        known = ModelStore(places, catalogue, index)
        checked(known.look(), count)
        grown = rss_mib() - before
        progress(f"{rounds} rounds")
        sides: dict[str, Callable[[], float]] = {
            "cold": lambda: timed(lambda: ModelStore(places, catalogue).look(), partial(out_of_cache, files)),
            "walking every vocabulary": lambda: timed(lambda: [read_gguf(path) for path in files]),
            "an index of before": lambda: timed(lambda: checked(ModelStore(places, catalogue, index).look(), count)),
            "the same process": lambda: timed(lambda: known.look(max_age_s=0.0)),
        }
        took = {name: tuple(samples) for name, samples in interleaved(sides, rounds).items()}
    targets = {
        "cold": Target("at most", 2000.0), "an index of before": Target("at most", 50.0),
        "the same process": Target("at most", 50.0),
    }  # fmt: skip
    figures = [Figure(name, "ms", tuple(1000 * s for s in took[name]), targets.get(name)) for name in sides]
    every = took["walking every vocabulary"]
    figures += [
        Figure(f"{name} / walking every vocabulary", "", ratios(took[name], every)) for name in sides if name in targets
    ]
    figures.append(Figure("memory of the first look", "MiB", (grown,)))
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
