"""Conversations that move from one provider to another, and back: each fake refuses what its cloud refuses."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai import Agent
from pydantic_ai.direct import model_request
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model

from swarm.agent.history import (
    MAX_ID_CHARS,
    REASONING,
    SAFE_ID,
    with_fitting_ids,
    with_thoughts_told,
    without_images,
)
from swarm.agent.models import make_model, vendor_of
from tests.agent.fake_providers.replies import Called, Turn
from tests.agent.fake_providers.server import KEY, FakeProvider
from tests.agent.provider_cases import PROTOCOLS, Case, asked

PICTURE = BinaryContent(data=b"\x89PNG\r\n\x1a\n" + bytes(100), media_type="image/png")


@pytest.fixture(scope="module", autouse=True)
def sdks_are_imported() -> None:
    """They load at the first model of their protocol, which takes longer than a test may hold its loop up."""
    for row in PROTOCOLS:
        make_model(row.provider, row.model, KEY)


def called(ident: str, by: str, name: str = "read") -> ModelResponse:
    return ModelResponse([ToolCallPart(name, {"path": "a"}, tool_call_id=ident)], provider_name=by)


def result(ident: str, name: str = "read") -> ModelRequest:
    return ModelRequest([ToolReturnPart(name, "x", tool_call_id=ident)])


def ids_of(messages: list[ModelMessage]) -> list[tuple[str, str]]:
    """The ids of calls and results, in order."""
    found: list[tuple[str, str]] = []
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                found.append(("call", part.tool_call_id))
            elif isinstance(part, ToolReturnPart):
                found.append(("result", part.tool_call_id))
    return found


# Ids of calls


def test_an_id_goes_back_unchanged_to_whoever_gave_it() -> None:
    """Kimi's models want theirs as they are: functions.read:0."""
    messages: list[ModelMessage] = [called("functions.read:0", "kimi"), result("functions.read:0")]
    assert with_fitting_ids(messages, "kimi") == messages


@pytest.mark.parametrize("ident", ["call|weird:id", "functions.read:0", "c" * 41, "a b", "", "ä", "call\n"])
def test_an_id_that_others_refuse_is_replaced_with_its_result(ident: str) -> None:
    fitted = with_fitting_ids([called(ident, "one"), result(ident)], "another")
    (_, call), (_, answer) = ids_of(fitted)
    assert call == answer
    assert SAFE_ID.fullmatch(call)


@pytest.mark.parametrize("ident", ["call_1", "toolu_01A-b", "x" * MAX_ID_CHARS, "9"])
def test_an_id_that_everybody_takes_stays(ident: str) -> None:
    messages: list[ModelMessage] = [called(ident, "one"), result(ident)]
    assert with_fitting_ids(messages, "another") == messages


def test_the_rule_is_the_documented_one() -> None:
    fitted = with_fitting_ids([called("call|weird:id", "one"), result("call|weird:id")], "another")
    # printf 'call|weird:id' | sha256sum | cut -c1-24
    assert ids_of(fitted)[0] == ("call", "call_b1f2450b1dbdb026f61a3468")


def test_ids_that_are_given_again_each_turn_stay_apart() -> None:
    """Some servers number the calls of every turn from 0; Anthropic refuses a history with the same id twice."""
    turns: list[ModelMessage] = [called("call_0", "one"), result("call_0"), called("call_0", "one"), result("call_0")]
    (_, first), (_, first_result), (_, second), (_, second_result) = ids_of(with_fitting_ids(turns, "another"))
    assert first == first_result == "call_0"
    assert second == second_result != first


