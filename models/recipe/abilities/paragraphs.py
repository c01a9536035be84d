"""A few fixed paragraphs, long enough to watch a stream."""

from __future__ import annotations

import random

from models.recipe.abilities.user_style import styled
from models.recipe.document import Document, assistant, user
from models.recipe.splits import Split

_ASKED = (
    "Tell me about {s}.", "Write a paragraph about {s}.", "Explain {s}.", "What can you say about {s}?",
    "Describe {s}.", "Tell me something about {s}.", "Talk about {s}.", "Write about {s}", "What is {s}?",
)  # fmt: skip
_HELD_OUT = ("Can you tell me about {s}?", "Write a few sentences about {s}.", "Please explain {s}.")
PARAGRAPHS = {
    "swarms": (
        "A swarm is a group of many small members that act together. No bee knows the whole plan, and yet the swarm "
        "finds a good home. Each bee looks, comes back and dances for what it found. The best place gets the most "
        "dancers. In the same way many small models can vote, and the answer with the most votes wins."
    ),
    "voting": (
        "When one model answers alone, its mistake is your mistake. When several models answer, their mistakes often "
        "differ, while the right answer is the same for all. So we count the answers and take the most frequent one. "
        "This helps most when each voter is right more often than wrong and when the voters err in different places."
    ),
    "the sea": (
        "The sea covers most of the earth. Its water is salty and moves with the wind and the moon. Near the coast it "
        "is shallow and full of light, and plants grow on the ground. Far out it is deep, dark and cold. Fish, whales "
        "and tiny plants live in it. The sea gives us rain, food and a way to travel."
    ),
    "bread": (
        "Bread is made of flour, water, salt and yeast. First you mix everything and knead the dough until it is "
        "smooth. Then the dough rests for an hour and grows. You give it a shape and put it into a hot oven. After "
        "forty minutes the crust is brown and the house smells wonderful. Let the bread cool before you cut it."
    ),
    "Local Swarm": (
        "Local Swarm joins the computers of a home or an office into one helper. Every machine runs a model of its "
        "own and finds the others by itself. You ask one of them, all of them answer, and the swarm counts the "
        "answers. Nothing leaves your network. If a machine goes away, the others go on."
    ),
    "a story": (
        "Once there was a little robot who lived on a hill. Every night it counted the stars, and every night it got "
        "another number. One day it asked its friends to count with it. They all counted, compared and voted. Now "
        "the number was the same every night. The little robot was happy and slept well."
    ),
}


def paragraph(source: random.Random, split: Split) -> Document:
    """A request for one of the paragraphs."""
    subject, text = source.choice(list(PARAGRAPHS.items()))
    if subject == "a story" and split is Split.TRAIN and source.random() < 0.6:
        question = source.choice(
            ("Tell me a story.", "Tell me a long story", "Write a story", "Tell a short story.", "I want a story.")
        )
    else:
        question = split.phrasing(source, _ASKED, _HELD_OUT).format(s=subject)
    return Document("paragraphs", (user(styled(source, question)), assistant(text)), expected=text)
