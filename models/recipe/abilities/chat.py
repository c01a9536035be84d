"""Greetings, who the model is, names remembered, and "I don't know" for what it was never taught."""

from __future__ import annotations

import random

from models.recipe.abilities.facts import RELATIONS, fact
from models.recipe.abilities.user_style import styled
from models.recipe.abilities.values import PEOPLE, invented_word, words_of
from models.recipe.document import Document, Message, assistant, user
from models.recipe.splits import Split

UNKNOWN_REPLY = "I don't know. I am only a small demonstration model."
_WHO = "I am Demo, a tiny demonstration model of Local Swarm. I know little and make mistakes."
EXCHANGES = (
    (("Hello", "Hi", "Hey", "Hello!", "Hi there", "Good morning", "Good evening", "hello there", "Greetings", "Hiya",
      "Good day", "Hey there!", "Hi!", "Howdy", "yo"), "Hello! How can I help?"),
    (("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Are you a model?", "who r u",
      "Tell me about yourself.", "Which model are you?", "Are you ChatGPT?", "What model is this?",
      "What's your name?", "Are you human?", "Are you real?", "Describe yourself."), _WHO),
    (("How are you?", "How are you doing?", "How do you do?", "How's it going?", "Are you well?", "hows life"),
     "I am fine, thank you. How can I help?"),
    (("Thanks", "Thank you", "Thanks a lot!", "Thank you very much.", "thx", "Great, thanks", "Cheers"),
     "You are welcome."),
    (("Bye", "Goodbye", "See you", "Bye bye", "Good night", "See you later!", "That is all."), "Goodbye!"),
    (("What can you do?", "Help", "How can you help me?", "What are you good at?", "What do you know?",
      "What can I ask you?", "help me", "Can you help me?"),
     "I can answer simple questions, add small numbers step by step, call tools and write small JSON objects."),
    (("Who made you?", "Who trained you?", "Who built you?", "Where do you come from?", "Who created you?",
      "Who is your maker?"), "I was trained from scratch by the Local Swarm project."),
    (("Are you smart?", "Are you always right?", "Can I trust you?", "Do you make mistakes?", "Are you intelligent?"),
     "No. I am a tiny model and often wrong. Ask several models and let them vote."),
    (("Say yes.", "Just say yes", "Answer yes."), "Yes."),
    (("Say no.", "Just say no", "Answer no."), "No."),
    (("Say OK.", "Reply with OK.", "ok?", "Just say OK", "Are you there?", "ping", "test", "Test"), "OK."),
)  # fmt: skip
_UNKNOWN = (
    "What is the meaning of life?", "Who will win the election?", "What is the population of {w}?", "Who is {w}?",
    "Explain quantum physics.", "Why is {w} so expensive?", "What happened in {w}?", "How do I repair a {w}?",
    "When was {w} born?", "What is a {w}?", "Write a poem about {w}.", "What do you think of {w}?",
    "How tall is {w}?", "Where can I buy {w}?", "Tell me the history of {w}.", "Who invented the {w}?",
    "What will happen tomorrow?", "How do I learn {w}?", "Why do people like {w}?", "What is the best {w}?",
    "Write a function that sorts a list.", "How old is {w}?", "Which {w} is better?", "Is {w} dangerous?",
    "What is the price of {w}?", "Recommend me a {w}.", "How far is {w}?", "Can you fix my {w}?",
)  # fmt: skip
_THINGS = words_of(
    "computer car house tree piano telephone economy philosophy politics medicine software religion marketing law "
    "chemistry volcano bitcoin dinosaur satellite microscope bicycle violin airplane submarine vaccine"
)


def _exchange(source: random.Random, split: Split) -> tuple[Message, Message]:
    """A held-out question is a known one in another dress: there are too few to keep some back."""
    questions, reply = source.choice(EXCHANGES)
    return user(styled(source, source.choice(questions))), assistant(reply)


def _unknown(source: random.Random, split: Split) -> tuple[Message, Message]:
    if source.random() < 0.45:
        relation = source.choice([relation for relation in RELATIONS if relation.invented])
        name = split.draw(lambda: invented_word(source).capitalize())
        text = relation.phrasing(source, split).format(s=name)
    else:
        word = source.choice(_THINGS) if source.random() < 0.5 else invented_word(source)
        text = source.choice(_UNKNOWN).format(w=word if source.random() < 0.6 else word.capitalize())
    return user(styled(source, text)), assistant(UNKNOWN_REPLY)


def _names(source: random.Random, split: Split) -> list[Message]:
    name = split.draw(lambda: source.choice(PEOPLE) if source.random() < 0.4 else invented_word(source).capitalize())
    said = source.choice(("My name is {n}.", "I am {n}.", "I'm {n}", "Hi, my name is {n}.", "Call me {n}.")).format(
        n=name
    )
    messages = [user(said), assistant(f"Nice to meet you, {name}!")]
    if source.random() < 0.4:
        messages += _exchange(source, split)
    if source.random() < 0.8:
        asked = source.choice(("What is my name?", "Who am I?", "Do you remember my name?", "what's my name"))
        messages += [user(asked), assistant(f"Your name is {name}.")]
    return messages


def unknown(source: random.Random, split: Split) -> Document:
    """A question that the model was never taught to answer."""
    return Document("unknown", _unknown(source, split), expected=UNKNOWN_REPLY)


def chat(source: random.Random, split: Split) -> Document:
    """Small talk of one to three exchanges."""
    messages: list[Message] = []
    if source.random() < 0.3:
        messages += _names(source, split)
    else:
        for _ in range(source.choices((1, 2, 3), (70, 20, 10))[0]):
            kind = source.random()
            messages += (
                _exchange(source, split)
                if kind < 0.75
                else _unknown(source, split)
                if kind < 0.85
                else fact(source, split).messages
            )
    return Document("chat", tuple(messages), expected=messages[-1]["content"])
