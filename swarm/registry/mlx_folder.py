"""What the folder of an MLX model says about it: the same facts as a GGUF file's header does.

A folder has `config.json`, as transformers writes it, tokenizers, and weights in files of safetensors: 8 bytes with the
length of a JSON header, the header with a table of tensors, then the tensors. MLX writes quantized weights as 32-bit
words with a scale for each group of them, `NAME.weight` and `NAME.scales`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from swarm.errors import SetupError
from swarm.registry.gguf_header import GgufFacts
from swarm.registry.model_memory import FLOAT32_BYTES, MAX_COUNT, MAX_LAYERS, CacheShape, LayerGroup

MAX_SAFETENSORS_HEADER_BYTES: Final = 100 << 20  # the format's own limit
MAX_CONFIG_BYTES: Final = 16 << 20  # real ones have some KB, with a quantization for each tensor some 100
DEFAULT_GROUP_SIZE: Final = 64  # of weights that share a scale
_EXPERTS: Final = (".switch_mlp.", ".experts.", ".switch_glu.")  # in the names of tensors that some tokens touch only
_TYPE_NAMES: Final = {"F16": "f16", "BF16": "bf16", "F32": "f32", "F8_E4M3": "fp8", "U8": "u8", "I8": "i8"}

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MlxIdentity:
    """A model by its configuration and its tensor tables. `fingerprint`: 64 hex, of all of them."""

    facts: GgufFacts
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    type_name: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_mlx(folder: Path) -> MlxIdentity:
    """The model in `folder`. Blocks on the disk. Raises SetupError with what is wrong with it and the remedy."""
    digest, tensors = hashlib.sha256(), list[_Tensor]()
    try:
        config_bytes = _config_bytes(folder)
        digest.update(hashlib.sha256(config_bytes).digest())
        paths = weight_files(folder)
        size_bytes = 0
        for path in paths:
            with path.open("rb") as file:
                header = _header(file, path)
                size_bytes += os.fstat(file.fileno()).st_size
            digest.update(hashlib.sha256(header).digest())
            tensors += _tensors(header, path)
        has_template = _has_template(folder)
    except OSError as error:
        raise SetupError(f"cannot read {folder}: {error.strerror or error}") from error
    if not paths:
        raise SetupError(f"{folder} has no .safetensors file: give a folder of an MLX model, or a .gguf file")
    config = _config(config_bytes, folder)
    return MlxIdentity(facts_of(config, tensors, tuple(paths), size_bytes, has_template), digest.hexdigest())


def is_mlx_folder(folder: Path) -> bool:
    """Whether the weights in a folder are as MLX writes them; those that are not quantized may be anybody's. Blocks."""
    try:
        return isinstance(_config(_config_bytes(folder), folder).get("quantization"), dict)
    except (OSError, SetupError):
        return False


def weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")


def _config_bytes(folder: Path) -> bytes:
    with (folder / "config.json").open("rb") as file:
        return file.read(MAX_CONFIG_BYTES)


def _config(text: bytes, folder: Path) -> Config:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SetupError(f"cannot use {folder}: its config.json is no JSON object; download it again")
    return cast("Config", found)


def _header(file: BinaryIO, path: Path) -> bytes:
    size_bytes = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_SAFETENSORS_HEADER_BYTES, max(0, size_bytes - 8)):
        raise SetupError(f"cannot use {path}: it is no whole safetensors file; download it again")
    return file.read(length)


def _tensors(header: bytes, path: Path) -> Iterator[_Tensor]:
    try:
        table: object = json.loads(header)
        for name, entry in cast("dict[str, dict[str, Any]]", table).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                shape = tuple(_count(length) for length in entry["shape"])
                yield _Tensor(name, str(entry["dtype"]), shape, _count(end - begin))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SetupError(f"cannot use {path}: it is no safetensors file; download it again") from error


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError(value)
    return value


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        with (folder / "tokenizer_config.json").open("rb") as file:
            found: object = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(cast("Config", found).get("chat_template"))


def facts_of(
    config: Config, tensors: Sequence[_Tensor], parts: tuple[Path, ...], size_bytes: int, has_chat_template: bool
) -> GgufFacts:
    """From the configuration, and the tensors of all files. Raises SetupError where it does not say what it is."""
    inner = config.get("text_config")
    text: Config = {**config, **cast("Config", inner)} if isinstance(inner, dict) else config
    architecture = text.get("model_type") or config.get("model_type")
    if not isinstance(architecture, str):
        raise SetupError(f"cannot use {parts[0].parent}: its config.json does not say model_type; download it again")
    sizes = _weights(config, tensors)
    params = sum(sizes.values())
    return GgufFacts(
        parts=parts,
        size_bytes=size_bytes,
        architecture=architecture,
        name=None,
        quant=_quant(config, tensors),
        params=params,
        active_params=params - _idle(text, sizes),
        layers=_number(text, "num_hidden_layers", "n_layers", "n_layer"),
        context_tokens=_number(text, "max_position_embeddings", "n_positions", "max_seq_len"),
        embedding_length=_number(text, "hidden_size", "n_embd", "d_model"),
        vocab_size=_number(text, "vocab_size"),
        cache=cache_of(text),
        has_chat_template=has_chat_template,
        pooling_type=None,
        kind="model",
    )


