"""The official OpenAI package as people use it, sync and async, from the question to the end of the loop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, DefaultHttpxClient, NotFoundError, OpenAI
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIMER = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Start a timer",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
    },
}
RESULTS = {"get_weather": {"temperature": 21, "condition": "sunny"}, "set_timer": {"ok": True}}
MOST_TURNS = 4


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def ai(base_url: str) -> Iterator[OpenAI]:
    """Blocking, with the package's own two retries."""
    plain = DefaultHttpxClient(verify=False)
    with OpenAI(base_url=base_url, api_key="none", http_client=plain) as client:
        yield client


def asked(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.mark.client("openai-python", "text")
def test_a_chat_over_two_turns(ai: OpenAI) -> None:
    turns = asked("My name is Anna.")
    first = ai.chat.completions.create(model="demo", messages=turns, temperature=0).choices[0].message
    turns += [first, *asked("What is my name?")]
    answer = ai.chat.completions.create(model="demo", messages=turns, temperature=0)
    assert "Anna" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.client("openai-python", "stream")
def test_a_stream_is_the_whole_answer_in_pieces(ai: OpenAI) -> None:
    question: Any = {"model": "demo", "messages": asked("What is the capital of France?"), "temperature": 0}
    chunks = list(ai.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert "Paris" in text
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


@pytest.mark.client("openai-python", "stream")
def test_the_stream_helper_tells_every_event_in_order(ai: OpenAI) -> None:
    asking = asked("What is the capital of France?")
    with ai.chat.completions.stream(model="demo", messages=asking, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_completion().choices[0]
    kinds = [event.type for event in events if event.type != "chunk"]
    assert kinds == ["content.delta"] * (len(kinds) - 1) + ["content.done"]
    assert "".join(event.delta for event in events if event.type == "content.delta") == final.message.content
    assert final.finish_reason == "stop"


@pytest.mark.client("openai-python", "tools")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("question", "name", "arguments", "told"),
    [
        ("What is the weather in Paris?", "get_weather", {"city": "Paris"}, "sunny"),
        ("Set a timer for 12 minutes.", "set_timer", {"minutes": 12}, "Done"),
    ],
    ids=["weather", "timer"],
)
def test_a_tool_loop_runs_to_its_answer(
    ai: OpenAI, question: str, name: str, arguments: dict[str, Any], told: str, stream: bool
) -> None:
    turns = asked(question)
    calls: list[tuple[str, Any]] = []
    for _ in range(MOST_TURNS):
        message = next_turn(ai, turns, stream)
        turns.append(message)
        for call in message.tool_calls or ():
            calls.append((call.function.name, json.loads(call.function.arguments)))
            result = json.dumps(RESULTS[call.function.name])
            turns.append({"role": "tool", "tool_call_id": call.id, "content": result})
        if not message.tool_calls:
            break
    assert calls == [(name, arguments)]
    assert told in turns[-1].content


def next_turn(ai: OpenAI, turns: list[Any], stream: bool) -> Any:
    # With a seed, because of a vote only the first answer is the one at temperature 0.
    asking: Any = {"model": "demo", "messages": turns, "tools": [WEATHER, TIMER], "temperature": 0, "seed": 7}
    if not stream:
        return ai.chat.completions.create(**asking).choices[0].message
    with ai.chat.completions.stream(**asking) as streaming:
        return streaming.get_final_completion().choices[0].message


@pytest.mark.client("openai-python", "structured")
def test_a_pydantic_model_is_parsed(ai: OpenAI) -> None:
    asking = asked("Give me a JSON object with name Anna and age 30.")
    parsed = ai.chat.completions.parse(
        model="demo", messages=asking, temperature=0, seed=7, response_format=Person, max_tokens=100
    )
    assert parsed.choices[0].message.parsed == Person(name="Anna", age=30)


def test_several_choices_have_their_log_probabilities(ai: OpenAI) -> None:
    answer = ai.chat.completions.create(
        model="demo", messages=asked("Hello"), temperature=0, n=3, logprobs=True, top_logprobs=2, max_tokens=4
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content or ())
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 4, "all choices are counted"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_prompt_is_continued(ai: OpenAI, stream: bool) -> None:
    answer = ai.completions.create(model="demo", prompt="The capital of", temperature=0, max_tokens=5, stream=stream)
    pieces = answer if stream else [answer]
    assert "".join(piece.choices[0].text for piece in pieces)


def test_embeddings_are_the_same_in_both_encodings(ai: OpenAI) -> None:
    packed = ai.embeddings.create(model="demo", input=["hello", "you"])  # base64, by the package's default
    plain = ai.embeddings.create(model="demo", input=["hello", "you"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert plain.usage.total_tokens > 0


def test_models_are_listed_and_found(ai: OpenAI) -> None:
    listed = {model.id for model in ai.models.list()}
    assert {"demo", "swarm"} <= listed
    assert all(ai.models.retrieve(name).id == name for name in listed)
    with pytest.raises(NotFoundError):
        ai.models.retrieve("no-such-model")


@pytest.mark.client("openai-python", "errors")
def test_a_bad_request_is_not_repeated(ai: OpenAI) -> None:
    asking: Any = {"model": "demo", "messages": asked("hello"), "temperature": 99}
    with pytest.raises(BadRequestError) as caught:
        ai.chat.completions.create(**asking)
    assert caught.value.param == "temperature"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
