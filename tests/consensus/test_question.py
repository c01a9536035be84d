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
