"""What a request asks to be voted on."""

import pytest

from swarm.consensus.options import Strategy
from swarm.consensus.question import Question
from swarm.generation import (
    FunctionSpec,
    GenerationRequest,
    JsonObject,
    NamedFunction,
    NamedToolChoice,
    ToolChoice,
    ToolSpec,
)

TOOLS = (ToolSpec(function=FunctionSpec(name="now")),)


def chat(*messages: JsonObject) -> GenerationRequest:
    return GenerationRequest(model="m", messages=messages)


def user(content: str) -> JsonObject:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    "request_",
    [
        chat(user("What is 6*7? End with 'Answer: <number>'.")),
        chat(user("Put it in \\boxed{}.")),
        chat(user("Give the answer after ####, please.")),
        chat(user("Answer with a number.")),
        chat(user("Respond only with the correct letter.")),
        chat({"role": "system", "content": "Always give a final answer."}, user("6*7?")),
        chat({"role": "developer", "content": "**Answer**: comes last"}, user("6*7?")),
        chat({"role": "user", "content": [{"type": "text", "text": "6*7? Reply with just the number."}]}),
        GenerationRequest(model="m", prompt="Question: 6*7?\nAnswer:"),
    ],
)
def test_a_request_for_a_final_answer_is_recognised(request_: GenerationRequest) -> None:
    assert Question.of(request_, Strategy.AUTO).wants_final_answer


@pytest.mark.parametrize(
    "request_",
    [
        chat(user("Tell me a story.")),
        chat(user("#### Heading\nSummarise this.")),
        chat(user("I wonder whether you could answer me.")),
        chat(user("Answer: with a number"), {"role": "assistant", "content": "42"}, user("Now a poem.")),
        chat(user("hi"), {"role": "assistant", "content": "Answer: 42"}),
        chat({"role": "user", "content": None}),
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "Answer: x"}}, "loose"]}),
        GenerationRequest(model="m", prompt="Once upon a time"),
        GenerationRequest(model="m"),
    ],
)
def test_other_requests_are_not_taken_for_one(request_: GenerationRequest) -> None:
    assert not Question.of(request_, Strategy.AUTO).wants_final_answer


def test_tools_count_unless_the_client_forbids_calls() -> None:
    named = NamedToolChoice(function=NamedFunction(name="now"))
    cases: list[tuple[ToolChoice, tuple[ToolSpec, ...]]] = [
        ("auto", TOOLS),
        ("required", TOOLS),
        (named, TOOLS),
        ("none", ()),
    ]
    for choice, offered in cases:
        request = GenerationRequest(model="m", prompt="hi", tools=TOOLS, tool_choice=choice)
        assert Question.of(request, Strategy.AUTO).tools == offered


COUNTED = [
    "What is 40 + 2?",
    "40 + 2 =",
    "Calculate 12 + 7 - 3",
    "What is 6*7? End with 'Answer: <number>'.",
    "Calculate 12 + 7. End with Answer: N",
    "Name a colour. End your reply with 'Answer: X'.",
    "Put the sum of the primes below 10 in \\boxed{}.",
    "How many are left? Give the answer after ####, please.",
    "How many legs has a spider? Reply with only a number.",
    "Is the sky blue? Answer with yes or no.",
    'Answer only "true" or "false": water is dry.',
    "Respond only with the correct letter.",
    "Give the final answer as an integer: the fifth prime.",
    "Question: 6*7?\nAnswer:",
    "A farmer has 17 sheep, and 9 run away. How many are left?\nAnswer:",
    "Which of these is a fruit?\nA) stone\nB) apple\nC) car",
    "Choose the correct answer.\n(A) up\n(B) down",
    "Choose the correct answer: (A) up (B) down",
    "Pick one: A) red B) blue C) green",
    "Write a Python function that reverses a string.",
    "Please write a SQL query that counts the users.",
    "Implement quicksort in Rust",
    "Convert this C code to Go.",
]
PROSE = [
    "",
    "hello",
    "Tell me a story about 3 pigs.",
    "Say how many there are, and why.",
    "Context: it was founded in 1914.\n\nWho founded it?\nHelpful Answer:",
    "I wonder whether you could answer me.",
    "Think before you give your final answer.",
    "#### Heading\nSummarise this.",
    "Summarise:\nA. Introduction\nB. Methods\nC. Results",
    "Which of my plans is better?",
    "2024-05-06",
    "(555) 123-4567",
    "192.168.0.1/24",
    "Give me a workout program.",
    "Write a story about a Python program.",
    "Write an email to Java Corp about the program.",
    "Write a class reunion speech.",
    "Why does this Python function fail?",
    "Explain how to write a function in C.",
    "Write a haiku in C major.",
]


def asked_of(text: str, **fields: object) -> Question:
    body = {"model": "m", "messages": [user(text)], **fields}
    return Question.of(GenerationRequest.model_validate(body), Strategy.AUTO)


@pytest.mark.parametrize("text", COUNTED)
def test_what_plainly_asks_for_something_to_count_is_countable(text: str) -> None:
    assert asked_of(text).countable


@pytest.mark.parametrize("text", PROSE)
def test_in_doubt_it_is_prose(text: str) -> None:
    assert not asked_of(text).countable


def test_tools_and_forms_are_countable_whatever_is_said() -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    assert asked_of("hello", tools=[tool]).countable
    assert not asked_of("hello", tools=[tool], tool_choice="none").countable
    assert asked_of("hello", response_format={"type": "json_object"}).countable
    assert not asked_of("hello", response_format={"type": "text"}).countable


def test_only_the_last_question_says_what_is_asked_now() -> None:
    turns = [user("What is 40 + 2?"), {"role": "assistant", "content": "42"}, user("And why?")]
    body = {"model": "m", "messages": turns}
    assert not Question.of(GenerationRequest.model_validate(body), Strategy.AUTO).countable


@pytest.mark.parametrize(
    "part", ["answer ", "####", "A) x ", "write python, ", "\n", "1+", "number answer: ", "end with "]
)
def test_a_long_message_is_read_in_linear_time(part: str) -> None:
    """Megabytes that are made for this take no seconds: of each end some thousand characters are searched."""
    asked_of(part * (1_000_000 // len(part)))
