"""One trained network as a GGUF file in Q8_0: what the product ships and llama.cpp loads.

Keys and names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, tensors as llama.cpp names Qwen2's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants
from tokenizers import Tokenizer

from models.recipe.document import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS, TURN_END
from models.recipe.network import Layer, Network

FILE_TYPE_MOSTLY_Q8_0 = 7
# The customary temperature of 0.8 sharpens what was learned; logits a little flatter leave its samples room to differ.
# Chosen on problems of no evaluation; the most likely answers are the same.
LOGIT_SCALE = 0.9
CONTROL_TOKENS = SPECIAL_TOKENS[:3]  # the others are text that the engine's tool parser must see


def _write_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=lambda token: ids[token])
    kinds = [
        TokenType.CONTROL
        if token in CONTROL_TOKENS
        else TokenType.USER_DEFINED
        if token in SPECIAL_TOKENS
        else TokenType.NORMAL
        for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(ids[END_OF_TEXT])
    writer.add_eos_token_id(ids[TURN_END])
    writer.add_pad_token_id(ids[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def export_gguf(network: Network, tokenizer: Tokenizer, target: Path, name: str) -> None:
    """Write `target` in one move."""
    shape = network.shape
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".partial")
    writer = GGUFWriter(unfinished, "qwen2")
    writer.add_name(name)
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_file_type(FILE_TYPE_MOSTLY_Q8_0)
    _write_tokenizer(writer, tokenizer)
    for tensor, weights in named_tensors(network, "blk.{layer}.{part}", GGUF_NAMES).items():
        if weights.ndim == 1:
            writer.add_tensor(tensor, weights)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor, quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()
    unfinished.replace(target)


GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "output_norm": "output_norm.weight",
    "attention_norm": "attn_norm.weight",
    "feed_forward_norm": "ffn_norm.weight",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "out": "attn_output.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}


def named_tensors(network: Network, pattern: str, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Every weight as float32 under its name elsewhere; fused ones are taken apart."""

    def array(weights: Any) -> np.ndarray:
        return weights.detach().float().contiguous().numpy()

    tensors = {
        names["embedding"]: array(network.embedding),
        names["output_norm"]: array(network.output_norm) * LOGIT_SCALE,
    }
    for at, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        parts = {
            "attention_norm": layer.attention_norm,
            "feed_forward_norm": layer.feed_forward_norm,
            "out": layer.out,
            "down": layer.down,
        }
        gate, up = layer.gate_up.chunk(2)
        parts |= {"gate": gate, "up": up}
        for part, weights in parts.items():
            tensors[pattern.format(layer=at, part=names[part])] = array(weights)
        for part, weights, bias in zip("qkv", layer.qkv.chunk(3), layer.qkv_bias.chunk(3), strict=True):
            tensors[pattern.format(layer=at, part=names[part] + ".weight")] = array(weights)
            tensors[pattern.format(layer=at, part=names[part] + ".bias")] = array(bias)
    return tensors
