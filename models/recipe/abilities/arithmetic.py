"""Arithmetic chains worked step by step and ended by `Answer: N`.

The steps run from left to right, one operation a line. Numbers are small: the point is a model that is right more often
than not and slips now and then in different places, because that is what a vote repairs.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass

from models.recipe.abilities.user_style import styled
from models.recipe.document import Document, assistant, user
from models.recipe.splits import Split

ALWAYS_TRAINED_TERMS = 2  # sums of two numbers are the building blocks; only longer chains are held out
_SIZES = ((9, 12), (20, 20), (50, 22), (99, 30), (999, 16))  # (largest term, weight)
PRODUCT_SHARE = 0.12  # of training chains that open with a product
_LENGTHS = ((2, 22), (3, 26), (4, 20), (5, 14), (6, 10), (7, 5), (8, 3))
_PHRASINGS = (
    "What is {e}?", "Calculate {e}.", "Compute {e}", "{e} = ?", "{e}", "How much is {e}?", "Work out {e}.",
    "Please calculate {e}.", "Solve: {e}", "{e} =", "What does {e} make?", "Can you compute {e}?",
    "What is {e}? Think step by step.", "What is {e}? End with Answer: and the number.",
)  # fmt: skip
_PEOPLE = ("Anna", "Ben", "Tom", "Mia", "Leo", "Eva", "Max", "Lily", "Sam", "Nina")
_THINGS = ("apples", "books", "coins", "stamps", "pens", "cards", "eggs", "cups")
_GAINS = ("{p} gets {n} more.", "{p} buys {n} more.", "{p} finds {n} more.")
_LOSSES = ("{p} loses {n}.", "{p} gives away {n}.", "{p} sells {n}.")


OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True, slots=True)
class Chain:
    """`first`, then pairs of sign and term, applied from left to right; a product comes first; never below zero."""

    first: int
    rest: tuple[tuple[str, int], ...]

    def expression(self, gap: str = " ") -> str:
        return str(self.first) + "".join(f"{gap}{sign}{gap}{term}" for sign, term in self.rest)

    def values(self) -> list[int]:
        """The first term and the result of every step."""
        values = [self.first]
        for sign, term in self.rest:
            values.append(OPERATIONS[sign](values[-1], term))
        return values

    def steps(self) -> list[str]:
        values = self.values()
        return [f"{values[at]}{sign}{term}={values[at + 1]}" for at, (sign, term) in enumerate(self.rest)]

    @property
    def result(self) -> int:
        return self.values()[-1]

    def worked(self) -> str:
        return "\n".join((*self.steps(), f"Answer: {self.result}"))


def draw_chain(source: random.Random, terms: int, largest: int, products: bool = False) -> Chain:
    """A chain of so many terms, each from 1 (the first from 2) to `largest`; with `products` some open with one."""
    chain = Chain(source.randint(2, largest), ())
    if products and source.random() < PRODUCT_SHARE:
        chain = Chain(source.randint(2, min(largest, 99)), (("*", source.randint(2, 9)),))
    value, rest = chain.result, list(chain.rest)
    while len(rest) < terms - 1:
        term = source.randint(1, largest)
        sign = "-" if term <= value and source.random() < 0.5 else "+"
        value = OPERATIONS[sign](value, term)
        rest.append((sign, term))
    return Chain(chain.first, tuple(rest))


def owned_chain(source: random.Random, split: Split, terms: int, largest: int, products: bool = False) -> Chain:
    """A chain of this side of the split; chains of two terms are never held out."""
    while True:
        chain = draw_chain(source, terms, largest, products)
        if terms <= ALWAYS_TRAINED_TERMS or split.owns(chain.expression()):
            return chain


def _weighted(source: random.Random, options: tuple[tuple[int, int], ...]) -> int:
    return source.choices([value for value, _ in options], [weight for _, weight in options])[0]


def story(source: random.Random, chain: Chain) -> str:
    """The chain as a story of things that somebody gets and loses."""
    person, thing = source.choice(_PEOPLE), source.choice(_THINGS)
    parts = [f"{person} has {chain.first} {thing}."]
    for sign, term in chain.rest:
        parts.append(source.choice(_GAINS if sign == "+" else _LOSSES).format(p=person, n=term))
    return " ".join((*parts, f"How many {thing} does {person} have now?"))


def question(source: random.Random, chain: Chain) -> str:
    if source.random() < 0.08 and all(sign != "*" for sign, _ in chain.rest):
        return story(source, chain)
    return source.choice(_PHRASINGS).format(e=chain.expression(source.choice((" ", " ", " ", ""))))


def problem(source: random.Random, split: Split, terms: int, largest: int) -> Document:
    """A problem in the plainest phrasing, as evaluation asks it; `expected` is the number."""
    chain = owned_chain(source, split, terms, largest)
    messages = (user(f"What is {chain.expression()}?"), assistant(chain.worked()))
    return Document("arithmetic", messages, expected=chain.result)


def arithmetic(source: random.Random, split: Split) -> Document:
    """A problem of any length and size in any phrasing."""
    chain = owned_chain(source, split, _weighted(source, _LENGTHS), _weighted(source, _SIZES), products=True)
    text = question(source, chain)
    text = styled(source, text) if source.random() < 0.3 else text
    return Document("arithmetic", (user(text), assistant(chain.worked())), expected=chain.result)
