"""Which slot of a llama.cpp server reads which prompt, so that no conversation is read twice. Decisions only; pure.

A slot keeps the prompt that it read last, with its answer, until another one is read there. By itself llama.cpp takes
the slot whose prompt begins most like the new one: two conversations with one system prompt drive each other out, for
ever. Here what a choice costs is counted in tokens: those that must be read now, and those of another conversation that
would be read once more, at each of the turns to come. What lies on the disk is brought back for a share of that.

Slots of high numbers are filled first: the answers of a vote take those of the lowest, which nobody can choose for
them. Short prompts are not worth counting their tokens; they are known by their text, and keep away from long ones.

There may be more slots than answers that are made at once, so that a chat, or the title that an agent asks for beside
its question, has a place of its own. All share the cells of the cache, which are those of the answers made at once. So
where a prompt would not fit beside what the others hold, idle ones are emptied, the longest unused first; llama.cpp
would empty the first that it finds.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

FEW_TOKENS = 64  # not worth keeping apart, nor on a disk
TURNS_TO_COME = 8  # of a conversation whose prompt would be read once more at each
DISK_SHARE = 0.05  # of what reading a token costs, for one that is restored, while neither is measured
CHARS_PER_TOKEN = 4  # of prose, about
TEXT_CHARS = 4096  # of a prompt by which it is known while its tokens are not counted
REMEMBERED_LEFT = 16  # prompts that llama.cpp keeps in memory, perhaps, when they have left their slot
SHORT_TOKENS = 512  # what a prompt that is known by its text is taken for, until its answer says it
ANSWER_TOKENS = 1024  # that an answer is planned to have, while it is made: few have more


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
    `saved` of all these lie on the disk. `read_at` is wall time, `used` counts the choices. `filled` cells are taken by
    all of it, those of a short prompt, too.
    """

    id: int
    tokens: array[int] = field(default_factory=no_tokens)
    text: str = ""
    answered: int = 0
    saved: int = 0
    read_at: float = 0.0
    used: int = 0
    busy: bool = False
    filled: int = 0

    @property
    def unsaved(self) -> int:
        """Tokens that the disk does not have; 0 where there are none worth it."""
        missing = len(self.tokens) + self.answered - self.saved
        return missing if self.tokens and missing > FEW_TOKENS else 0

    def hold(self, tokens: array[int], read_at: float, text: str = "", answered: int = 0, saved: int = 0) -> None:
        self.tokens, self.text, self.answered, self.saved = tokens, text, answered, saved
        self.read_at = read_at
        self.filled = len(tokens) + answered if tokens or not text else SHORT_TOKENS

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
    in memory what it holds, and to take what it kept of this prompt. `clears`: idle slots that are emptied for it.
    """

    slot: PromptSlot
    held: int = 0
    restore: PromptOnDisk | None = None
    swaps: bool = False
    clears: tuple[PromptSlot, ...] = ()


class PromptSlots:
    """The slots of one server. `saves`: what leaves a slot can be put on a disk.

    One may hold `slot_tokens`, all of them together `cells`; 0: nothing is known of that, and each has its own. So many
    tokens as `keeps_tokens` llama.cpp keeps in memory when they leave a slot; None: as many as come.
    """

    def __init__(self, count: int = 1, slot_tokens: int = 0, cells: int = 0, keeps_tokens: int | None = None) -> None:
        self.slots = [PromptSlot(number) for number in range(count)]
        self.slot_tokens = slot_tokens
        self.cells = cells
        self.keeps_tokens = keeps_tokens
        self.doubted = False  # whether llama.cpp may have emptied one by itself since it was asked last
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

        def consider(cost: float, slot: PromptSlot, choice: SlotChoice, held: int = 0) -> None:
            clears = self._in_the_way(slot, max(len(prompt), held))
            cost += sum(map(gives_way, clears))
            options.append((cost, slot.used, -slot.id, replace(choice, clears=clears)))

        best = max(saved, key=lambda kept: common_prefix(prompt, kept.tokens), default=None)
        on_disk = 0 if best is None else common_prefix(prompt, best.tokens)
        for slot in free:
            same = common_prefix(prompt, slot.tokens)
            consider(len(prompt) - same + gives_way(slot, same), slot, SlotChoice(slot, slot.continued_by(prompt)))
            if best is not None and on_disk > same + FEW_TOKENS:
                cost = len(prompt) - on_disk + share * len(best.tokens) + gives_way(slot)
                consider(cost, slot, SlotChoice(slot, on_disk, best), len(best.tokens))
        if not saves:
            oldest = min(free, key=lambda slot: (slot.used, -slot.id))
            same = common_prefix(prompt, oldest.tokens)
            left = max((common_prefix(prompt, tokens) for tokens in self._left), default=0)
            lost = oldest.lost(same)
            if self._keeps(oldest) and (lost or left > same + FEW_TOKENS):
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
            return SlotChoice(best, clears=self._in_the_way(best, len(text) // CHARS_PER_TOKEN, 0))
        slot = min(free, key=lambda slot: (len(slot.tokens) > FEW_TOKENS, slot.used, -slot.id))
        swaps = bool(slot.lost()) and not saves and self._keeps(slot)
        return SlotChoice(slot, swaps=swaps, clears=self._in_the_way(slot, len(text) // CHARS_PER_TOKEN, 0))

    def _keeps(self, slot: PromptSlot) -> bool:
        """Whether llama.cpp keeps in memory what leaves that slot."""
        return self.keeps_tokens is None or slot.filled <= self.keeps_tokens

    def _in_the_way(self, place: PromptSlot, tokens: int, answer: int = ANSWER_TOKENS) -> tuple[PromptSlot, ...]:
        """The idle slots that are emptied, so that a prompt of so many tokens and an answer fit into that place.

        Nothing is planned for the answer to a short prompt: it would be an agent's prompt that gives way to a title.
        """
        if not self.cells:
            return ()
        others = [slot for slot in self.slots if slot is not place and slot.filled]
        taken = sum(self._planned(slot.filled) if slot.busy else slot.filled for slot in others)
        missing = self._planned(tokens, answer) + taken - self.cells
        emptied: list[PromptSlot] = []
        for slot in sorted(others, key=lambda slot: slot.used):
            if missing > 0 and not slot.busy:
                emptied.append(slot)
                missing -= slot.filled
        return tuple(emptied)

    def _planned(self, tokens: int, answer: int = ANSWER_TOKENS) -> int:
        return min(tokens + answer, max(self.slot_tokens, tokens))

    def take(self, choice: SlotChoice, others: int = 0, tokens: int = SHORT_TOKENS) -> list[PromptSlot]:
        """The slot is busy from now on with a prompt of so many `tokens`, and those of `others` answers to it, which
        llama.cpp takes. What is lost is noted.
        """
        slot = choice.slot
        if choice.swaps and slot.lost():
            self._leaves(slot.tokens)
        taken = [slot, *[other for other in self.free if other is not slot][:others]]
        self.clock += 1
        for one in taken:
            one.busy, one.used = True, self.clock
        slot.filled = tokens
        most = sum(max(self.slot_tokens, each.filled) if each.busy else each.filled for each in self.slots)
        self.doubted = self.doubted or 0 < self.cells < most
        return taken

    def _leaves(self, tokens: array[int]) -> None:
        """What llama.cpp keeps in memory of prompts that left, the newest last."""
        self._left = [*self._left, tokens][-REMEMBERED_LEFT:]
        if self.keeps_tokens is not None:
            while sum(map(len, self._left)) > self.keeps_tokens:
                del self._left[0]

    def found(self, tokens: Mapping[int, int]) -> None:
        """So many `tokens` each of these slots holds, by their numbers: what was emptied is not believed any more."""
        self.doubted = False
        for slot in self.free:
            holds = tokens.get(slot.id)
            if holds is not None:
                if holds < len(slot.tokens) or not holds:
                    slot.hold(no_tokens(), 0.0)
                slot.filled = holds
