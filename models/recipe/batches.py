"""From documents to steps: blocks of documents are made, cut into tokens and packed into flat rows of fixed length.

A document that does not fit into a row opens the next one. Inside a row documents are grouped by padded length; a step
holds all abilities in their shares. Block `n` of a seed is always the same, so training resumes where it stopped.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.recipe.document import Document, render
from models.recipe.mixture import documents
from models.recipe.network import Group

BLOCK_DOCUMENTS = 4000
MAX_DOCUMENT_TOKENS = 768  # the few longer ones are left out
SHORT_STEP, LONG_STEP, SHORT_TOKENS = 8, 32, 128  # padded lengths are multiples of these
BLOCK_SEED_STRIDE = 1_000_003  # a prime: blocks of different seeds do not meet


@dataclass(frozen=True, slots=True)
class Sequence:
    """A document's tokens, and for each whether the model is to predict it."""

    tokens: list[int]
    targets: list[bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """One flat row. `wanted` are the places whose next token, in `answers`, is learned."""

    tokens: Tensor
    positions: Tensor
    groups: tuple[Group, ...]
    wanted: Tensor
    answers: Tensor


def encode(tokenizer: Tokenizer, batch: list[Document]) -> list[Sequence]:
    """Each document as tokens."""
    pieces = [render(document) for document in batch]
    encodings = iter(tokenizer.encode_batch_fast([piece.text for row in pieces for piece in row]))
    sequences: list[Sequence] = []
    for row in pieces:
        tokens: list[int] = []
        targets: list[bool] = []
        for piece in row:
            ids = next(encodings).ids
            tokens += ids
            targets += [piece.target] * len(ids)
        sequences.append(Sequence(tokens, targets))
    return sequences


def padded_length(length: int) -> int:
    step = SHORT_STEP if length <= SHORT_TOKENS else LONG_STEP
    return -(-length // step) * step


def pack(sequences: list[Sequence], row_tokens: int) -> Batch:
    """One row from sequences that fit into it."""
    by_length: dict[int, list[Sequence]] = defaultdict(list)
    for sequence in sequences:
        by_length[padded_length(len(sequence.tokens))].append(sequence)
    tokens, positions = [0] * row_tokens, [0] * row_tokens
    groups: list[Group] = []
    wanted: list[int] = []
    answers: list[int] = []
    at = 0
    for length, members in sorted(by_length.items()):
        groups.append(Group(len(members), length))
        for sequence in members:
            count = len(sequence.tokens)
            tokens[at : at + count] = sequence.tokens
            positions[at : at + length] = range(length)
            for offset in range(1, count):
                if sequence.targets[offset]:
                    wanted.append(at + offset - 1)
                    answers.append(sequence.tokens[offset])
            at += length
    return Batch(
        torch.tensor(tokens), torch.tensor(positions), tuple(groups), torch.tensor(wanted), torch.tensor(answers)
    )


def block_batches(tokenizer: Tokenizer, seed: int, block: int, row_tokens: int) -> list[Batch]:
    """All rows of one block, in order."""
    made = list(itertools.islice(documents(seed * BLOCK_SEED_STRIDE + block), BLOCK_DOCUMENTS))
    batches: list[Batch] = []
    row: list[Sequence] = []
    used = 0
    for sequence in encode(tokenizer, made):
        length = padded_length(len(sequence.tokens))
        if len(sequence.tokens) > MAX_DOCUMENT_TOKENS:
            continue
        if used + length > row_tokens:
            batches.append(pack(row, row_tokens))
            row, used = [], 0
        row.append(sequence)
        used += length
    return batches


def batches_from(
    tokenizer: Tokenizer, seed: int, row_tokens: int, block: int, skip: int
) -> Iterator[tuple[int, int, Batch]]:
    """(block, index in it, batch) without end, from the given place on."""
    while True:
        for at, batch in enumerate(block_batches(tokenizer, seed, block, row_tokens)):
            if at >= skip:
                yield block, at, batch
        block, skip = block + 1, 0
