"""What was read of earlier prompts, kept so that a conversation is not read twice. Pure, but for the caches' methods.

A cache holds what a model has computed of the tokens before, one object for each of its layers. Attention's can be cut
back to any length; that of a recurrent layer, or of a window that has slid, is good for its own tokens alone. So what
is kept helps a prompt that begins as it does: as far as both agree where it can be cut, else only as a whole.

Where caches cannot be cut, `stops` says at which places of a prompt a copy is kept while it is read: shortly before its
end, since templates write the end of a prompt otherwise once the answer is part of the conversation; and where it
parts from one that is kept, since what two prompts begin with (a system prompt, tools) a third one will, too.

The least lately used goes first where all of it is more than `most_bytes`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class LayerCache(Protocol):
    """One layer's, as mlx-lm has them."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        ...

    def is_trimmable(self) -> bool:
        """Whether it can be cut back."""
        ...

    def trim(self, n: int) -> int:
        """Cut the last `n` tokens off; returns how many were."""
        ...


Caches = list[LayerCache]

TAIL_TOKENS = 16  # of a prompt that may be written otherwise in the next one: the begin of a turn, and of a thought
LEAST_SHARED_TOKENS = 64  # less is read again as fast as it is kept


@dataclass(frozen=True, slots=True)
class _KeptPrompt:
    tokens: tuple[int, ...]
    caches: Caches
    nbytes: int


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    low, high = 0, most  # one[:low] agrees, one[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def nbytes_of(caches: Sequence[LayerCache]) -> int:
    return sum(cache.nbytes for cache in caches)


def can_cut(caches: Sequence[LayerCache]) -> bool:
    return all(cache.is_trimmable() for cache in caches)


class KeptPrompts:
    """The caches that are kept. They are never computed with: `fork` gives a copy, which shares memory until written.

    `copied` copies caches; the library's arrays are their own, and tests have none.
    """

    def __init__(self, most_bytes: int, copied: Callable[[Caches], Caches] = copy.deepcopy) -> None:
        self.most_bytes = most_bytes
        self._copied = copied
        self._kept: list[_KeptPrompt] = []  # the least lately used first

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def fork(self, prompt: tuple[int, ...]) -> tuple[int, Caches | None]:
        """How many tokens of `prompt` need not be read, and caches that hold those; (0, None) where none are kept.

        At least its last token is left to be read: the answer's first comes from it.
        """
        best: tuple[int, _KeptPrompt] | None = None
        for kept in self._kept:
            length = min(common_length(kept.tokens, prompt), len(prompt) - 1)
            if length < len(kept.tokens) and not can_cut(kept.caches):
                continue
            if length > (best[0] if best else 0):
                best = length, kept
        if best is None:
            return 0, None
        length, kept = best
        self._kept.remove(kept)
        self._kept.append(kept)
        caches = self._copied(kept.caches)
        surplus = len(kept.tokens) - length
        if surplus and any(cache.trim(surplus) != surplus for cache in caches):
            return 0, None
        return length, caches

    def stops(self, prompt: tuple[int, ...], read: int) -> list[int]:
        """The places at which a copy is to be kept while the rest of `prompt` is read: after so many tokens each."""
        shared = max((common_length(kept.tokens, prompt) for kept in self._kept), default=0)
        places = {len(prompt) - TAIL_TOKENS, shared if shared >= LEAST_SHARED_TOKENS else 0}
        return sorted(place for place in places if read < place < len(prompt) - 1)

    def copy_of(self, caches: Caches) -> Caches:
        """The same, to be kept while others are computed with."""
        return self._copied(caches)

    def keep(self, tokens: Sequence[int], caches: Caches) -> None:
        """Keep what was read of `tokens`, instead of what is a beginning of it and could be cut from it."""
        tokens = tuple(tokens)
        if not tokens:
            return
        cuts = can_cut(caches)
        self._kept = [
            kept
            for kept in self._kept
            if kept.tokens != tokens and not (cuts and tokens[: len(kept.tokens)] == kept.tokens)
        ]
        self._kept.append(_KeptPrompt(tokens, caches, nbytes_of(caches)))
        self.shrink(self.most_bytes)

    def shrink(self, most_bytes: int) -> None:
        """Forget the least lately used until no more than `most_bytes` are kept."""
        while self._kept and self.nbytes > most_bytes:
            del self._kept[0]
