"""The table of providers: each row, whose key and base count, which protocol, and the words for levels of thought."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from swarm.errors import SetupError
from swarm.generation import JsonObject
from swarm.providers import (
    ANTHROPIC_BUDGETS,
    API_PROTOCOLS,
    FOREIGN_KEY_VARIABLE,
    MAX_KEY_CHARS,
    PROVIDERS,
    THINKING_LEVELS,
    ApiProtocol,
    Provider,
    ThinkingLevel,
    base_for,
    is_foreign,
    key_for,
    key_variables_at,
    listing_request,
    missing_key,
    protocol_for,
    provider_at,
    provider_named,
    thinking_fields,
)

ROWS = [pytest.param(row, id=row.name) for row in PROVIDERS.values()]
ELSEWHERE = "https://proxy.example/v1"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_whole(row: Provider) -> None:
    assert row.protocol in row.bases
    assert set(row.bases) <= set(API_PROTOCOLS)
    for base in row.bases.values():
        parts = urlsplit(base)
        assert not base.endswith("/")
        assert not parts.query
        assert parts.scheme == "https" or parts.hostname == "127.0.0.1"
    assert row.key_variables
    assert all(name.isupper() and name.endswith("_KEY") for name in row.key_variables)
    assert provider_named(row.name) is row
    assert provider_named(row.name.upper()) is row


def test_every_provider_of_the_product_has_a_row() -> None:
    assert list(PROVIDERS) == [
        "openai", "openai-chat", "anthropic", "google", "vertex", "ollama", "xai", "groq", "openrouter", "deepseek",
        "zai", "minimax", "kimi-coding", "zenmux",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "meant"),
    [("gemini", "google"), ("grok", "xai"), ("kimi", "kimi-coding"), ("claude", "anthropic"), ("Z.AI", "zai")],
)
def test_what_people_call_them(said: str, meant: str) -> None:
    assert provider_named(said).name == meant


@pytest.mark.parametrize(
    ("said", "near"),
    [("grop", "groq"), ("open-router", "openrouter"), ("antropic", "anthropic"), ("gemmini", "google")],
)
def test_a_slip_is_told_the_nearest(said: str, near: str) -> None:
    with pytest.raises(SetupError, match=f"'{said}': did you mean {near}"):
        provider_named(said)


def test_a_name_that_is_like_none_is_told_all() -> None:
    with pytest.raises(SetupError, match=r"'qqq'.*there are openai, .*zenmux.*base URL") as told:
        provider_named("qqq")
    assert "did you mean" not in str(told.value)


def test_any_base_url_is_a_provider() -> None:
    found = provider_named("http://box:11434/v1/")
    assert found == provider_at("http://box:11434/v1")
    assert (found.name, found.base_url, found.protocol) == ("box:11434", "http://box:11434/v1", "chat")
    assert not found.needs_key
    assert provider_at("http://[::1]:8000").name == "[::1]:8000"
    assert provider_at("http://box:11434/").base_url == "http://box:11434/v1", "as people write it"
    assert base_for(PROVIDERS["groq"], "http://box:11434") == "http://box:11434/v1"
    assert base_for(PROVIDERS["anthropic"], "http://box:11434") == "http://box:11434"


@pytest.mark.parametrize(
    "url",
    ["ftp://box", "http://", "http://user:secret@box", "http://box/v1?key=secret", "http://box#secret", "http://[::1", "http://box:x"],
)  # fmt: skip
def test_what_is_no_base_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(SetupError, match="base URL") as told:
        provider_named(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "model", "base", "spoken"),
    [
        ("zenmux", "google/gemini-2.5-pro", None, "vertex"),
        ("zenmux", "Gemini-3", None, "vertex"),
        ("zenmux", "openai/gpt-5.2", None, "responses"),
        ("zenmux", "gpt-oss-120b", None, "responses"),
        ("zenmux", "anthropic/claude-opus-5", None, "anthropic"),
        ("zenmux", "deepseek/deepseek-v4", None, "anthropic"),
        ("zenmux", "anthropic/claude-opus-4.6:google", None, "anthropic"),
        ("zenmux", "google/gemini-2.5-pro", "https://zenmux.ai/other", "vertex"),
        ("zenmux", "google/gemini-2.5-pro", ELSEWHERE, "chat"),
        ("openai", "gpt-5.2", None, "responses"),
        ("openai", "gpt-5.2", ELSEWHERE, "chat"),
        ("openai-chat", "gpt-5.2", None, "chat"),
        ("anthropic", "claude-opus-5", ELSEWHERE, "anthropic"),
        ("google", "gemini-3-pro", None, "google"),
        ("vertex", "gemini-3-pro", None, "vertex"),
        ("minimax", "MiniMax-M3", None, "anthropic"),
        ("kimi-coding", "kimi-for-coding", None, "anthropic"),
        ("groq", "openai/gpt-oss-120b", None, "chat"),
    ],
)
def test_the_protocol(name: str, model: str, base: str | None, spoken: ApiProtocol) -> None:
    assert protocol_for(PROVIDERS[name], model, base) == spoken


def test_the_base_is_the_options_then_the_models_then_the_providers() -> None:
    row = PROVIDERS["zenmux"]
    assert base_for(row, "http://a/v1/", "http://b/v1") == "http://a/v1"
    assert base_for(row, None, "http://b/v1/") == "http://b/v1"
    assert base_for(row) == "https://zenmux.ai/api/anthropic"
    assert base_for(row, protocol="vertex") == "https://zenmux.ai/api/vertex-ai"
    with pytest.raises(SetupError, match="Groq has no anthropic API: it speaks chat, responses"):
        base_for(PROVIDERS["groq"], protocol="anthropic")
    with pytest.raises(SetupError, match="base URL"):
        base_for(row, "zenmux.ai")


@pytest.mark.parametrize("row", ROWS)
def test_the_key_is_the_options_then_the_configured_then_of_the_environment(row: Provider) -> None:
    around = {variable: f"from-{variable}" for variable in row.key_variables}
    assert key_for(row, "option", "configured", around) == "option"
    assert key_for(row, None, "configured", around) == "configured"
    assert key_for(row, " ", "", around) == f"from-{row.key_variables[0]}"
    assert key_for(row, None, None, {row.key_variables[-1]: " last "}) == "last"
    assert key_for(row, None, None, {FOREIGN_KEY_VARIABLE: "other", "OTHER_API_KEY": "other"}) is None
    assert row.key_variables[0] in missing_key(row)


@pytest.mark.parametrize("row", ROWS)
def test_no_key_of_a_provider_goes_to_a_foreign_host(row: Provider) -> None:
    around = dict.fromkeys(row.key_variables, "secret")
    assert is_foreign(row, ELSEWHERE)
    assert key_for(row, None, None, around, ELSEWHERE) is None
    assert key_for(row, None, None, around | {FOREIGN_KEY_VARIABLE: "theirs"}, ELSEWHERE) == "theirs"
    assert key_for(row, "option", None, around, ELSEWHERE) == "option"
    assert FOREIGN_KEY_VARIABLE in missing_key(row, ELSEWHERE)
    for base in row.bases.values():
        assert not is_foreign(row, f"{base}/deeper")
        assert is_foreign(row, base.replace("https:", "http:")) == base.startswith("https:")
        assert key_for(row, None, None, around, base) == "secret"


@pytest.mark.parametrize("bad", ["line\nbreak", "ключ", "x" * (MAX_KEY_CHARS + 1)])
def test_what_is_no_key_is_refused_and_not_quoted(bad: str) -> None:
    row = PROVIDERS["groq"]
    for option, configured, variable in ((bad, None, ""), (None, bad, ""), (None, None, bad)):
        with pytest.raises(SetupError, match="is not a key") as told:
            key_for(row, option, configured, {"GROQ_API_KEY": variable})
        assert bad not in str(told.value)


def levels(*words: JsonObject) -> dict[ThinkingLevel, JsonObject]:
    return dict(zip(THINKING_LEVELS, words, strict=True))


def effort(word: str) -> JsonObject:
    return {"reasoning_effort": word}


def efforts(*words: str) -> dict[ThinkingLevel, JsonObject]:
    return levels(*map(effort, words))


NOTHING: JsonObject = {}
ON: JsonObject = {"thinking": {"type": "enabled"}}
OFF: JsonObject = {"thinking": {"type": "disabled"}}
BUDGETS = {"off": OFF} | {
    level: {"thinking": {"type": "enabled", "budget_tokens": tokens}} for level, tokens in ANTHROPIC_BUDGETS.items()
}


def adaptive(word: str) -> JsonObject:
    return {"thinking": {"type": "adaptive"}, "output_config": {"effort": word}}


def reasoning(word: str) -> JsonObject:
    return {"reasoning": {"effort": word} if word == "none" else {"effort": word, "summary": "auto"}}


def routed(word: str) -> JsonObject:
    return {"reasoning": {"enabled": True, "effort": word}}


def gemini(level: str | int, shown: bool = True) -> JsonObject:
    config: JsonObject = {"includeThoughts": True} if shown else {}
    return {"thinkingConfig": config | {"thinkingBudget" if isinstance(level, int) else "thinkingLevel": level}}


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("openai-chat", "gpt-5.2", efforts("none", "low", "low", "medium", "high", "xhigh")),
        ("openai-chat", "gpt-5.1", efforts("none", "low", "low", "medium", "high", "high")),
        ("openai-chat", "gpt-5-mini", efforts("minimal", "minimal", "low", "medium", "high", "high")),
        ("openai-chat", "o3", efforts("low", "low", "low", "medium", "high", "high")),
        ("openai", "gpt-5.2", levels(*map(reasoning, ("none", "low", "low", "medium", "high", "xhigh")))),
        ("ollama", "qwen3:8b", efforts("none", "low", "low", "medium", "high", "high")),
        ("xai", "grok-4.3", efforts("none", "low", "low", "medium", "high", "high")),
        ("groq", "qwen/qwen3-32b", efforts("none", *["default"] * 5)),
        ("groq", "openai/gpt-oss-120b", efforts("low", "low", "low", "medium", "high", "high")),
        ("groq", "llama-3.3-70b-versatile", levels(*[NOTHING] * 6)),
        (
            "openrouter", "z-ai/glm-5",
            levels({"reasoning": {"enabled": False}}, *map(routed, ("minimal", "low", "medium", "high", "xhigh"))),
        ),
        (
            "deepseek", "deepseek-v4-pro",
            levels(OFF, *(ON | effort(word) for word in ("low", "low", "high", "high", "max"))),
        ),
        ("deepseek", "deepseek-chat", levels(OFF, *[ON] * 5)),
        ("zai", "glm-4.7", levels(OFF, *[ON] * 5)),
        ("zai", "glm-5.3", efforts("low", "low", "low", "high", "high", "max")),
        ("anthropic", "claude-sonnet-4-5-20250929", BUDGETS),
        ("anthropic", "claude-opus-4-20250514", BUDGETS),
        ("anthropic", "claude-opus-5", levels(OFF, *map(adaptive, ("low", "low", "medium", "high", "max")))),
        ("minimax", "MiniMax-M3", BUDGETS),
        ("kimi-coding", "kimi-for-coding", BUDGETS),
        ("google", "gemini-2.5-flash", levels(gemini(0, False), *map(gemini, (128, 2048, 8192, 24576, 24576)))),
        ("google", "gemini-2.5-pro", levels(gemini(128, False), *map(gemini, (128, 2048, 8192, 24576, 24576)))),
        (
            "vertex", "gemini-3-flash",
            levels(gemini("MINIMAL", False), *map(gemini, ("MINIMAL", "LOW", "MEDIUM", "HIGH", "HIGH"))),
        ),
        (
            "vertex", "gemini-3.1-pro-preview",
            levels(gemini("LOW", False), *map(gemini, ("LOW", "LOW", "MEDIUM", "HIGH", "HIGH"))),
        ),
        ("zenmux", "anthropic/claude-opus-4.1", BUDGETS),
        ("zenmux", "anthropic/claude-opus-4.6", levels(OFF, *map(adaptive, ("low", "low", "medium", "high", "max")))),
        ("zenmux", "openai/gpt-5.2", levels(*map(reasoning, ("none", "low", "low", "medium", "high", "xhigh")))),
        (
            "zenmux", "google/gemini-2.5-flash",
            levels(gemini(0, False), *map(gemini, (128, 2048, 8192, 24576, 24576))),
        ),
    ],
)  # fmt: skip
def test_each_level_in_each_dialect(name: str, model: str, expected: dict[ThinkingLevel, JsonObject]) -> None:
    assert {level: thinking_fields(PROVIDERS[name], model, level) for level in THINKING_LEVELS} == expected


@pytest.mark.parametrize("name", ["openai", "groq", "deepseek", "zenmux"])
def test_a_foreign_base_is_told_in_openais_words(name: str) -> None:
    assert thinking_fields(PROVIDERS[name], "some-model", "high", ELSEWHERE)["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    "row", [row for row in PROVIDERS.values() if row.protocol == "anthropic"], ids=lambda row: row.name
)
def test_a_list_elsewhere_is_asked_for_with_the_key_where_the_answers_are(row: Provider) -> None:
    asked = listing_request(row, "sk-1", ELSEWHERE)
    assert asked is not None
    assert asked.headers["x-api-key"] == "sk-1"
    assert asked.headers["Authorization"] == "Bearer sk-1"


@pytest.mark.parametrize("row", PROVIDERS.values(), ids=lambda row: row.name)
def test_where_a_key_is_looked_for_is_what_is_said_of_it(row: Provider) -> None:
    assert key_variables_at(row) == row.key_variables
    assert key_variables_at(row, ELSEWHERE) == ("SWARM_PROVIDER_KEY",)
