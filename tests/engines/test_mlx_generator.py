"""What mlx-lm makes behind the contract of a generator, on the CPU, with the embedded model: skipped where not made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.hosted.generator import Broke, Called, LoadOrder, Piece, Read
from swarm.engines.mlx.engine import LIBRARY
from swarm.errors import BadRequest, EngineFailed, UnknownArchitecture
from swarm.registry.embedded import embedded_folder
from tests.doubles.generator_process import GREEDY, GeneratorProcess, end_of, text_of, tokens_of
from tests.doubles.made_engines import made_engine

HF = embedded_folder() / "hf"
SLOTS, CONTEXT_TOKENS = 5, 1024
ORDER = LoadOrder(HF, CONTEXT_TOKENS, SLOTS, threads=1, reading_threads=1)
WARM = replace(GREEDY, temperature=1.5)
LOOK = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def mlx() -> Iterator[GeneratorProcess]:
    process = GeneratorProcess(LIBRARY.module, made_engine("mlx").packages, ORDER)
    yield process
    process.close()


def test_what_was_loaded_is_said(mlx: GeneratorProcess) -> None:
    facts = mlx.facts
    assert (facts.slots, facts.context_tokens, facts.layers) == (SLOTS, CONTEXT_TOKENS, 4)
    assert (facts.eos_token, facts.longest_token_bytes) == ("<|im_end|>", 16)
    assert set(facts.controls) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert "<tool_call>" in facts.chat_template
    assert facts.forms
    assert facts.reads_calls
    assert not facts.embeds


def test_a_seed_gives_the_same_answer_alone_and_among_others(mlx: GeneratorProcess) -> None:
    prompt, hot = mlx.chat("Tell me a story about a fox."), replace(GREEDY, temperature=4.0)
    alone = [tokens_of(mlx.run(mlx.job(prompt, 1, replace(hot, seed=7 + n)))[0]) for n in range(4)]
    (several,) = mlx.run(mlx.job(prompt, 4, hot))
    assert [tokens_of(several, n) for n in range(4)] == alone
    assert len(set(alone)) == 4
    mixed, other = mlx.run(mlx.job(prompt, 2, hot), mlx.job(mlx.chat("What is 2+3?"), 2))
    assert [tokens_of(mixed, n) for n in range(2)] == alone[:2]
    assert tokens_of(other, 0) == tokens_of(other, 1)


def test_several_answers_share_one_reading_of_their_prompt(mlx: GeneratorProcess) -> None:
    prompt = mlx.tokens("unread until now " * 60)
    (events,) = mlx.run(mlx.job(prompt, SLOTS, max_tokens=3))
    assert [event.job for event in events if isinstance(event, Read)] == [events[0].job]
    assert {end_of(events, n).prompt_tokens for n in range(SLOTS)} == {len(prompt)}
    assert {end_of(events, n).cached_tokens for n in range(SLOTS)} == {end_of(events).cached_tokens}
    (again,) = mlx.run(mlx.job(prompt, SLOTS, max_tokens=3))
    assert end_of(again).cached_tokens == len(prompt) - 1
    assert [tokens_of(again, n) for n in range(SLOTS)] == [tokens_of(events, n) for n in range(SLOTS)]


def test_a_conversation_is_not_read_twice(mlx: GeneratorProcess) -> None:
    """Its next turn has the answer in it; another conversation comes between; a turn is taken back."""
    first = mlx.tokens("a conversation that goes on " * 30)
    (one,) = mlx.run(mlx.job(first, max_tokens=8))
    mlx.run(mlx.job(mlx.tokens("something else " * 80), max_tokens=4))
    second = (*first, *tokens_of(one), *mlx.tokens(" and then?"))
    (two,) = mlx.run(mlx.job(second, max_tokens=8))
    assert end_of(two).cached_tokens >= len(first) + len(tokens_of(one)) - 1
    taken_back = (*first, *mlx.tokens(" or not?"))
    (three,) = mlx.run(mlx.job(taken_back, max_tokens=8))
    assert end_of(three).cached_tokens >= len(first) - 1
    (fresh,) = mlx.run(mlx.job((5, *taken_back), max_tokens=8))
    assert end_of(fresh).cached_tokens < len(first) // 2


def test_log_probabilities_are_the_models_own(mlx: GeneratorProcess) -> None:
    """A bias draws another token, whose probability stays as it was."""
    prompt = mlx.chat("What is 2+3?")
    (plain,) = mlx.run(mlx.job(prompt, 1, replace(GREEDY, top_logprobs=3), max_tokens=2))
    first = next(event for event in plain if isinstance(event, Piece))
    assert first.logprobs is not None
    top = first.logprobs.top
    assert [each.logprob for each in top] == sorted((each.logprob for each in top), reverse=True)
    assert top[0] == first.logprobs.drawn
    assert [each.text for each in top] == mlx.pieces([each.token for each in top])
    biased = replace(GREEDY, top_logprobs=0, logit_bias=((top[2].token, 100.0), (10**6, 5.0)))
    (changed,) = mlx.run(mlx.job(prompt, 1, biased, max_tokens=1))
    drawn = next(event for event in changed if isinstance(event, Piece)).logprobs
    assert drawn is not None
    assert (drawn.drawn.token, drawn.top) == (top[2].token, ())
    assert drawn.drawn.logprob == pytest.approx(top[2].logprob, abs=0.05)


@pytest.mark.parametrize(
    "changed",
    [{"top_k": 1}, {"top_p": 1e-6}, {"top_p": 0.0}, {"min_p": 1.0}],
    ids=str,
)
def test_what_leaves_one_token_takes_the_likeliest(mlx: GeneratorProcess, changed: dict[str, Any]) -> None:
    prompt = mlx.chat("What is 2+3?")
    (likeliest,) = mlx.run(mlx.job(prompt, max_tokens=6))
    (drawn,) = mlx.run(mlx.job(prompt, 1, replace(WARM, **changed), max_tokens=6))
    assert tokens_of(drawn) == tokens_of(likeliest)


@pytest.mark.parametrize(
    "changed", [{"repeat_penalty": 1e6}, {"presence_penalty": 100.0}, {"frequency_penalty": 100.0}], ids=str
)
def test_penalties_keep_tokens_from_coming_again(mlx: GeneratorProcess, changed: dict[str, Any]) -> None:
    bias = tuple((token, 50.0) for token in mlx.tokens(" one two three"))
    (drawn,) = mlx.run(mlx.job(mlx.tokens("Say"), 1, replace(GREEDY, logit_bias=bias, **changed), max_tokens=12))
    tokens = tokens_of(drawn)
    assert len(set(tokens)) == len(tokens)


def test_answers_keep_their_schema(mlx: GeneratorProcess) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"enum": [1, 2, 3]}, "sure": {"type": "boolean"}},
        "required": ["answer", "sure"],
        "additionalProperties": False,
    }
    (events,) = mlx.run(mlx.job(mlx.chat("What is 1+1?"), 4, WARM, max_tokens=200, schema=schema))
    for choice in range(4):
        said = json.loads(text_of(events, choice))
        assert (said["answer"] in (1, 2, 3), type(said["sure"])) == (True, bool)
        assert end_of(events, choice).reason == "stop"


def test_calls_come_whole_and_their_text_is_not_shown(mlx: GeneratorProcess) -> None:
    prompt = mlx.chat("What is the weather in Paris?", [LOOK])
    (events,) = mlx.run(mlx.job(prompt, 2, tools=(LOOK,), chat=True))
    assert [
        (event.choice, event.index, event.name, event.arguments) for event in events if isinstance(event, Called)
    ] == [(choice, 0, "get_weather", '{"city": "Paris"}') for choice in range(2)]
    assert text_of(events) == b""
    assert {event.kind for event in events if isinstance(event, Piece)} == {"call"}
    assert end_of(events).completion_tokens == len(tokens_of(events)) + 1
    (as_text,) = mlx.run(mlx.job(prompt))
    assert text_of(as_text).startswith(b"<tool_call>\n{")


def test_a_call_of_no_tool_can_be_made_again(mlx: GeneratorProcess) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    (events,) = mlx.run(mlx.job(mlx.chat("What is the weather in Paris?", [LOOK]), tools=(other,), chat=True))
    broke = events[-1]
    assert isinstance(broke, Broke)
    assert (broke.kind, "'get_weather' is none of them" in broke.message) == ("unreadable", True)
    assert mlx.busy() == 0


def test_one_answer_of_several_is_stopped_and_the_others_go_on(mlx: GeneratorProcess) -> None:
    prompt = mlx.chat("Tell me a story about a fox.")
    (whole,) = mlx.run(mlx.job(prompt, 3, WARM))
    events = mlx.stopped(mlx.job(prompt, 3, WARM), after=6, choice=1)
    assert [tokens_of(events, n) for n in (0, 2)] == [tokens_of(whole, n) for n in (0, 2)]
    assert len(tokens_of(events, 1)) < len(tokens_of(whole, 1))
    assert mlx.busy() == 0


def test_what_is_stopped_computes_nothing_more_and_is_not_read_again(mlx: GeneratorProcess) -> None:
    prompt = mlx.tokens("to be stopped " * 40)
    endless = replace(GREEDY, logit_bias=tuple((token, -100.0) for token in mlx.tokens("<|im_end|>", special=True)))
    mlx.stopped(mlx.job(prompt, 2, endless, max_tokens=900), after=3)
    assert mlx.busy() == 0
    (events,) = mlx.run(mlx.job(prompt, max_tokens=2))
    assert end_of(events).cached_tokens == len(prompt) - 1


def test_bytes_of_characters_and_control_tokens(mlx: GeneratorProcess) -> None:
    text = "é 日本 <|im_end|>"
    assert b"".join(mlx.pieces(mlx.tokens(text))).decode() == text
    (end,) = mlx.tokens("<|im_end|>", special=True)
    assert end not in mlx.tokens(text)
    assert mlx.pieces([end]) == [b"<|im_end|>"]
    begin = mlx.tokens("<|im_start|>", special=True)[0]
    (events,) = mlx.run(mlx.job(mlx.chat("Hello"), 1, replace(GREEDY, logit_bias=((begin, 1000.0),)), max_tokens=3))
    assert tokens_of(events) == (begin,) * 3
    assert text_of(events) == b""  # no text stands for it
    with pytest.raises(BadRequest, match="not tokens of this model"):
        mlx.pieces([10**6])


def test_half_a_surrogate_pair_is_a_character_that_cannot_be_read(mlx: GeneratorProcess) -> None:
    assert b"".join(mlx.pieces(mlx.tokens("a \ud800 b"))) == b"a ? b"
    assert b"a ? b" in b"".join(mlx.pieces(mlx.chat("a \ud800 b")))


@pytest.mark.parametrize(
    ("prompt", "changed", "words"),
    [
        ((), {}, "the prompt is empty"),
        ((10**6,), {}, "not tokens of this model"),
        ((5,) * CONTEXT_TOKENS, {}, f"has {CONTEXT_TOKENS} tokens, and the context {CONTEXT_TOKENS}"),
        ((5,), {"schema": {"type": "string", "minLength": 2, "maxLength": 1}}, "cannot be kept: Unsatisfiable schema"),
    ],
)
def test_what_can_never_work_is_said(
    mlx: GeneratorProcess, prompt: tuple[int, ...], changed: dict[str, Any], words: str
) -> None:
    (events,) = mlx.run(mlx.job(prompt, **changed))
    (broke,) = events
    assert isinstance(broke, Broke)
    assert broke.kind == "bad request"
    assert words in broke.message


def test_the_context_ends_an_answer(mlx: GeneratorProcess) -> None:
    (events,) = mlx.run(
        mlx.job((5,) * (CONTEXT_TOKENS - 3), 1, replace(GREEDY, logit_bias=((7, 100.0),)), max_tokens=99)
    )
    assert (end_of(events).reason, end_of(events).completion_tokens) == ("length", 3)


def test_a_template_that_refuses_says_why(mlx: GeneratorProcess) -> None:
    with pytest.raises(BadRequest, match="chat template does not take this conversation"):
        mlx.ask("render", messages=[], tools=[LOOK], variables={"add_generation_prompt": True})


@pytest.mark.parametrize(
    ("config", "order", "kind", "words"),
    [
        ({"model_type": "of_the_future"}, ORDER, UnknownArchitecture, "of_the_future not supported"),
        ({"model_file": "evil.py"}, ORDER, EngineFailed, "could not load .* custom module .*: download it again"),
        ({"hidden_size": 96}, ORDER, EngineFailed, "could not load .*: download it again, or take the model's GGUF"),
        (None, ORDER, EngineFailed, "could not load .* did not match any variant .*: download it again"),
        ({}, replace(ORDER, cache_type="q8_0"), EngineFailed, "not as q8_0: leave kv_cache out for this model"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_said(
    tmp_path: Path, config: dict[str, Any] | None, order: LoadOrder, kind: type[EngineFailed], words: str
) -> None:
    packages = made_engine("mlx").packages
    folder = Path(shutil.copytree(HF, tmp_path / "model"))
    (folder / "evil.py").write_text("raise SystemExit('it was run')")
    usual = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**usual, **(config or {})}))
    if config is None:
        (folder / "tokenizer.json").write_text('{"model": {"type": "none"}}')
    with pytest.raises(kind, match=words):
        GeneratorProcess(LIBRARY.module, packages, replace(order, path=folder))
