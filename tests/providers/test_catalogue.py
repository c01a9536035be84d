"""Lists of models: each vendor's form, what a snapshot adds, how a list is kept, and who is asked when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm.agent.catalogue import FRESH_S, ListedModel, ModelLimits, ProviderCatalogue, Snapshot, enriched, read_models
from swarm.errors import SwarmError, Unavailable, UpstreamRefused
from swarm.providers import PROVIDERS, Provider, provider_at
from tests.agent.fake_providers.replies import Turn
from tests.agent.provider_cases import CASES, Case, asked
from tests.doubles.upstream_server import UpstreamServer

GROQ = PROVIDERS["groq"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {  # OpenRouter
                "id": "a/b", "context_length": 200000,
                "pricing": {"prompt": "0.000003", "completion": "0.000015"},
                "top_provider": {"context_length": 100000, "max_completion_tokens": 64000},
            },
            ListedModel("a/b", 200000, 64000, 3.0, 15.0),
        ),
        ({"id": "m", "context_window": 131072, "max_completion_tokens": 65536}, ListedModel("m", 131072, 65536)),
        (
            {  # Google
                "name": "models/gemini-3-pro", "inputTokenLimit": 1048576, "outputTokenLimit": 65536,
                "supportedGenerationMethods": ["generateContent"],
            },
            ListedModel("gemini-3-pro", 1048576, 65536),
        ),
        ({"id": "qwen", "max_model_len": 32768}, ListedModel("qwen", 32768)),  # vLLM
        ({"id": "qwen.gguf", "meta": {"n_ctx_train": 40960}}, ListedModel("qwen.gguf", 40960)),  # llama.cpp
        ({"id": "claude", "max_input_tokens": 200000, "max_tokens": 64000}, ListedModel("claude", 200000, 64000)),
        ({"id": "auto", "pricing": {"prompt": "-1", "completion": "-1"}}, ListedModel("auto")),
        ({"id": "x", "context_length": "many", "pricing": None, "top_provider": 7}, ListedModel("x")),
        ({"id": "x", "context_length": -1, "max_tokens": True, "pricing": {"prompt": "1e300"}}, ListedModel("x")),
        ("plain", ListedModel("plain")),
    ],
)  # fmt: skip
def test_what_a_list_tells_of_a_model(entry: Any, expected: ListedModel) -> None:
    assert read_models({"data": [entry, entry]}) == (expected,)


def test_what_is_no_list_has_no_models() -> None:
    for listing in (None, "models", {"error": "no"}, 7):
        assert read_models(listing) == ()


def test_a_snapshot_fills_in_what_the_list_does_not_tell_and_no_more() -> None:
    told = ListedModel("m", context_tokens=1000)
    known = ListedModel("other-id", context_tokens=9, output_tokens=8, input_dollars=1.0, output_dollars=2.0)
    assert enriched((told, ListedModel("n")), {"m": known}.get) == (
        ListedModel("m", 1000, 8, 1.0, 2.0),
        ListedModel("n"),
    )


def test_what_the_least_question_costs() -> None:
    assert ListedModel("m", input_dollars=1.0, output_dollars=4.0).one_token_dollars == pytest.approx(20e-6)
    assert ListedModel("m", input_dollars=1.0).one_token_dollars is None


@pytest.mark.parametrize(
    ("name", "model"),
    [("openai", "gpt-5.2"), ("anthropic", "claude-sonnet-4-5"), ("google", "gemini-2.5-pro"), ("xai", "grok-4-0709")],
)
def test_the_installed_snapshot_knows_contexts_and_prices(name: str, model: str) -> None:
    pytest.importorskip("genai_prices")
    found = Snapshot().model(PROVIDERS[name], model)
    assert found is not None
    assert found.id == model
    assert found.input_dollars is not None
    assert found.context_tokens is None or found.context_tokens > 100_000
    assert model in {known.id for known in Snapshot().models(PROVIDERS[name])}
    assert Snapshot().model(provider_at("http://box"), model) is None
    assert Snapshot().model(PROVIDERS["zenmux"], model) is None, "whose prices are its own"
    assert Snapshot().model(PROVIDERS[name], "no-such-model") is None


# Kept on the disk


class Asker:
    """Stands for the network: what a provider lists, or the error that asking it raises."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.times = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, provider: Provider, key: str | None, base_url: str | None) -> object:
        self.times += 1
        await self.gate.wait()
        if isinstance(self.answer, SwarmError):
            raise self.answer
        return self.answer


