"""`swarm providers`, run as a program and against each protocol: the table, models, and one token asked."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.agent.catalogue import ListedModel, ListedModels
from swarm.cli import main
from swarm.commands.providers import check, cost_words, least_costly, model_lines
from swarm.errors import SetupError, SwarmError, Unauthorized
from swarm.providers import PROVIDERS, one_token_request, provider_at
from tests.agent.fake_providers.replies import Refusal, Trouble, Turn
from tests.agent.provider_cases import CASES, Case, asked
from tests.doubles.upstream_server import UpstreamServer

PROGRAM = (sys.executable, "-m", "swarm.cli", "providers")
COMMAND_S = 60
WHOLE: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": "1"}, "finish_reason": "length"}]}


def run(*words: str, data: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    keys = {variable for row in PROVIDERS.values() for variable in row.key_variables} | {"SWARM_PROVIDER_KEY"}
    around = {name: value for name, value in os.environ.items() if name not in keys} | environment
    where = () if data is None else ("--data-dir", str(data))
    command = [*PROGRAM, *words, *where]
    return subprocess.run(
        command, env=around, capture_output=True, text=True, timeout=COMMAND_S, check=False, stdin=subprocess.DEVNULL
    )


async def in_thread(*words: str, data: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, *words, data=data, **environment)


@pytest.fixture
async def server() -> AsyncIterator[UpstreamServer]:
    price = {"prompt": "0.000001", "completion": "0.000002"}
    listing = {
        "data": [
            {"id": "big", "context_length": 200_000, "pricing": price},
            {"id": "free", "pricing": {"prompt": "0", "completion": "0"}},
            {"id": "embed-1"},
        ]
    }
    async with UpstreamServer(listing=listing, whole=WHOLE) as running:
        yield running


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for row in PROVIDERS.values():
        for variable in row.key_variables:
            monkeypatch.delenv(variable, raising=False)
    assert main(["providers"]) == 0
    shown = capsys.readouterr().out
    assert all(any(line.startswith(f"{name} ") for line in shown.splitlines()) for name in PROVIDERS)
    assert "is set" not in shown
    monkeypatch.setenv("GROQ_API_KEY", "gsk-secret")
    assert main(["providers", "list"]) == 0
    assert "GROQ_API_KEY is set" in capsys.readouterr().out
    assert main(["providers", "list", "--json"]) == 0
    told = capsys.readouterr().out
    rows = json.loads(told)["data"]
    assert [row["name"] for row in rows] == list(PROVIDERS)
    assert [row["name"] for row in rows if row["has_key"]] == ["groq"]
    assert "gsk-secret" not in told


async def test_models_are_shown_with_what_is_known_of_them(server: UpstreamServer, tmp_path: Path) -> None:
    shown = await in_thread("models", server.url, data=tmp_path, SWARM_PROVIDER_KEY="sk-own")
    assert shown.returncode == 0, shown.stderr
    assert "200,000" in shown.stdout
    assert server.listed[0]["Authorization"] == "Bearer sk-own"
    told = json.loads((await in_thread("models", server.url, "--json", data=tmp_path)).stdout)
    assert [model["id"] for model in told["data"]] == ["big", "free", "embed-1"]
    assert len(server.listed) == 1, "the list is kept"
    await in_thread("models", server.url, "--anew", data=tmp_path)
    assert len(server.listed) == 2


async def test_a_check_says_the_cost_first_and_asks_one_token(server: UpstreamServer, tmp_path: Path) -> None:
    shown = await in_thread("check", server.url, "--model", "big", "--yes", data=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "is asked for one token: that costs about $0.000018" in shown.stderr
    assert "it works: big answered" in shown.stdout
    (one,) = server.asked
    assert (one.path, one.body["model"], one.body["max_tokens"]) == ("/v1/chat/completions", "big", 1)
    cheapest = await in_thread("check", server.url, "--yes", data=tmp_path)
    assert "free of " in cheapest.stderr
    assert "that costs nothing" in cheapest.stderr
    told = json.loads((await in_thread("check", server.url, "--model", "big", "--yes", "--json", data=tmp_path)).stdout)
    assert (told["model"], told["protocol"], told["dollars"]) == ("big", "chat", 18e-6)


async def test_nothing_is_asked_where_nobody_said_yes(server: UpstreamServer, tmp_path: Path) -> None:
    shown = await in_thread("check", server.url, data=tmp_path)
    assert shown.returncode == 2
    assert "add --yes" in shown.stderr
    assert not server.asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "groq"), "Groq needs a key: set GROQ_API_KEY"),
        (("models", "grop"), "did you mean groq"),
        (("models", "ftp://x"), "base URL"),
        (("check", "openai", "--json"), "needs a key"),
    ],
)
def test_wrong_usage_ends_with_2_and_the_remedy(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    shown = run(*words, data=tmp_path)
    assert shown.returncode == 2
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr


async def test_a_model_that_there_is_not_is_told_the_nearest(server: UpstreamServer, tmp_path: Path) -> None:
    server.status, server.refusal = 404, {"error": {"message": "The model `bigg` does not exist"}}
    shown = await in_thread("check", server.url, "--model", "bigg", "--yes", data=tmp_path)
    assert shown.returncode == 1
    assert "did you mean big?" in shown.stderr


# Each protocol, by what the vendors' own servers take


ASKED = [case for case in CASES if case.protocol != "responses"]


@pytest.mark.parametrize("case", ASKED, ids=str)
async def test_one_token_of_each_provider(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with asked(case, Turn(("1",))) as at:
        code = await check(at.provider, at.fake.key, tmp_path, None, case.model, yes=True, as_json=True)
        (body,) = at.fake.bodies
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["provider"], told["protocol"]) == (case.row, case.protocol)
    limits = (
        body.get("max_tokens"),
        body.get("max_completion_tokens"),
        body.get("generationConfig", {}).get("maxOutputTokens"),
    )
    assert 1 in limits


async def test_one_token_of_a_provider_with_responses_alone(tmp_path: Path) -> None:
    case = Case("openai", "gpt-5.2")
    async with asked(case, Turn(("1",))) as at:
        alone = replace(at.provider, bases={"responses": at.provider.bases["responses"]})
        assert await check(alone, at.fake.key, tmp_path, None, case.model, yes=True, as_json=True) == 0
        assert at.fake.bodies[0]["max_output_tokens"] == 16


@pytest.mark.parametrize("case", ASKED, ids=str)
async def test_a_wrong_key_is_said_once_and_never_shown(case: Case, tmp_path: Path) -> None:
    async with asked(case, Turn(("1",))) as at:
        with pytest.raises(SwarmError) as told:
            await check(at.provider, "sk-wrong-key", tmp_path, None, case.model, yes=True, as_json=True)
        assert "sk-wrong-key" not in str(told.value)
        assert len(at.fake.bodies) <= 1, "who was refused the list is not asked for more"


async def test_a_rate_limit_is_told_with_its_time_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    busy = Refusal(Trouble.RATE_LIMIT, retry_after_s=7)
    async with asked(Case("groq", "openai/gpt-oss-120b"), busy) as at:
        with pytest.raises(SwarmError, match="it says to come back in 7 s"):
            await check(at.provider, at.fake.key, tmp_path, None, at.case.model, yes=True, as_json=True)
    assert len(at.fake.bodies) == 1


async def test_an_expired_key_is_named_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "sk-old")
    async with asked(Case("groq", "openai/gpt-oss-120b"), Turn(("1",))) as at:
        with pytest.raises(Unauthorized, match="Groq refuses the key in GROQ_API_KEY"):
            await check(at.provider, "sk-old", tmp_path, None, at.case.model, yes=True, as_json=True)
        row = replace(at.provider, key_variables=("GOOGLE_API_KEY", "GEMINI_API_KEY"))
        with pytest.raises(Unauthorized, match="the key in GEMINI_API_KEY"):
            await check(row, "sk-old", tmp_path, None, at.case.model, yes=True, as_json=True)


def test_a_key_is_in_no_text_of_a_request() -> None:
    for row in PROVIDERS.values():
        assert "sk-secret" not in repr(one_token_request(row, "m", "sk-secret"))


# Words


def test_the_cheapest_that_answers_questions_is_asked() -> None:
    dear, cheap = ListedModel("dear", None, None, 5, 5), ListedModel("cheap", None, None, 1, 1)
    embedding = ListedModel("text-embedding-3", None, None, 0, 0)
    assert least_costly((dear, cheap, embedding)) == cheap
    assert least_costly((embedding, ListedModel("one"), ListedModel("two"))) == ListedModel("one")
    assert least_costly((embedding,)) is None


async def test_where_no_model_is_known_one_must_be_named(tmp_path: Path) -> None:
    async with UpstreamServer(listing=None, whole=WHOLE) as server:
        row = provider_at(server.url)
        with pytest.raises(SetupError, match="--model NAME"):
            await check(row, None, tmp_path, None, None, yes=True, as_json=True)
        assert await check(row, None, tmp_path, None, "mine", yes=True, as_json=True) == 0


def test_what_is_said_of_age_and_cost() -> None:
    row, models = PROVIDERS["groq"], (ListedModel("m\x1b[31m", 1000),)
    now = 10 * 86_400.0
    for asked_at, words in ((now, "just now"), (now - 7200, "2 h ago"), (0.0, "10 d ago; it is asked anew now")):
        lines = list(model_lines(row, ListedModels(models, asked_at), now))
        assert words in lines[0]
        assert not any("\x1b" in line for line in lines)
    assert "was not asked (down)" in next(model_lines(row, ListedModels(models, None, problem="down"), now))
    assert "not known" in cost_words(None)
