"""Chat templates that think: what llama.cpp parts itself, what is left to us, and grammars behind a thought."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.llama_cpp.http import LlamaHttp
from swarm.generation import Delta, Finish, GenerationRequest
from tests.doubles.chat_templates import PLAIN, templated

KNOWS_THOUGHTS = PLAIN.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' and m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}",
)
OPENS_THEM = KNOWS_THOUGHTS.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
MAY_BE_TOLD = KNOWS_THOUGHTS.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]},
    },
}


async def answer(http: LlamaHttp, **fields: Any) -> tuple[str, str, list[Any], Finish]:
    """Reasoning, text, calls and end of one answer."""
    messages = ({"role": "user", "content": "Hello"},)
    request = GenerationRequest.model_validate({"model": "demo", "messages": messages, "temperature": 0.0, **fields})
    async with aclosing(http.stream(request, 1)) as stream:
        events = [event async for event in stream]
    deltas = [event for event in events if isinstance(event, Delta)]
    assert isinstance(events[-1], Finish)
    calls = [call for delta in deltas for call in delta.tool_calls]
    return "".join(d.reasoning for d in deltas), "".join(d.text for d in deltas), calls, events[-1]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (KNOWS_THOUGHTS, "<think>\nParis\n</think>\n\nHello there"),
        (OPENS_THEM, "Paris\n</think>\n\nHello there"),
        (PLAIN, "<think>\nParis\n</think>\n\nHello there"),
    ],
    ids=["the template knows thoughts", "the template opens one", "the template knows nothing of them"],
)
async def test_thoughts_are_parted_whatever_the_template_says(demo_model: Path, template: str, words: str) -> None:
    async with templated(demo_model, template, words) as http:
        reasoning, text, _, finish = await answer(http)
    assert (reasoning.strip(), text) == ("Paris", "Hello there")
    assert finish.usage.completion_tokens > 6, "thoughts count"


async def test_a_thought_that_does_not_end_is_no_answer_and_no_call(demo_model: Path) -> None:
    async with templated(demo_model, OPENS_THEM) as http:
        reasoning, text, calls, finish = await answer(http, tools=[TOOL], tool_choice="required", max_tokens=12)
    assert reasoning
    assert (text, calls, finish.reason) == ("", [], "length")


async def test_a_model_that_may_think_still_keeps_the_grammar(demo_model: Path) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": TOOL["function"]["parameters"]}}
    async with templated(demo_model, KNOWS_THOUGHTS) as http:
        _, text, calls, finish = await answer(http, tools=[TOOL], tool_choice="required")
        assert (text, finish.reason) == ("", "tool_calls")
        assert json.loads("".join(call.arguments for call in calls))["n"] in (1, 2)
        _, text, _, finish = await answer(http, response_format=wanted)
        assert json.loads(text)["n"] in (1, 2)


async def test_thoughts_in_the_history_are_in_the_prompt(demo_model: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    thought = [turns[0], {**turns[1], "reasoning_content": "many words of thought"}, turns[2]]
    async with templated(demo_model, KNOWS_THOUGHTS) as http:
        plain, longer = [
            await http.count_tokens(GenerationRequest.model_validate({"model": "demo", "messages": messages}))
            for messages in (turns, thought)
        ]
    assert longer > plain + 3


async def test_a_model_is_told_not_to_think(demo_model: Path) -> None:
    """As Qwen's templates have it: the thought is opened and closed for the model."""
    request = GenerationRequest.model_validate({"model": "demo", "messages": [{"role": "user", "content": "a"}]})
    async with templated(demo_model, MAY_BE_TOLD) as http:
        free = await http.prompt_text(request)
        told = await http.prompt_text(request.model_copy(update={"thinking": False}))
    assert "</think>" not in free
    assert told.endswith("<think>\n\n</think>\n\n")