@given(
    st.lists(
        st.tuples(st.text(max_size=60) | st.sampled_from(["call_0", "a|b", "a:b"]), st.sampled_from(["here", "there"])),
        max_size=12,
    )
)
@settings(deadline=None, max_examples=300)
def test_no_two_calls_share_an_id_and_results_go_with_their_calls(calls: list[tuple[str, str]]) -> None:
    messages: list[ModelMessage] = []
    for ident, by in calls:
        messages += [called(ident, by), result(ident)]
    fitted = with_fitting_ids(messages, "here")
    ids = ids_of(fitted)
    given_ids = [ident for kind, ident in ids if kind == "call"]
    assert len(set(given_ids)) == len(given_ids)
    assert [ident for kind, ident in ids if kind == "result"] == given_ids
    for (ident, by), fitting in zip(calls, given_ids, strict=True):
        assert SAFE_ID.fullmatch(fitting) or (by == "here" and fitting == ident and "|" not in ident)
    # What follows changes nothing before it: prompts stay in the provider's cache.
    for length in range(0, len(messages), 2):
        assert with_fitting_ids(messages[:length], "here") == fitted[:length]


# Thoughts


def test_thoughts_of_others_are_told_in_their_place() -> None:
    thought = ThinkingPart("Six times seven.\n", signature="sig", provider_name="one")
    response = ModelResponse([thought, TextPart("42")], provider_name="one")
    (told,) = with_thoughts_told([response], lambda _response, _part: False)
    assert told.parts == [TextPart("[Reasoning]\nSix times seven.\n[/Reasoning]"), TextPart("42")]
    assert response.parts[0] is thought  # what is kept of the conversation stays as it was


def test_thoughts_that_nobody_else_can_read_are_left_out() -> None:
    sealed = ThinkingPart("", id="redacted_thinking", signature="sealed", provider_name="one")
    (told,) = with_thoughts_told([ModelResponse([sealed, TextPart("42")])], lambda _response, _part: False)
    assert told.parts == [TextPart("42")]


def test_what_needs_no_change_is_not_copied() -> None:
    messages: list[ModelMessage] = [
        ModelRequest([SystemPromptPart("Be brief."), UserPromptPart("Hi")]),
        ModelResponse([TextPart("Hello.")], provider_name="one"),
    ]
    for moved in (
        with_thoughts_told(messages, lambda _response, _part: False),
        with_fitting_ids(messages, "another"),
        without_images(messages, "model"),
    ):
        assert all(new is old for new, old in zip(moved, messages, strict=True))


@pytest.mark.parametrize(
    ("model", "vendor"), [("claude", ""), ("anthropic/claude", "anthropic"), ("OpenAI/gpt", "openai"), ("", "")]
)
def test_a_maker_is_named_in_front_of_a_slash(model: str, vendor: str) -> None:
    assert vendor_of(model) == vendor


# Images


def test_images_become_a_note_that_says_what_was_left_out() -> None:
    prompt = UserPromptPart(["What is this?", PICTURE, ImageUrl("https://example.com/a.png")])
    returned = ToolReturnPart("look", ["a picture", PICTURE], tool_call_id="call_1")
    alone = ToolReturnPart("look", PICTURE, tool_call_id="call_2")
    (request,) = without_images([ModelRequest([prompt, returned, alone])], "llama")
    assert request.parts[0].content == [
        "What is this?",
        "[An image (image/png, 108 bytes) was left out here: llama cannot see images]",
        "[An image (at an address) was left out here: llama cannot see images]",
    ]
    assert request.parts[1].content == [
        "a picture",
        "[An image (image/png, 108 bytes) was left out here: llama cannot see images]",
    ]
    assert request.parts[2].content == "[An image (image/png, 108 bytes) was left out here: llama cannot see images]"


async def test_who_cannot_see_gets_the_note_and_who_can_gets_the_image() -> None:
    for row in PROTOCOLS:
        async with asked(row, sees_images=False) as there, there.model(sees_images=False) as model:
            response = await Agent(model).run(["What is this?", PICTURE])
            assert response.output == "Hello."
            assert "was left out here" in json.dumps(there.fake.bodies[0])
        async with asked(row, sees_images=True) as there, there.model() as model:
            await Agent(model).run(["What is this?", PICTURE])
            sent = json.dumps(there.fake.bodies[0])
            assert "was left out here" not in sent
            assert "iVBORw0KGgo" in sent