class Known(Snapshot):
    """A snapshot without the library."""

    def __init__(self, *models: ListedModel) -> None:
        self._known = {model.id: model for model in models}

    def model(self, provider: Provider, name: str) -> ListedModel | None:
        return self._known.get(name)

    def models(self, provider: Provider) -> tuple[ListedModel, ...]:
        return tuple(self._known.values())


LISTING = {"data": [{"id": "big", "context_window": 1000}]}
DOWN = Unavailable("upstream api.groq.com does not answer: timed out")


def files_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.json"))


def catalogue(
    folder: Path, ask: Asker, clock: Callable[[], float] = lambda: 0.0, *known: ListedModel
) -> ProviderCatalogue:
    return ProviderCatalogue(folder, ask, clock, lambda: Known(*known))


async def test_a_list_is_asked_for_once_and_then_kept(tmp_path: Path) -> None:
    ask, now = Asker(LISTING), [1000.0]
    async with catalogue(tmp_path, ask, lambda: now[0], ListedModel("big", output_tokens=77)) as at:
        first = await at.models(GROQ, "sk-secret")
        assert first.models == (ListedModel("big", 1000, 77),)
        assert first.asked_at == 1000.0
        now[0] += FRESH_S - 1
        assert await at.models(GROQ, "sk-secret") == first
        assert at.limits(GROQ, "big") == ModelLimits(1000, 77)
    assert ask.times == 1
    (file,) = files_in(tmp_path)
    assert "sk-secret" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


async def test_an_old_list_is_given_at_once_while_it_is_asked_for_anew(tmp_path: Path) -> None:
    ask, now = Asker(LISTING), [1000.0]
    async with catalogue(tmp_path, ask, lambda: now[0]) as at:
        await at.models(GROQ, None)
        now[0] += FRESH_S
        ask.answer, gate = {"data": ["new"]}, ask.gate
        gate.clear()
        assert [model.id for model in (await at.models(GROQ, None)).models] == ["big"]
        assert [model.id for model in (await at.models(GROQ, None)).models] == ["big"], "nobody is asked twice"
        gate.set()
    assert ask.times == 2, "leaving waits for what is being asked"
    kept = catalogue(tmp_path, ask).kept(GROQ)
    assert kept is not None
    assert [model.id for model in kept.models] == ["new"]


async def test_an_old_list_stands_where_the_provider_is_down(tmp_path: Path) -> None:
    ask, now = Asker(LISTING), [1000.0]
    async with catalogue(tmp_path, ask, lambda: now[0]) as at:
        await at.models(GROQ, None)
        now[0] += 9 * FRESH_S
        ask.answer = DOWN
        assert [model.id for model in (await at.models(GROQ, None)).models] == ["big"]
        with pytest.raises(Unavailable):
            await at.models(GROQ, None, anew=True)
        assert at.limits(GROQ, "big") == ModelLimits(1000)


async def test_who_was_never_asked_has_what_the_snapshot_knows(tmp_path: Path) -> None:
    ask = Asker(DOWN)
    async with catalogue(tmp_path, ask, lambda: 0.0, ListedModel("big", 1000, 5)) as at:
        found = await at.models(GROQ, None)
        assert (found.asked_at, found.problem) == (None, str(DOWN))
        assert at.limits(GROQ, "big") == ModelLimits(1000, 5)
        assert at.names(GROQ) == ("big",)
        assert at.limits(GROQ, "unheard-of") == ModelLimits()
        assert at.names(GROQ, "http://127.0.0.1:9/v1") == ()
        with pytest.raises(Unavailable):
            await at.models(GROQ, None, "http://127.0.0.1:9/v1")
    async with catalogue(tmp_path, ask) as at:
        with pytest.raises(Unavailable):
            await at.models(GROQ, None)


