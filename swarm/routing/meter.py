"""What the voters of one batch have generated so far, as far as it can be seen from here."""

from __future__ import annotations

from collections import Counter

from swarm.generation import Delta, Finish


class Meter:
    """Counts the answers that are `missing`, and the events of unfinished ones: about one a token.

    A peer's events are not seen, only its whole answers. `left_its_prompt`: a voter is ready whose slot still holds the
    prompt. That is the first of a batch: llama.cpp copies its prompt to the others, and forgets the copies with them.
    """

    def __init__(self, voters: int) -> None:
        self.missing = voters
        self.left_its_prompt = False
        self._sees = False
        self._unfinished: Counter[int] = Counter()

    def heard(self, event: Delta | Finish) -> None:
        self._sees = True
        if isinstance(event, Delta):
            self._unfinished[event.choice] += 1
            return
        del self._unfinished[event.choice]
        self.left_its_prompt = self.left_its_prompt or event.choice == 0

    def answered(self) -> None:
        """One voter's whole answer has come."""
        self.missing -= 1
        self.left_its_prompt = self.left_its_prompt or not self.missing

    @property
    def unfinished_tokens(self) -> int:
        """Generated for answers that are not whole."""
        return self._unfinished.total()

    @property
    def knows_nothing(self) -> bool:
        """Answers are missing, and whether anything was generated for them cannot be seen."""
        return self.missing > 0 and not self._sees
