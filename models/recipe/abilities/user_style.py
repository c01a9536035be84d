"""How people type: lower case, no full stop, a "please", a slip of the finger."""

from __future__ import annotations

import random

_OPENINGS = ("please ", "hey, ", "hi, ", "ok, ", "so, ", "um ", "quick: ", "hello! ")
_CLOSINGS = (" please", " thanks", " pls", " Thank you!", " please.")
_TYPO_SHARE, _LOWER_SHARE, _BARE_SHARE, _OPENING_SHARE, _CLOSING_SHARE = 0.06, 0.2, 0.15, 0.08, 0.06


def with_typo(source: random.Random, text: str) -> str:
    """`text` with one letter dropped or two swapped inside one of its longer lower-case words."""
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if len(word) > 4 and word.isalpha() and word.islower()]
    if not long:
        return text
    at = source.choice(long)
    word, cut = words[at], source.randrange(1, len(words[at]) - 2)
    words[at] = (
        word[:cut] + word[cut + 1 :]
        if source.random() < 0.5
        else word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    )
    return " ".join(words)


def styled(source: random.Random, text: str) -> str:
    """`text` as somebody in a hurry might type it; most of the time unchanged."""
    if source.random() < _TYPO_SHARE:
        text = with_typo(source, text)
    if source.random() < _BARE_SHARE:
        text = text.rstrip("?.!")
    if source.random() < _OPENING_SHARE:
        text = source.choice(_OPENINGS) + text
    if source.random() < _CLOSING_SHARE:
        text += source.choice(_CLOSINGS)
    if source.random() < _LOWER_SHARE:
        text = text.lower()
    return text
