"""Which slot of a llama.cpp server reads which prompt, so that no conversation is read twice. Decisions only; pure.

A slot keeps the prompt that it read last, with its answer, until another one is read there. By itself llama.cpp takes
the slot whose prompt begins most like the new one: two conversations with one system prompt drive each other out, for
ever. Here what a choice costs is counted in tokens: those that must be read now, and those of another conversation that
would be read once more, at each of the turns to come. What lies on the disk is brought back for a share of that.

Slots of high numbers are filled first: the answers of a vote take those of the lowest, which nobody can choose for
them. Short prompts are not worth counting their tokens; they are known by their text, and keep away from long ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

FEW_TOKENS = 64  # not worth keeping apart, nor on a disk
TURNS_TO_COME = 8  # of a conversation whose prompt would be read once more at each
DISK_SHARE = 0.05  # of what reading a token costs, for one that is restored, while neither is measured
TEXT_CHARS = 4096  # of a prompt by which it is known while its tokens are not counted
REMEMBERED_LEFT = 16  # prompts that llama.cpp keeps in memory, perhaps, when they have left their slot


def common_prefix(one: Sequence[int] | str, other: Sequence[int] | str) -> int:
    """How many tokens two prompts begin with alike, or characters two texts."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def no_tokens() -> array[int]:
    return array("i")


class PromptOnDisk(Protocol):
    """A prompt on the disk."""

    @property
    def tokens(self) -> array[int]: ...


@dataclass(slots=True, eq=False)
class PromptSlot:
    """What is believed of one slot: llama.cpp tells of its slots how many tokens they hold, and not which.

    `tokens` of the prompt, none for a short one, which is known by its `text`; `answered` so many of an answer follow.
    `saved` of all these lie on the disk. `read_at` is wall time, `used` counts the choices.
    """

    id: int
    tokens: array[int] = field(default_factory=no_tokens)
    text: str = ""
    answered: int = 0
    saved: int = 0
    read_at: float = 0.0
    used: int = 0
    busy: bool = False

    @property
    def unsaved(self) -> int:
        """Tokens that the disk does not have; 0 where there are none worth it."""
        missing = len(self.tokens) + self.answered - self.saved
        return missing if self.tokens and missing > FEW_TOKENS else 0

    def hold(self, tokens: array[int], read_at: float, text: str = "", answered: int = 0, saved: int = 0) -> None:
        self.tokens, self.text, self.answered, self.saved = tokens, text, answered, saved
        self.read_at = read_at

    def lost(self, kept: int = 0) -> int:
        """Tokens of its prompt that go where one is read that begins with `kept` of them; few are none."""
        lost = len(self.tokens) - kept
        return lost if lost > FEW_TOKENS else 0

    def continued_by(self, prompt: array[int]) -> int:
        """How many tokens of `prompt` it holds, as far as can be known: an answer is taken for what was written."""
        same = common_prefix(prompt, self.tokens)
        return min(same + self.answered, len(prompt)) if same == len(self.tokens) else same


@dataclass(frozen=True, slots=True)
class SlotChoice:
    """Where a prompt is read. `restore` is brought there first; `held` of its tokens need not be read then.

    `swaps`: llama.cpp is to choose the slot that was used the longest time ago, which is taken to be this one, to keep
    in memory what it holds, and to take what it kept of this prompt.
    """

    slot: PromptSlot
    held: int = 0
    restore: PromptOnDisk | None = None
    swaps: bool = False


class PromptSlots:
    """The slots of one server. `saves`: what leaves a slot can be put on a disk."""

    def __init__(self, count: int = 1) -> None:
        self.slots = [PromptSlot(number) for number in range(count)]
        self._left: list[array[int]] = []
        self.clock = 0

    @property
    def free(self) -> list[PromptSlot]:
        return [slot for slot in self.slots if not slot.busy]

    @property
    def is_idle(self) -> bool:
        return not any(slot.busy for slot in self.slots)

    def choose(
        self, prompt: array[int], saved: Iterable[PromptOnDisk] = (), saves: bool = False, share: float = DISK_SHARE
    ) -> SlotChoice | None:
        """Where to read a long prompt; None where no slot is free.

        `saved` prompts may be restored, at that `share` of what reading costs; what gives way is saved, if `saves`.
        """
        free = self.free
        if not free:
            return None

        def gives_way(slot: PromptSlot, kept: int = 0) -> float:
            if not (lost := slot.lost(kept)):
                return 0.0
            return TURNS_TO_COME * (min(share * len(slot.tokens), lost) if saves else lost)

        options: list[tuple[float, int, int, SlotChoice]] = []

        def consider(cost: float, slot: PromptSlot, choice: SlotChoice) -> None:
            options.append((cost, slot.used, -slot.id, choice))

        best = max(saved, key=lambda kept: common_prefix(prompt, kept.tokens), default=None)
        on_disk = 0 if best is None else common_prefix(prompt, best.tokens)
        for slot in free:
            same = common_prefix(prompt, slot.tokens)
            consider(len(prompt) - same + gives_way(slot, same), slot, SlotChoice(slot, slot.continued_by(prompt)))
            if best is not None and on_disk > same + FEW_TOKENS:
                cost = len(prompt) - on_disk + share * len(best.tokens) + gives_way(slot)
                consider(cost, slot, SlotChoice(slot, on_disk, best))
        if not saves:
            oldest = min(free, key=lambda slot: (slot.used, -slot.id))
            same = common_prefix(prompt, oldest.tokens)
            left = max((common_prefix(prompt, tokens) for tokens in self._left), default=0)
            if (lost := oldest.lost(same)) or left > same + FEW_TOKENS:
                cost = len(prompt) - max(same, left) + TURNS_TO_COME * share * lost
                consider(cost, oldest, SlotChoice(oldest, max(same, left), swaps=True))
        return min(options, key=lambda option: option[:3])[3]

    def choose_short(self, text: str, saves: bool = False) -> SlotChoice | None:
        """Where to read a prompt that is known by its text; None where no slot is free."""
        free = self.free
        if not free:
            return None
        best = max(free, key=lambda slot: (common_prefix(slot.text, text), slot.used, slot.id))
        if best.text and 2 * common_prefix(best.text, text) >= len(best.text):
            return SlotChoice(best)
        slot = min(free, key=lambda slot: (len(slot.tokens) > FEW_TOKENS, slot.used, -slot.id))
        return SlotChoice(slot, swaps=bool(slot.lost()) and not saves)

    def take(self, choice: SlotChoice, others: int = 0) -> list[PromptSlot]:
        """The slot is busy from now on, and those that llama.cpp takes for `others` answers. What is lost is noted."""
        slot = choice.slot
        if choice.swaps and slot.lost():
            self._left = [*self._left, slot.tokens][-REMEMBERED_LEFT:]
        taken = [slot, *[other for other in self.free if other is not slot][:others]]
        self.clock += 1
        for one in taken:
            one.busy, one.used = True, self.clock
        return taken
