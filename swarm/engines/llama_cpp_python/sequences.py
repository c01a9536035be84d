"""What the sequences of a llama.cpp context hold, and which of them a prompt is best read into. Pure.

A context has more sequences than answers that run at once. Those that are idle keep what was read and said: who comes
back with a conversation has it read no further than where it goes on. One cache is shared by all, so that a sequence
can be given the beginning of another one for nothing, whether that is idle or not; what was used longest ago gives way.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from swarm.engines.llama_cpp.prompt_slots import common_prefix


@dataclass(eq=False, slots=True)
class CacheSequence:
    """One sequence of a context, with the `tokens` whose keys and values it has. `used`: larger is later."""

    id: int
    tokens: array[int] = field(default_factory=lambda: array("i"))
    busy: bool = False
    used: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """A prompt is to be read into `sequence`, from `kept` on; these come `copied_from` another one, if from any."""

    sequence: CacheSequence
    kept: int
    copied_from: CacheSequence | None = None


class SequenceTable:
    """The sequences 0 to `count` - 1. Where not `rewinds` (a recurrent state), one is continued whole or not at all."""

    def __init__(self, count: int, rewinds: bool = True) -> None:
        self._sequences = [CacheSequence(number) for number in range(count)]
        self._rewinds = rewinds
        self._clock = itertools.count(1)

    def place(self, prompt: Tokens[int]) -> Placement:
        """Where to read `prompt`, whose last token is read in any case. The sequence is busy from now on."""
        tokens = array("i", prompt)
        best, kept = None, 0
        for sequence in self._sequences:
            same = min(common_prefix(sequence.tokens, tokens), len(tokens) - 1)
            if not self._rewinds and same < len(sequence.tokens):
                same = 0
            if same > kept or (same == kept and same and best is not None and best.busy and not sequence.busy):
                best, kept = sequence, same
        if best is not None and not best.busy and kept == len(best.tokens):
            return self._taken(Placement(best, kept))
        free = self._oldest_idle(but=best)
        if free is None:  # all others are busy: what `best` says beyond is lost
            assert best is not None
            return self._taken(Placement(best, kept))
        return self._taken(Placement(free, kept, best if kept else None))

    def another(self) -> CacheSequence:
        """An idle sequence, busy from now on, whose content is of no use any more."""
        free = self._oldest_idle()
        assert free is not None, "there are as many sequences as answers that may run"
        free.busy = True
        return free

    def leave(self, sequence: CacheSequence) -> list[CacheSequence]:
        """It is idle from now on, and keeps what it has. Returns those that have nothing which it does not have."""
        sequence.busy, sequence.used = False, next(self._clock)
        return [
            other
            for other in self._sequences
            if other is not sequence
            and not other.busy
            and other.tokens
            and common_prefix(other.tokens, sequence.tokens) == len(other.tokens)
        ]

    def to_forget(self) -> CacheSequence | None:
        """The idle sequence with content that was used longest ago."""
        idle = [each for each in self._sequences if not each.busy and each.tokens]
        return min(idle, key=lambda each: each.used, default=None)

    def _oldest_idle(self, but: CacheSequence | None = None) -> CacheSequence | None:
        idle = [each for each in self._sequences if not each.busy and each is not but]
        return min(idle, key=lambda each: (bool(each.tokens), each.used), default=None)

    def _taken(self, placement: Placement) -> Placement:
        placement.sequence.busy = True
        return placement