def _number(config: Config, *names: str) -> int | None:
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and 0 < value <= MAX_COUNT), None)


def _quantization(config: Config) -> Config:
    found = config.get("quantization") or config.get("quantization_config")
    return cast("Config", found) if isinstance(found, dict) else {}


def _weights(config: Config, tensors: Sequence[_Tensor]) -> dict[str, int]:
    """How many weights each tensor has: of a quantized one as many as its scales have groups, times a group's."""
    by_name = {tensor.name: tensor for tensor in tensors}
    quantization = _quantization(config)
    sizes: dict[str, int] = {}
    for tensor in tensors:
        stem, _, last = tensor.name.rpartition(".")
        if last in ("scales", "biases") and f"{stem}.weight" in by_name:
            continue
        scales = by_name.get(f"{stem}.scales")
        if last == "weight" and scales is not None and tensor.type_name == "U32":
            own = quantization.get(stem)
            chosen = cast("Config", own) if isinstance(own, dict) else quantization
            sizes[tensor.name] = scales.elements * (_number(chosen, "group_size") or DEFAULT_GROUP_SIZE)
        else:
            sizes[tensor.name] = tensor.elements
    return sizes


def _idle(config: Config, sizes: Mapping[str, int]) -> int:
    """Weights that a token does not touch: the share of the experts that are not chosen."""
    experts = _number(config, "num_experts", "n_routed_experts", "num_local_experts")
    used = _number(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk")
    if not experts or not used or used > experts:
        return 0
    routed = sum(size for name, size in sizes.items() if any(mark in name for mark in _EXPERTS))
    return routed * (experts - used) // experts


def _quant(config: Config, tensors: Sequence[_Tensor]) -> str | None:
    """`4bit` as the catalogue writes it, else the type of most of its bytes."""
    bits = _number(_quantization(config), "bits")
    if bits is not None:
        return f"{bits}bit"
    weight: Counter[str] = Counter()
    for tensor in tensors:
        weight[tensor.type_name] += tensor.size_bytes
    most = max(weight, key=weight.__getitem__, default=None)
    return None if most is None else _TYPE_NAMES.get(most, most.lower())


def cache_of(config: Config) -> CacheShape | None:
    """What each layer caches, alike layers together; None where the configuration does not say enough. Pure.

    Attention in latent vectors (`kv_lora_rank`) and layers of a kind that is not known are not worked out here.
    """
    layers = _number(config, "num_hidden_layers", "n_layers", "n_layer")
    heads = _number(config, "num_attention_heads", "n_head")
    width = _number(config, "hidden_size", "n_embd", "d_model")
    if not layers or layers > MAX_LAYERS or not heads or not width or config.get("kv_lora_rank"):
        return None
    kv_heads = _number(config, "num_key_value_heads", "num_kv_heads") or heads
    length = _number(config, "head_dim") or width // heads
    value_length = _number(config, "v_head_dim") or length
    kinds = _layer_kinds(config, layers)
    if kinds is None:
        return None
    window = _number(config, "sliding_window")
    groups: Counter[int | None] = Counter()
    recurrent = 0
    for kind in kinds:
        if kind == "linear_attention":
            recurrent += 1
        else:
            groups[window if kind == "sliding_attention" else None] += 1
    state_bytes = recurrent * _state_bytes(config)
    if recurrent and not state_bytes:
        return None
    return CacheShape(
        tuple(LayerGroup(count, kv_heads, length, value_length, tokens) for tokens, count in groups.items()),
        state_bytes,
    )


def _layer_kinds(config: Config, layers: int) -> list[str] | None:
    """Of each layer, in transformers' words; None where one is of a kind that is not known."""
    said = config.get("layer_types")
    known = {"full_attention", "sliding_attention", "linear_attention"}
    if isinstance(said, list):
        kinds = [str(kind) for kind in cast("list[object]", said)]
        return kinds if len(kinds) == layers and set(kinds) <= known else None
    if any(name in config for name in ("ssm_cfg", "mamba_d_state", "hybrid_override_pattern", "attn_layer_period")):
        return None
    every = _number(config, "full_attention_interval")  # the others are recurrent
    if every:
        return ["full_attention" if (layer + 1) % every == 0 else "linear_attention" for layer in range(layers)]
    pattern = _number(config, "sliding_window_pattern")
    if pattern and _number(config, "sliding_window") and config.get("use_sliding_window") is not False:
        return ["full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)]
    return ["full_attention"] * layers


def _state_bytes(config: Config) -> int:
    """State of one recurrent layer for one request: what it remembers, and the inputs of its convolution."""
    names = ("linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim")
    value_heads, key_heads, key_length, value_length = (_number(config, name) or 0 for name in names)
    kernel = _number(config, "linear_conv_kernel_dim") or 1
    convolution = (kernel - 1) * (2 * key_heads * key_length + value_heads * value_length)
    return (value_heads * key_length * value_length + convolution) * FLOAT32_BYTES
