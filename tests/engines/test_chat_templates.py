"""Any conversation with any chat template: nothing of it is refused or left out, and tools work with every model."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.chat_turns import CAN_SAY_ALL
from swarm.engines.llama_cpp.http import LlamaHttp
from swarm.errors import BadRequest
from swarm.generation import Delta, Finish, GenerationRequest
from tests.doubles.chat_templates import PLAIN, TEMPLATES, templated

PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"about {name}", "parameters": PARAMETERS}}
    for name in ("weather", "time")
]


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, *calls: str) -> dict[str, Any]:
    """A turn, with a call of `weather` for each id."""
    if not calls:
        return {"role": "assistant", "content": text}
    made = [
        {
            "id": each,
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"city": f"of {each}"})},
        }
        for each in calls
    ]
    return {"role": "assistant", "content": text, "tool_calls": made}


def result(call: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": f"result {call}"}


LONG_ID = "call_0123456789abcdef01234567"
# Each conversation, and every text that a model has to see of it.
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "system first": ([system("s1"), user("u1")], ("s1", "u1")),
    "two systems first": ([system("s1"), system("s2"), user("u1")], ("s1", "s2", "u1")),
    "nothing but a system": ([system("s1")], ("s1",)),
    "system after a user": ([user("u1"), system("s1")], ("s1", "u1")),
    "system in the middle": (
        [system("s1"), user("u1"), assistant("a1"), system("s2"), user("u2")], ("s1", "u1", "a1", "s2", "u2"),
    ),
    "system at the end": ([user("u1"), assistant("a1"), user("u2"), system("s1")], ("u1", "a1", "s1", "u2")),
    "system between answers": (
        [user("u1"), assistant("a1"), system("s1"), assistant("a2"), user("u2")], ("u1", "a1", "s1", "a2", "u2"),
    ),
    "a user twice": ([user("u1"), user("u2")], ("u1", "u2")),
    "an assistant twice": ([user("u1"), assistant("a1"), assistant("a2"), user("u2")], ("u1", "a1", "a2", "u2")),
    "an assistant first": ([assistant("a1"), user("u1")], ("a1", "u1")),
    "an assistant after the system": ([system("s1"), assistant("a1"), user("u1")], ("s1", "a1", "u1")),
    "a begun turn": ([system("s1"), user("u1"), assistant("a1")], ("s1", "u1", "a1")),
    "a call and its result": (
        [user("u1"), assistant("", LONG_ID), result(LONG_ID)], ("u1", f"of {LONG_ID}", f"result {LONG_ID}"),
    ),
    "under a system": (
        [system("s1"), user("u1"), assistant("", LONG_ID), result(LONG_ID)],
        ("s1", "u1", f"of {LONG_ID}", f"result {LONG_ID}"),
    ),
    "two calls": (
        [user("u1"), assistant("", "c1", "c2"), result("c1"), result("c2")],
        ("u1", "of c1", "of c2", "result c1", "result c2"),
    ),
    "words after results": (
        [user("u1"), assistant("", "c1"), result("c1"), user("u2")], ("u1", "of c1", "result c1", "u2"),
    ),
    "a system after results": (
        [user("u1"), assistant("", "c1"), result("c1"), system("s1")], ("u1", "of c1", "result c1", "s1"),
    ),
    "calls on calls": (
        [
            user("u1"), assistant("", "c1"), result("c1"), assistant("", "c2"), result("c2"), assistant("a1"),
            user("u2"),
        ],
        ("u1", "of c1", "result c1", "of c2", "result c2", "a1", "u2"),
    ),
    "a result whose call was cut off": ([user("u1"), result("c1")], ("u1", "result c1")),
}  # fmt: skip


def asked(messages: list[dict[str, Any]], **fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "demo", "messages": messages, "temperature": 0.0, "max_tokens": 8, **fields}
    )


Answer = tuple[str, list[tuple[str, str]], Finish]  # text, calls and end


async def answer(http: LlamaHttp, request: GenerationRequest) -> Answer:
    return (await answers(http, request, 1))[0]


async def answers(
    http: LlamaHttp, request: GenerationRequest, n: int
) -> list[tuple[str, list[tuple[str, str]], Finish]]:
    async with aclosing(http.stream(request, n)) as stream:
        events = [event async for event in stream]
    found: list[Answer] = []
    for choice in range(n):
        mine = [event for event in events if event.choice == choice]
        deltas = [event for event in mine if isinstance(event, Delta)]
        (finish,) = [event for event in mine if isinstance(event, Finish)]
        assert mine[-1] is finish
        pieces = [call for delta in deltas for call in delta.tool_calls]
        names = [call.name for call in pieces if call.name]
        assert all(call.id for call in pieces if call.name)
        arguments = "".join(call.arguments for call in pieces)
        found.append(("".join(delta.text for delta in deltas), [(name, arguments) for name in names], finish))
    return found


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
async def test_every_conversation_is_said_whole(demo_model: Path, template: str) -> None:
    async with templated(demo_model, template) as http:
        await http.loaded()
        for name, (messages, marks) in CONVERSATIONS.items():
            for tools in ([], TOOLS):
                request = asked(messages, tools=tools, max_tokens=1)
                prompt = await http.prompt_text(request)
                missing = [mark for mark in (*marks, *(["about weather"] if tools else [])) if mark not in prompt]
                assert not missing, f"{name}: {missing} not in {prompt}"
                assert await http.count_tokens(request) > 0
            await answer(http, asked(messages, max_tokens=1))


async def test_what_a_template_can_say_stays_as_it_came(demo_model: Path) -> None:
    async with templated(demo_model, "") as http:  # the model's own
        turns = [user("u1"), assistant("", "c1", "c2"), result("c1"), result("c2"), user("u2")]
        untried = await http.prompt_text(asked(turns, tools=TOOLS))
        _, can = await http.loaded()
        assert can.tools
        assert await http.prompt_text(asked(turns, tools=TOOLS)) == untried


async def test_a_users_own_words_stay_the_last(demo_model: Path) -> None:
    async with templated(demo_model, TEMPLATES["refuses a later system turn"]) as http:
        await http.loaded()
        prompt = await http.prompt_text(asked([user("u1"), assistant("a1"), user("u2"), system("s1")]))
    reminder = "<system-reminder>\ns1\n</system-reminder>\n"
    assert prompt.endswith(f"<|im_start|>user\n{reminder}u2<|im_end|>\n<|im_start|>assistant\n")


async def test_tools_stand_in_the_system_turn_of_a_template_that_knows_none(demo_model: Path) -> None:
    async with templated(demo_model, PLAIN) as http:
        _, can = await http.loaded()
        assert not can.tools
        prompt = await http.prompt_text(asked([system("be brief"), user("u1")], tools=TOOLS))
        call = await http.prompt_text(asked([user("u1"), assistant("hm", "c1"), result("c1")], tools=TOOLS))
    assert prompt.startswith("<|im_start|>system\nbe brief\n\nYou can call functions.")
    assert '{"name": "weather", "description": "about weather", "parameters": {"type": "object"' in prompt
    assert '<|im_start|>assistant\nhm\n{"name": "weather", "arguments": {"city": "of c1"}}<|im_end|>' in call
    assert "<|im_start|>user\nResult of weather:\nresult c1<|im_end|>" in call


async def test_a_call_that_is_demanded_is_made_without_a_template_for_it(demo_model: Path) -> None:
    async with templated(demo_model, PLAIN) as http:
        await http.loaded()
        named = {"type": "function", "function": {"name": "time"}}
        for choice, names in (("required", {"weather", "time"}), (named, {"time"})):
            text, [(name, arguments)], finish = await answer(
                http, asked([user("Weather?")], tools=TOOLS, tool_choice=choice, max_tokens=60)
            )
            assert (text, finish.reason) == ("", "tool_calls")
            assert name in names
            assert json.loads(arguments)["city"] in ("Paris", "Rome")


@pytest.mark.parametrize(
    ("words", "text", "called"),
    [
        ("It rains in Rome.", "It rains in Rome.", None),
        ('{"name": "weather", "arguments": {"city": "Atlantis"}}', "", "weather"),
        ('```json\n{"name":"time","arguments":{"town": 1}}\n```', "", "time"),
        ('Let me look.\n{"name": "weather", "arguments": {}}', "Let me look.\n", "weather"),
        ('{"name": "Rome", "arguments": {"city": 1}}', '{"name": "Rome", "arguments": {"city": 1}}', None),
        ('{"name": "weather"}', '{"name": "weather"}', None),
        ('Write {"name": "weather", "arguments": {}}', 'Write {"name": "weather", "arguments": {}}', None),
        ("```python\nprint(1)\n```", "```python\nprint(1)\n```", None),
        ('<think>\nhm\n</think>\n\n{"name": "weather", "arguments": {"city": "x"}}', "", "weather"),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
async def test_a_model_answers_in_words_or_calls_as_it_likes(
    demo_model: Path, words: str, text: str, called: str | None, n: int
) -> None:
    async with templated(demo_model, PLAIN, words, slots=2) as http:
        await http.loaded()
        found = await answers(http, asked([user("Weather?")], tools=TOOLS, max_tokens=80), n)
    for said, calls, finish in found:
        assert said == text
        assert [name for name, _ in calls] == ([] if called is None else [called])
        assert finish.reason == ("stop" if called is None else "tool_calls")
        assert finish.usage.completion_tokens > 4
        for _, arguments in calls:
            assert json.loads(arguments)["city"] in ("Paris", "Rome"), "under the schema, whatever was begun"


async def test_words_are_streamed_as_they_come(demo_model: Path) -> None:
    async with templated(demo_model, PLAIN, "It rains in Rome.\nAnd in Paris.") as http:
        await http.loaded()
        request = asked([user("Weather?")], tools=TOOLS, max_tokens=80, logprobs=True)
        async with aclosing(http.stream(request, 1)) as stream:
            deltas = [event async for event in stream if isinstance(event, Delta)]
    assert len(deltas) > 5
    assert all(delta.logprobs for delta in deltas)


async def test_tools_that_a_template_cannot_show_are_said_in_words(demo_model: Path) -> None:
    """Some read the schemas, and break over a type that is a list, or is not there."""
    odd = {"type": "object", "properties": {"city": {"type": ["string", "null"]}}, "required": ["city"]}
    usual = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

    def offering(parameters: dict[str, Any], **fields: Any) -> GenerationRequest:
        function = {"name": "weather", "description": "about weather", "parameters": parameters}
        return asked([user("Weather?")], tools=[{"type": "function", "function": function}], **fields)

    async with templated(demo_model, TEMPLATES["reads the schemas of tools"]) as http:
        _, can = await http.loaded()
        assert can.tools
        for _ in range(2):
            assert "You can call functions" in await http.prompt_text(offering(odd))
            text, [(name, _)], finish = await answer(http, offering(odd, tool_choice="required", max_tokens=60))
            assert (text, name, finish.reason) == ("", "weather", "tool_calls")
            await answer(http, offering(odd))
        assert "You can call functions" not in await http.prompt_text(offering(usual))


async def test_what_no_form_helps_against_is_the_callers_to_hear(demo_model: Path) -> None:
    refused = "{% if 'x' in m.content %}{{ raise_exception('no x here') }}{% endif %}"
    refusal = "{% for m in messages %}" + refused + "{% endfor %}"
    async with templated(demo_model, refusal + PLAIN) as http:
        await http.loaded()
        for tools in ([], TOOLS):
            with pytest.raises(BadRequest, match=r"^this model's chat template does not take .*: no x here$") as caught:
                await answer(http, asked([user("x")], tools=tools))
            assert caught.value.param == "messages"


async def test_untried_every_template_is_left_alone() -> None:
    http = LlamaHttp("http://127.0.0.1:1", "")
    assert http.template == CAN_SAY_ALL
    await http.aclose()
