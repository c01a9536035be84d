"""The network: Qwen2's architecture, small, over a flat row of tokens that belong to many documents.

Norms, projections and feed-forward see one flat row of fixed length, so that they can be compiled once; attention runs
per group of documents of equal padded length and never across documents. Weights are float32.
Architecture: https://arxiv.org/abs/2407.10671; rotary positions in two halves, as llama.cpp and transformers do.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (PyTorch declares its types only in part)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.recipe.precision import PRODUCT


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network. Heads are 64 wide: smaller ones make attention on a CPU 2.5 times slower."""

    vocabulary: int = 2048
    width: int = 192
    layers: int = 4
    heads: int = 3
    feed_forward: int = 512
    context_tokens: int = 2048
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Group:
    """`rows` documents, each padded to `length` tokens; groups follow one another in the flat row."""

    rows: int
    length: int


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight).to(PRODUCT)


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`x` (tokens, heads, head width) turned by its positions."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).to(PRODUCT)


def before_attention(
    x: Tensor, norm: Tensor, qkv: Tensor, bias: Tensor, cosine: Tensor, sine: Tensor, heads: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value (tokens, heads, head width) of the flat row."""
    mixed = functional.linear(rms_norm(x, norm, epsilon), qkv.to(PRODUCT)) + bias.to(PRODUCT)
    query, key, value = mixed.view(x.shape[0], 3, heads, -1).unbind(1)
    return rotated(query, cosine, sine), rotated(key, cosine, sine), value.contiguous()


def after_attention(
    x: Tensor, attended: Tensor, out: Tensor, norm: Tensor, gate_up: Tensor, down: Tensor, epsilon: float
) -> Tensor:
    """The rest of a layer: output projection and feed-forward, each added to `x`."""
    x = x + functional.linear(attended, out.to(PRODUCT)).float()
    gate, up = functional.linear(rms_norm(x, norm, epsilon), gate_up.to(PRODUCT)).chunk(2, -1)
    return x + functional.linear(functional.silu(gate) * up, down.to(PRODUCT)).float()


def group_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Causal attention of equally long documents (documents, heads, length, head width).

    Spelled out: for documents this short PyTorch's fused kernel takes 1.6 times as long on a CPU, most of it backwards.
    """
    scores = query * query.shape[-1] ** -0.5 @ key.mT + mask
    return torch.softmax(scores, -1) @ value


def attention(query: Tensor, key: Tensor, value: Tensor, groups: tuple[Group, ...], mask: Tensor) -> Tensor:
    """Attention inside each document; what lies behind the last group is padding and stays zero."""
    sizes = [group.rows * group.length for group in groups]
    sizes.append(query.shape[0] - sum(sizes))
    cut = [x.split(sizes) for x in (query, key, value)]
    parts: list[Tensor] = []
    for group, *part in zip(groups, *(pieces[:-1] for pieces in cut), strict=True):
        q, k, v = (x.view(group.rows, group.length, *x.shape[1:]).transpose(1, 2).contiguous() for x in part)
        mixed = group_attention(q, k, v, mask[: group.length, : group.length])
        parts.append(mixed.transpose(1, 2).reshape(group.rows * group.length, -1))
    parts.append(query.new_zeros(sizes[-1], query.shape[1] * query.shape[2]))
    return torch.cat(parts)


class Layer(nn.Module):
    """The weights of one layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner = shape.width, shape.feed_forward
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.qkv = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.qkv_bias = nn.Parameter(torch.zeros(3 * width))
        self.out = nn.Parameter(torch.zeros(width, width))
        self.feed_forward_norm = nn.Parameter(torch.ones(width))
        self.gate_up = nn.Parameter(torch.randn(2 * inner, width) * width**-0.5)
        self.down = nn.Parameter(torch.zeros(width, inner))


class Network(nn.Module):
    """Tokens in, logits at chosen places out. Embeddings are tied."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.width) * 0.05)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.Parameter(torch.ones(shape.width))
        self.before: Callable[..., tuple[Tensor, Tensor, Tensor]] = before_attention
        self.after: Callable[..., Tensor] = after_attention
        frequencies = shape.rope_base ** (-torch.arange(0, shape.head_width, 2).float() / shape.head_width)
        angles = torch.outer(torch.arange(shape.context_tokens).float(), frequencies)
        never = torch.full((shape.context_tokens, shape.context_tokens), float("-inf"))
        self.register_buffer("mask", never.triu(1).to(PRODUCT), persistent=False)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def compile_parts(self) -> None:
        """Fuse what surrounds attention; worth it after a minute of training. Needs a C++ compiler."""
        self.before = torch.compile(before_attention, dynamic=False)
        self.after = torch.compile(after_attention, dynamic=False)

    def forward(self, tokens: Tensor, positions: Tensor, groups: tuple[Group, ...], wanted: Tensor) -> Tensor:
        """Logits (float32) at the places `wanted` of the flat row `tokens`."""
        shape = self.shape
        x = functional.embedding(tokens, self.embedding)
        cosine = self.get_buffer("cosines")[positions].unsqueeze(1)
        sine = self.get_buffer("sines")[positions].unsqueeze(1)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            q, k, v = self.before(
                x, layer.attention_norm, layer.qkv, layer.qkv_bias, cosine, sine, shape.heads, shape.norm_epsilon
            )
            mixed = attention(q, k, v, groups, self.get_buffer("mask"))
            after = self.after
            if number == last:  # nothing looks at the other places any more; their number varies, so not compiled
                x, mixed, after = x[wanted], mixed[wanted], after_attention
            x = after(x, mixed, layer.out, layer.feed_forward_norm, layer.gate_up, layer.down, shape.norm_epsilon)
        final = rms_norm(x, self.output_norm, shape.norm_epsilon)
        return functional.linear(final, self.embedding.to(PRODUCT)).float()