async def test_limits_are_learned_once_and_nobody_fails_for_want_of_them(tmp_path: Path) -> None:
    ask = Asker(DOWN)
    async with catalogue(tmp_path, ask) as at:
        await at.learn(GROQ, None)
        assert at.limits(GROQ, "big") == ModelLimits()
        ask.answer = LISTING
        await at.learn(GROQ, None)
        await at.learn(GROQ, None)
        assert at.limits(GROQ, "big") == ModelLimits(1000)
    assert ask.times == 2


async def test_each_address_has_a_list_of_its_own(tmp_path: Path) -> None:
    ask = Asker(LISTING)
    async with catalogue(tmp_path, ask) as at:
        await at.models(GROQ, None)
        ask.answer = {"data": ["other"]}
        found = await at.models(GROQ, None, "http://127.0.0.1:9/../../v1")
        assert [model.id for model in found.models] == ["other"]
        assert at.kept(GROQ) != at.kept(GROQ, "http://127.0.0.1:9/../../v1")
    assert {file.parent for file in files_in(tmp_path)} == {tmp_path}


@pytest.mark.parametrize(
    "spoilt",
    [
        b"", b"{", b"[]", b"7", b"[" * 100_000, b'{"format": 2}', b"\xff\xfe",
        json.dumps({"format": 1, "base": GROQ.base_url, "asked_at": "x", "models": []}).encode(),
        json.dumps({"format": 1, "base": GROQ.base_url, "asked_at": 1, "models": [{"no": "id"}]}).encode(),
        json.dumps({"format": 1, "base": "http://elsewhere", "asked_at": 1, "models": []}).encode(),
    ],
)  # fmt: skip
async def test_a_spoilt_file_is_asked_for_anew(tmp_path: Path, spoilt: bytes) -> None:
    ask = Asker(LISTING)
    async with catalogue(tmp_path, ask) as at:
        await at.models(GROQ, None)
        (file,) = files_in(tmp_path)
        file.write_bytes(spoilt)
        assert at.kept(GROQ) is None
        assert [model.id for model in (await at.models(GROQ, None)).models] == ["big"]
    assert ask.times == 2


async def test_a_folder_that_cannot_be_written_to_costs_only_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with catalogue(tmp_path / "file", Asker(LISTING)) as at:
        assert [model.id for model in (await at.models(GROQ, None)).models] == ["big"]


# Over real sockets


LISTING_CASES = [case for case in CASES if case.row not in ("vertex", "zenmux", "minimax", "kimi-coding")]


@pytest.mark.parametrize("case", LISTING_CASES, ids=str)
async def test_each_vendor_s_list_is_read_with_its_own_headers(case: Case, tmp_path: Path) -> None:
    async with asked(case, Turn(("1",))) as at, ProviderCatalogue(tmp_path, snapshot=Known) as lists:
        found = await lists.models(at.provider, at.fake.key)
        assert {model.id for model in found.models} == {case.model, f"{case.model}-mini", "another-one"}
        (seen,) = at.fake.seen
        assert seen.method == "GET"
        if case.protocol in ("anthropic", "google"):
            assert "authorization" not in seen.headers, "which they take for another kind of key"
        with pytest.raises(UpstreamRefused) as told:
            await lists.models(at.provider, "sk-wrong", anew=True)
    assert "sk-wrong" not in str(told.value)
    assert at.provider.key_variables[0] in str(told.value) or told.value.refusal.status != 502


@pytest.mark.parametrize("written", ["", "/", "/v1", "/v1/"])
async def test_somebody_s_own_server_is_found_as_people_write_it(tmp_path: Path, written: str) -> None:
    async with UpstreamServer() as server, ProviderCatalogue(tmp_path, snapshot=Known) as lists:
        for provider, base_url in ((GROQ, server.url + written), (provider_at(server.url + written), None)):
            found = await lists.models(provider, None, base_url)
            assert [model.id for model in found.models] == ["big"]
