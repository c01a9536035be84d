"""The same network as a Hugging Face folder, which MLX and transformers load."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (safetensors declares its types only in part)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from models.recipe.document import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS, TURN_END
from models.recipe.export_gguf import CONTROL_TOKENS, named_tensors
from models.recipe.network import Network

HUGGING_FACE_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "output_norm": "model.norm.weight",
    "attention_norm": "input_layernorm.weight",
    "feed_forward_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


def model_config(network: Network, ids: dict[str, int]) -> dict[str, Any]:
    shape = network.shape
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_base,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[TURN_END],
    }


def tokenizer_config(network: Network, ids: dict[str, int]) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": network.shape.context_tokens,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        "added_tokens_decoder": {
            str(ids[token]): {"content": token, **flags, "special": token in CONTROL_TOKENS} for token in SPECIAL_TOKENS
        },
    }


def export_hugging_face(network: Network, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder: configuration, float16 weights, tokenizer, chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    tensors = named_tensors(network, "model.layers.{layer}.{part}", HUGGING_FACE_NAMES)
    halves = {name: weights.astype(np.float16) for name, weights in tensors.items()}
    weights = folder / "model.safetensors"
    save_file(halves, str(weights), metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes it readable by its owner alone
    ends = {"bos_token_id": ids[END_OF_TEXT], "eos_token_id": [ids[TURN_END], ids[END_OF_TEXT]]}
    for name, content in (
        ("config.json", model_config(network, ids)),
        ("tokenizer_config.json", tokenizer_config(network, ids)),
        ("generation_config.json", {**ends, "pad_token_id": ids[END_OF_TEXT]}),
    ):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