# Between providers

IDS = {
    "chat": ("functions.read:0", "call|weird:id"),
    "responses": (f"call_{'a' * 55}", f"call_{'b' * 55}"),  # 60 characters: Chat Completions take 40
    "anthropic": ("toolu_01", "toolu_02"),
    "google": ("a.b/c", "0"),
    "vertex": ("a.b/c", "0"),
}
"""Ids as a provider may give them and take them back, most of which another refuses."""


def agent_of(model: Model) -> Agent[None, str]:
    agent = Agent(model, instructions="Be brief.")

    @agent.tool_plain
    def read(path: str) -> str:
        """Read a file."""
        return f"contents of {path}"

    return agent


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(PROTOCOLS, 2)), ids=lambda case: str(case))
async def test_a_conversation_moves_to_another_provider_and_back(first: Case, second: Case) -> None:
    """Thoughts, calls with ids that others refuse, and results; the second goes on, then the first again."""
    ids = IDS[first.protocol]
    calls = tuple(Called("read", json.dumps({"path": path}), ident) for path, ident in zip("ab", ids, strict=True))
    turn = Turn(thinking=("My plan is secret.",), calls=calls)
    async with asked(first, turn, Turn(text=("First.",))) as one, asked(second, Turn(text=("Second.",))) as two:
        async with one.model() as model:
            messages = (await agent_of(model).run("Read both.")).all_messages()
        async with two.model() as model:
            agent = agent_of(model)
            result = await agent.run("Go on.", message_history=messages)
            assert result.output == "Second."
            messages = result.all_messages()
        sent = json.dumps(two.fake.bodies[-1])
        assert "contents of a" in sent
        assert "contents of b" in sent
        if first.protocol != "chat":  # OpenAI's Chat shows no thoughts
            assert f"{REASONING[0]}\\nMy plan is secret.\\n{REASONING[1]}" in sent
        one.fake.tell(Turn(text=("Third.",)))
        async with one.model() as model:
            assert (await agent_of(model).run("And now?", message_history=messages)).output == "Third."
        sent = json.dumps(one.fake.bodies[-1])
        assert REASONING[0] not in sent
        assert ("My plan is secret." in sent) == (first.protocol != "chat")
        assert ids[0] in sent


