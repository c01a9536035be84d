"""How large each layer of a model is, so that its layers can lie on several machines. Pure: a file's tensors in.

As llama.cpp places them (src/llama-model.cpp, `load_tensors`): whole blocks, `blk.0.` to the last; what comes before
them, the token embeddings, always with the process that serves; what comes after them, the output matrix, as one layer
more behind the last block. A model without an output matrix of its own uses its token embeddings as one, and a machine
that computes the output then gets a copy of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swarm.registry.gguf_bytes import Tensor
from swarm.registry.model_memory import (
    FLOAT32_BYTES,
    UBATCH_TOKENS,
    UNKNOWN_EMBEDDING,
    UNKNOWN_VOCAB,
    ArchKeys,
    CachedLayer,
    Load,
    ModelShape,
    layer_caches,
    memory_needed,
    padded_cells,
)

_BLOCK: Final = re.compile(r"blk\.(\d+)\.")
_INPUTS: Final = ("token_embd.", "per_layer_token_embd.", "pos_embd.", "token_types.", "position_embd.", "token_embd_")
_EXPERTS: Final = "_exps."
GUESSED_BLOCKS: Final = 32  # of a model of which nothing is known but its size

# What llama.cpp reserves to compute a micro-batch in one machine's layers, in float32 rows as wide as the embedding and
# as the feed-forward part, and in bytes for each cell of the cache (its masks). Read off the log of b11434 for two
# shapes of model, 2,048 to 32,768 cells: at most 10.7 rows of the embedding and 5 of the feed-forward part, 8 bytes.
EMBEDDING_ROWS: Final = 12
WIDEST_ROWS: Final = 6
MASK_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """One layer. `read_bytes` of its `weights_bytes` are read for a token: of experts only those that are chosen.

    `largest_bytes` is its largest tensor: a machine that receives it has room for it twice.
    """

    weights_bytes: int
    read_bytes: int
    largest_bytes: int
    cache: CachedLayer | None = None


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """A model, layer by layer. `output` is the layer behind the last block, for a machine that only borrows it out.

    `embeddings_bytes` lie with the host; where `tied`, they are its output matrix, too. `widest` is the width of the
    widest step within a layer. `estimated`: the blocks are those of a model that is not here, all taken to be alike.
    """

    shape: ModelShape
    blocks: tuple[BlockSizes, ...]
    embeddings_bytes: int
    output: BlockSizes
    tied: bool
    widest: int
    estimated: bool = False

    @property
    def hidden(self) -> int:
        return self.shape.embedding_length or UNKNOWN_EMBEDDING

    @property
    def vocab(self) -> int:
        return self.shape.vocab_size or UNKNOWN_VOCAB

    @property
    def layers(self) -> int:
        """Blocks and the output, as llama.cpp counts layers."""
        return len(self.blocks) + 1

    def cache_bytes(self, block: int, load: Load) -> int:
        """What the block's cache takes under `load`, in bytes."""
        cache = self.blocks[block].cache
        if cache is not None:
            return cache.size_bytes(load)
        return -(-memory_needed(self.shape, load).kv_bytes // len(self.blocks))

    def compute_bytes(self, load: Load, *, output: bool) -> int:
        """The most that one machine's layers take while they compute a micro-batch; with the `output`, its logits."""
        rows = EMBEDDING_ROWS * self.hidden + WIDEST_ROWS * self.widest + (self.vocab if output else 0)
        return UBATCH_TOKENS * (FLOAT32_BYTES * rows + MASK_BYTES * padded_cells(load))


def layer_sizes(tensors: Sequence[Tensor], keys: ArchKeys, shape: ModelShape) -> LayerSizes | None:
    """The layers of the model with these `tensors`, of all its parts; None where it is not made of blocks in a row.

    A tensor of a type that is not known here is taken to be as large as the file's others are on average.
    """
    elements = sum(tensor.elements for tensor in tensors)
    bytes_per_element = shape.weights_bytes / max(1, elements)
    experts, used = keys.count("expert_count") or 0, keys.count("expert_used_count") or 0
    chosen = used / experts if experts and 0 < used <= experts else 1.0
    grouped: dict[int, list[Tensor]] = {}
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for tensor in tensors:
        if (found := _BLOCK.match(tensor.name)) is not None:
            grouped.setdefault(int(found[1]), []).append(tensor)
        else:
            (inputs if tensor.name.startswith(_INPUTS) else outputs).append(tensor)
    if not grouped or sorted(grouped) != list(range(len(grouped))):
        return None

    def bytes_of(tensor: Tensor) -> int:
        return round(tensor.elements * bytes_per_element) if tensor.size_bytes is None else tensor.size_bytes

    def read(tensor: Tensor) -> int:
        return round(bytes_of(tensor) * chosen) if _EXPERTS in tensor.name else bytes_of(tensor)

    def sizes(of: Sequence[Tensor], cache: CachedLayer | None = None) -> BlockSizes:
        each = [bytes_of(tensor) for tensor in of]
        return BlockSizes(sum(each), sum(map(read, of)), max(each, default=0), cache)

    hidden = shape.embedding_length or UNKNOWN_EMBEDDING

    def width(tensor: Tensor) -> int:
        """Of what a token's row becomes by this matrix."""
        return round(tensor.elements * (used / experts if _EXPERTS in tensor.name and experts else 1.0)) // hidden

    caches = layer_caches(keys)
    if caches is not None and len(caches) != len(grouped):
        caches = None
    blocks = tuple(sizes(grouped[at], None if caches is None else caches[at]) for at in range(len(grouped)))
    tied = not any(tensor.name == "output.weight" for tensor in outputs)
    embeddings = [tensor for tensor in inputs if tensor.name == "token_embd.weight"]
    return LayerSizes(
        shape=shape,
        blocks=blocks,
        embeddings_bytes=sum(map(bytes_of, inputs)),
        output=sizes([*outputs, *(embeddings if tied else ())]),
        tied=tied,
        widest=max(width(tensor) for of in grouped.values() for tensor in of),
    )


def estimated_layers(shape: ModelShape, active: float = 1.0, blocks: int | None = None) -> LayerSizes:
    """The layers of a model that is not here: `blocks` of them, all alike, beside embeddings of its vocabulary.

    `active` is the share of its weights that is read for a token.
    """
    groups = shape.cache.groups if shape.cache is not None else ()
    count = blocks or sum(group.layers for group in groups) or GUESSED_BLOCKS
    hidden = shape.embedding_length or UNKNOWN_EMBEDDING
    bytes_per_weight = shape.weights_bytes / max(1.0, shape.params_b * 1e9)
    matrix = min(round((shape.vocab_size or UNKNOWN_VOCAB) * hidden * bytes_per_weight), shape.weights_bytes // 4)
    each = -(-(shape.weights_bytes - 2 * matrix) // count)
    block = BlockSizes(each, round(each * active), each)
    widest = 4 * hidden
    output = BlockSizes(matrix, matrix, matrix)
    return LayerSizes(shape, (block,) * count, matrix, output, False, widest, True)
