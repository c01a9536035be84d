"""Make a GGUF with random weights in the shape of a real model, so that speed can be measured without a download.

    python -m benchmarks.random_model OUT.gguf [--layers 24]
    python -m benchmarks.random_model --cached [--layers 24]     (makes it once, prints where it is)

The shape is Qwen2.5-0.5B's (d=896, 24 layers, 14 heads over 2 KV heads, feed-forward 4864, vocabulary 151,936, Q8_0);
tokenizer and chat template are copied from the embedded model, the rest of the vocabulary is filled with plain words,
so a token costs what a real one costs. What it says is noise: only its speed means anything.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, TokenType
from platformdirs import user_cache_path

from swarm.registry.embedded import embedded_model_path

CONTEXT_TOKENS = 32_768
WEIGHT_SCALE = 0.02  # the usual initialisation: activations stay finite through all layers
Q8_BLOCK = np.dtype([("scale", "<f2"), ("values", "i1", (32,))])  # ggml's block_q8_0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a model computes with; Qwen2.5-0.5B's where nothing else is said."""

    hidden: int = 896
    heads: int = 14
    kv_heads: int = 2
    feed_forward: int = 4864
    vocabulary: int = 151_936


QWEN_0_5B = Shape()


def random_q8(rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    """A (rows, columns) matrix as raw Q8_0 bytes, made block by block without a float detour."""
    blocks = np.empty((rows, columns // 32), dtype=Q8_BLOCK)
    blocks["scale"] = np.float16(WEIGHT_SCALE / 64)
    blocks["values"] = random.integers(-127, 128, size=(rows, columns // 32, 32), dtype=np.int8)
    return blocks.view(np.uint8).reshape(rows, -1)


def write_tokenizer(writer: GGUFWriter, source: Path, vocabulary: int) -> None:
    """Copy the embedded model's tokenizer; fill up to the real vocabulary with words that nothing merges into."""
    fields = GGUFReader(source).fields
    tokens = list(fields["tokenizer.ggml.tokens"].contents())
    types = list(fields["tokenizer.ggml.token_type"].contents())
    missing = vocabulary - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens + [f"w{i}" for i in range(missing)])
    writer.add_token_types(types + [int(TokenType.NORMAL)] * missing)
    writer.add_token_merges(list(fields["tokenizer.ggml.merges"].contents()))
    writer.add_eos_token_id(int(fields["tokenizer.ggml.eos_token_id"].contents()))
    writer.add_add_bos_token(False)
    writer.add_chat_template(str(fields["tokenizer.chat_template"].contents()))


def write_model(target: Path, layers: int = 24, seed: int = 7, shape: Shape = QWEN_0_5B) -> None:
    """Write the model to `target`; about 500 MB with 24 layers."""
    random = np.random.default_rng(seed)
    writer = GGUFWriter(target, "qwen2")
    writer.add_name("random 0.5B")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(7)
    write_tokenizer(writer, embedded_model_path(), shape.vocabulary)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random_q8(rows, columns, random), raw_dtype=GGMLQuantizationType.Q8_0)

    def vector(name: str, value: float, size: int) -> None:
        writer.add_tensor(name, np.full(size, value, dtype=np.float32))

    kv = shape.hidden // shape.heads * shape.kv_heads
    matrix("token_embd.weight", shape.vocabulary, shape.hidden)
    vector("output_norm.weight", 1.0, shape.hidden)
    for layer in range(layers):
        block = f"blk.{layer}."
        vector(block + "attn_norm.weight", 1.0, shape.hidden)
        vector(block + "ffn_norm.weight", 1.0, shape.hidden)
        for part, rows in (("q", shape.hidden), ("k", kv), ("v", kv)):
            matrix(f"{block}attn_{part}.weight", rows, shape.hidden)
            vector(f"{block}attn_{part}.bias", 0.0, rows)
        matrix(block + "attn_output.weight", shape.hidden, shape.hidden)
        matrix(block + "ffn_gate.weight", shape.feed_forward, shape.hidden)
        matrix(block + "ffn_up.weight", shape.feed_forward, shape.hidden)
        matrix(block + "ffn_down.weight", shape.hidden, shape.feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()


def cached_model(layers: int) -> Path:
    """The model with so many layers in the user's cache folder, made on first use.

    Its name carries a digest of this recipe and of the embedded model, whose tokenizer it copies: either one changed
    makes another file.
    """
    recipe = Path(__file__).read_bytes() + embedded_model_path().read_bytes()
    folder = user_cache_path("local-swarm-bench", appauthor=False, ensure_exists=True)
    target = folder / f"random-{layers}-layers-{hashlib.sha256(recipe).hexdigest()[:12]}.gguf"
    if not target.is_file():
        unfinished = target.with_suffix(f".{os.getpid()}.partial")
        write_model(unfinished, layers)
        unfinished.replace(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, nargs="?")
    parser.add_argument("--cached", action="store_true", help="in the user's cache folder, if it is not there already")
    parser.add_argument("--layers", type=int, default=24)
    arguments = parser.parse_args()
    if arguments.cached == (arguments.target is not None):
        parser.error("give either a file to write or --cached")
    if arguments.cached:
        print(cached_model(arguments.layers))
        return
    write_model(arguments.target, arguments.layers)
    print(f"{arguments.target}: {arguments.target.stat().st_size / 2**20:.0f} MiB", file=sys.stderr)


if __name__ == "__main__":
    main()