@pytest.mark.parametrize("row", PROTOCOLS[1:], ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_sealed_thought_goes_back_to_whoever_sealed_it_and_to_nobody_else(row: Case, stream: bool) -> None:
    """Newer models show nothing of what they think, and want its seal back with the results of their calls."""
    ident = "" if row.protocol in ("google", "vertex") else "call_1"
    turn = Turn(sealed=True, calls=(Called("read", '{"path": "a"}', ident),))
    async with asked(row, turn, Turn(text=("Done.",))) as there, there.model() as model:
        agent = agent_of(model)
        if stream:
            async with agent.run_stream_events("Read it.") as events:
                results = [event async for event in events]
            messages = results[-1].result.all_messages()  # type: ignore[union-attr]
        else:
            messages = (await agent.run("Read it.")).all_messages()
        (seal,) = seals_of(there.fake)
        assert seal in json.dumps(there.fake.bodies[-1]).replace("_", "/")
    for other in PROTOCOLS:
        if other != row:
            async with asked(other, Turn(text=("Fine.",))) as elsewhere, elsewhere.model() as model:
                assert (await agent_of(model).run("Go on.", message_history=messages)).output == "Fine."
                assert seal not in json.dumps(elsewhere.fake.bodies[-1]).replace("_", "/")


def seals_of(fake: FakeProvider) -> set[str]:
    """What a fake has signed or encrypted."""
    seals: set[str] = getattr(fake.wire, "encrypted", None) or getattr(fake.wire, "signed", set[str]())
    return {seal.replace("_", "/") for seal in seals}


@pytest.mark.parametrize("row", PROTOCOLS, ids=str)
async def test_a_call_that_was_never_answered_is_answered_and_an_answer_without_a_call_is_dropped(row: Case) -> None:
    """An agent that was ended in the middle of a call, and whose conversation is taken up again."""
    orphaned: list[ModelMessage] = [
        ModelRequest([UserPromptPart("Read it.")]),
        called("call_1", "somebody"),
        ModelRequest([UserPromptPart("Never mind.")]),
        ModelResponse([TextPart("As you like.")]),
        result("call_9"),
    ]
    async with asked(row, Turn(text=("Fine.",))) as there, there.model() as model:
        assert (await agent_of(model).run("Go on.", message_history=orphaned)).output == "Fine."
        assert (await model_request(model, [*orphaned, ModelRequest([UserPromptPart("Go on.")])])).text == "Fine."
        assert len(there.fake.bodies) == 2
        for body in there.fake.bodies:
            assert "call_9" not in json.dumps(body)


async def test_a_thought_without_its_signature_is_told_and_not_sent_as_one() -> None:
    """A stream that was left in the middle of a thought has no signature yet."""
    for row in (Case("anthropic", "claude-sonnet-5"), Case("openai", "gpt-5.2")):
        unsigned = ModelResponse([ThinkingPart("Half a", provider_name=row.row), TextPart("x")], provider_name=row.row)
        messages: list[ModelMessage] = [
            ModelRequest([UserPromptPart("Hi")]),
            unsigned,
            ModelRequest([UserPromptPart("?")]),
        ]
        async with asked(row, Turn(text=("Fine.",))) as there, there.model() as model:
            assert (await model_request(model, messages)).text == "Fine."
            assert f"{REASONING[0]}\\nHalf a" in json.dumps(there.fake.bodies[0])


async def test_two_models_of_a_router_do_not_read_each_others_thoughts() -> None:
    signed: dict[str, Any] = {"type": "reasoning.text", "format": "google-gemini-v1", "index": 0}
    thought = ThinkingPart("A plan.", signature="of-gemini", provider_name="openrouter", provider_details=signed)
    response = ModelResponse([thought, TextPart("x")], provider_name="openrouter", model_name="google/gemini-3-flash")
    messages: list[ModelMessage] = [ModelRequest([UserPromptPart("Hi")]), response, ModelRequest([UserPromptPart("?")])]
    row = Case("openrouter", "anthropic/claude-sonnet-4.5")
    async with asked(row, Turn(text=("Fine.",))) as there, there.model() as model:
        assert (await model_request(model, messages)).text == "Fine."
        assert f"{REASONING[0]}\\nA plan." in json.dumps(there.fake.bodies[0])


@pytest.mark.parametrize("thinking", ["off", "high"])
@pytest.mark.parametrize("row", [Case("minimax", "MiniMax-M3"), Case("anthropic", "claude-opus-4-1")], ids=str)
@pytest.mark.filterwarnings("ignore:The model .* is deprecated:DeprecationWarning")
async def test_calls_of_another_are_answered_though_nobody_here_thought_of_them(row: Case, thinking: str) -> None:
    """A run that was ended between a call and what came of it, and is taken up by a model with a budget of thoughts."""
    foreign = ModelResponse(
        [ThinkingPart("A plan.", provider_name="one"), ToolCallPart("read", {"path": "a"}, tool_call_id="c")],
        provider_name="one",
    )
    messages: list[ModelMessage] = [ModelRequest([UserPromptPart("Read it.")]), foreign, result("c")]
    own = Turn(thinking=("Hm.",), calls=(Called("read", '{"path": "a"}', "toolu_1"),))
    async with asked(row, own, Turn(text=("Done.",))) as there, there.model(thinking=thinking) as model:
        assert (await agent_of(model).run("Go on.", message_history=messages)).output == "Done."
        told = [body["thinking"]["type"] for body in there.fake.bodies]
        # With its own calls it thinks again.
        assert told == ["disabled", "disabled" if thinking == "off" else "enabled"]
