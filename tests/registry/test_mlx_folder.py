"""What the folder of an MLX model says: the same facts as the GGUF of the same model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import SetupError
from swarm.registry.embedded import embedded_folder
from swarm.registry.gguf_header import read_gguf
from swarm.registry.mlx_folder import cache_of, is_mlx_folder, read_mlx
from swarm.registry.model_memory import CacheShape, LayerGroup

HF = embedded_folder() / "hf"
GROUP = 64


def tensor(type_name: str, *shape: int) -> dict[str, Any]:
    return {"dtype": type_name, "shape": list(shape), "data_offsets": [0, 0]}


def made(folder: Path, config: object, tensors: dict[str, Any] | None = None) -> Path:
    """A folder without weights: only the headers are read."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if tensors is not None:
        header = json.dumps({"__metadata__": {"format": "mlx"}, **tensors}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def test_the_embedded_model_is_the_same_in_both_formats() -> None:
    facts, other = read_mlx(HF).facts, read_gguf(HF.parent / "demo.gguf")
    assert facts.parts == (HF / "model.safetensors",)
    assert facts.size_bytes == (HF / "model.safetensors").stat().st_size
    assert facts.quant == "f16"
    same = ("architecture", "params", "active_params", "layers", "context_tokens", "embedding_length", "vocab_size")
    assert [getattr(facts, name) for name in same] == [getattr(other, name) for name in same]
    assert facts.cache == other.cache
    assert facts.has_chat_template
    assert facts.shape == replace(other.shape, weights_bytes=facts.size_bytes)
    assert not facts.embeds_only


def test_another_configuration_or_tensor_table_is_another_model(tmp_path: Path) -> None:
    config, weight = {"model_type": "qwen3"}, {"a.weight": tensor("F16", 4, 4)}
    prints = {
        read_mlx(made(tmp_path / name, of, tensors)).fingerprint
        for name, of, tensors in (
            ("one", config, weight),
            ("same", config, weight),
            ("other", {**config, "rope_theta": 2}, weight),
            ("third", config, {"a.weight": tensor("F16", 4, 8)}),
        )
    }
    assert len(prints) == 3
    assert all(len(fingerprint) == 64 for fingerprint in prints)


def test_quantized_weights_are_counted_as_weights(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3_moe",
        "quantization": {"bits": 4, "group_size": GROUP, "lm_head": {"bits": 8, "group_size": 32}},
        "num_experts": 8,
        "num_experts_per_tok": 2,
    }
    facts = read_mlx(
        made(
            tmp_path / "m",
            config,
            {
                "model.embed_tokens.weight": tensor("U32", 100, 128 // 8),
                "model.embed_tokens.scales": tensor("BF16", 100, 128 // GROUP),
                "model.embed_tokens.biases": tensor("BF16", 100, 128 // GROUP),
                "lm_head.weight": tensor("U32", 100, 128 // 4),
                "lm_head.scales": tensor("BF16", 100, 128 // 32),
                "model.layers.0.mlp.switch_mlp.up_proj.weight": tensor("U32", 8, 64, 128 // 8),
                "model.layers.0.mlp.switch_mlp.up_proj.scales": tensor("BF16", 8, 64, 128 // GROUP),
                "model.norm.weight": tensor("BF16", 128),
            },
        )
    ).facts
    experts = 8 * 64 * 128
    assert facts.params == 2 * 100 * 128 + experts + 128
    assert facts.active_params == facts.params - experts * 6 // 8
    assert facts.quant == "4bit"


FULL = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FULL, CacheShape((LayerGroup(4, 2, 8, 8),))),
        ({**FULL, "head_dim": 16}, CacheShape((LayerGroup(4, 2, 16, 16),))),
        ({**FULL, "num_key_value_heads": None}, CacheShape((LayerGroup(4, 8, 8, 8),))),
        (
            {**FULL, "sliding_window": 512, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
            CacheShape((LayerGroup(3, 2, 8, 8, 512), LayerGroup(1, 2, 8, 8))),
        ),
        (
            {**FULL, "sliding_window": 512, "sliding_window_pattern": 2},
            CacheShape((LayerGroup(2, 2, 8, 8, 512), LayerGroup(2, 2, 8, 8))),
        ),
        (
            {**FULL, "sliding_window": 512, "use_sliding_window": False, "sliding_window_pattern": 2},
            CacheShape((LayerGroup(4, 2, 8, 8),)),
        ),
        (
            {
                **FULL,
                "full_attention_interval": 4,
                "linear_num_value_heads": 2,
                "linear_num_key_heads": 1,
                "linear_key_head_dim": 4,
                "linear_value_head_dim": 4,
                "linear_conv_kernel_dim": 4,
            },
            CacheShape((LayerGroup(1, 2, 8, 8),), 3 * (2 * 4 * 4 + 3 * (2 * 4 + 2 * 4)) * 4),
        ),
        ({**FULL, "kv_lora_rank": 512}, None),
        ({**FULL, "layer_types": ["mystery"] * 4}, None),
        ({**FULL, "layer_types": ["linear_attention"] * 4}, None),
        ({**FULL, "mamba_d_state": 16}, None),
        ({**FULL, "num_hidden_layers": 10**9}, None),
        ({**FULL, "hidden_size": "wide"}, None),
        ({}, None),
    ],
)
def test_what_a_configuration_says_of_the_cache(config: dict[str, Any], expected: CacheShape | None) -> None:
    assert cache_of(config) == expected


def test_the_text_half_of_a_model_that_sees_is_what_counts(tmp_path: Path) -> None:
    config = {"model_type": "gemma3", "text_config": {**FULL, "model_type": "gemma3_text", "vocab_size": 99}}
    facts = read_mlx(made(tmp_path / "m", config, {"a.weight": tensor("F16", 4)})).facts
    assert (facts.architecture, facts.layers, facts.vocab_size) == ("gemma3_text", 4, 99)


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        ("no json", {}, "its config.json is no JSON object; download it again"),
        ("[]", {}, "its config.json is no JSON object; download it again"),
        ({}, {"a": tensor("F16", 1)}, "does not say model_type"),
        ({"model_type": "qwen3"}, {"a": {"dtype": "F16"}}, "it is no safetensors file; download it again"),
        ({"model_type": "qwen3"}, {"a": tensor("F16", -1)}, "it is no safetensors file; download it again"),
        ({"model_type": "qwen3"}, None, "has no .safetensors file"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, config: object, tensors: Any, words: str) -> None:
    with pytest.raises(SetupError, match=words):
        read_mlx(made(tmp_path / "m", config, tensors))


def test_a_file_that_was_cut_is_said(tmp_path: Path) -> None:
    folder = made(tmp_path / "m", {"model_type": "qwen3"})
    (folder / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(SetupError, match="it is no whole safetensors file; download it again"):
        read_mlx(folder)


def test_weights_as_mlx_writes_them_are_told_from_others(tmp_path: Path) -> None:
    assert is_mlx_folder(made(tmp_path / "mlx", {"quantization": {"bits": 4}}))
    assert not is_mlx_folder(HF)
    assert not is_mlx_folder(made(tmp_path / "broken", "no json"))
    assert not is_mlx_folder(tmp_path / "nowhere")
    shutil.rmtree(tmp_path / "mlx")
    assert not is_mlx_folder(tmp_path / "mlx")
