"""Providers of models by name: where each is, how it speaks, whose key it takes, how it is told to think. Pure.

A row of `PROVIDERS` is all that a provider needs; any base URL that has no row is one of its own (`provider_at`). Bases
and variables are those of the vendors' documentation and SDKs as of autumn 2026. Nothing here is asked over a network.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import quote, urlsplit

from pydantic import JsonValue

from swarm.errors import SetupError
from swarm.generation import JsonObject

ApiProtocol = Literal["chat", "responses", "anthropic", "google", "vertex"]
"""OpenAI's Chat Completions or Responses, Anthropic's Messages, Google's GenAI, and the same at Vertex' URLs."""
API_PROTOCOLS: Final[tuple[ApiProtocol, ...]] = get_args(ApiProtocol)

ThinkingLevel = Literal["off", "minimal", "low", "medium", "high", "xhigh"]
THINKING_LEVELS: Final[tuple[ThinkingLevel, ...]] = get_args(ThinkingLevel)

ThinkingDialect = Literal["effort", "object", "switch", "groq", "none"]
"""How Chat Completions are told to think; the other protocols have one way each.

`effort`: OpenAI's `reasoning_effort`. `object`: OpenRouter's `reasoning`. `switch`: `thinking` is enabled or disabled,
and an effort where the model takes one. `groq`: an effort, in words that depend on the model's family.
"""

Lack = Literal["images", "embeddings", "json_schema", "logprobs", "seed", "model_list"]
"""What a provider is documented not to have: `json_schema` is strict structured output over Chat."""

ModelList = Literal["openai", "anthropic", "google", "none"]
"""Where models are listed: `/models` below the Chat base, `/v1/models` with Anthropic's headers, `/v1beta/models`."""

FOREIGN_KEY_VARIABLE: Final = "SWARM_PROVIDER_KEY"  # for a base URL that is no provider's own
MAX_KEY_CHARS: Final = 4096  # JSON web tokens have a few hundred
LIKENESS: Final = 0.6  # of a name to the one that is meant, as difflib counts


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider. `bases` has the base URL of each protocol that it speaks; `protocol` is the one to take.

    `key_variables` are environment variables, the first that is set counts; `needs_key` False where it may do without.
    `dialect` is how thinking is asked for over Chat. `notes` are for people.
    """

    name: str
    title: str
    protocol: ApiProtocol
    bases: Mapping[ApiProtocol, str]
    key_variables: tuple[str, ...]
    dialect: ThinkingDialect = "effort"
    lacks: frozenset[Lack] = frozenset()
    model_list: ModelList = "openai"
    needs_key: bool = True
    adaptive: bool = False
    notes: str = ""

    @property
    def base_url(self) -> str:
        """The base of the protocol to take."""
        return self.bases[self.protocol]

    @property
    def chat_base(self) -> str | None:
        """The base of its OpenAI-compatible API, None where the vendor has none."""
        return self.bases.get("chat")


def _rows(*rows: Provider) -> Mapping[str, Provider]:
    return {row.name: row for row in rows}


PROVIDERS: Final[Mapping[str, Provider]] = _rows(
    Provider(
        "openai", "OpenAI (Responses)", "responses",
        {"responses": "https://api.openai.com/v1", "chat": "https://api.openai.com/v1"},
        ("OPENAI_API_KEY",),
    ),
    Provider(
        "openai-chat", "OpenAI (Chat Completions)", "chat",
        {"chat": "https://api.openai.com/v1", "responses": "https://api.openai.com/v1"},
        ("OPENAI_API_KEY",),
        notes="no thoughts are shown over this protocol",
    ),
    Provider(
        "anthropic", "Anthropic", "anthropic",
        {"anthropic": "https://api.anthropic.com", "chat": "https://api.anthropic.com/v1"},
        ("ANTHROPIC_API_KEY",), "none",
        lacks=frozenset({"embeddings", "logprobs", "seed"}), model_list="anthropic",
        notes="its OpenAI-compatible API is for trying out: no thoughts, no prompt caching",
    ),
    Provider(
        "google", "Google Gemini", "google",
        {
            "google": "https://generativelanguage.googleapis.com",
            "chat": "https://generativelanguage.googleapis.com/v1beta/openai",
        },
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"), model_list="google",
    ),
    Provider(
        "vertex", "Google Vertex AI", "vertex",
        {"vertex": "https://aiplatform.googleapis.com"},
        ("GOOGLE_CLOUD_API_KEY", "GOOGLE_API_KEY"),
        lacks=frozenset({"model_list"}), model_list="none",
        notes="with an API key (express mode); a project's own address is a base URL",
    ),
    Provider(
        "ollama", "Ollama", "chat",
        {"chat": "http://127.0.0.1:11434/v1"},
        ("OLLAMA_API_KEY",), needs_key=False,
        notes="a key only for ollama.com",
    ),
    Provider(
        "xai", "xAI", "chat",
        {"chat": "https://api.x.ai/v1", "responses": "https://api.x.ai/v1"},
        ("XAI_API_KEY",),
    ),
    Provider(
        "groq", "Groq", "chat",
        {"chat": "https://api.groq.com/openai/v1", "responses": "https://api.groq.com/openai/v1"},
        ("GROQ_API_KEY",), "groq", lacks=frozenset({"embeddings", "logprobs"}),
    ),
    Provider(
        "openrouter", "OpenRouter", "chat",
        {"chat": "https://openrouter.ai/api/v1"},
        ("OPENROUTER_API_KEY",), "object",
        notes="lists models without a key",
    ),
    Provider(
        "deepseek", "DeepSeek", "chat",
        {"chat": "https://api.deepseek.com", "anthropic": "https://api.deepseek.com/anthropic"},
        ("DEEPSEEK_API_KEY",), "switch",
        lacks=frozenset({"images", "embeddings", "json_schema", "seed"}),
    ),
    Provider(
        "zai", "Z.AI", "chat",
        {"chat": "https://api.z.ai/api/paas/v4", "anthropic": "https://api.z.ai/api/anthropic"},
        ("ZAI_API_KEY",), "switch", lacks=frozenset({"json_schema"}),
        notes="a coding plan's base is https://api.z.ai/api/coding/paas/v4",
    ),
    Provider(
        "minimax", "MiniMax", "anthropic",
        {"anthropic": "https://api.minimax.io/anthropic", "chat": "https://api.minimax.io/v1"},
        ("MINIMAX_API_KEY",), "none",
        notes="over Chat, older models write their thoughts into the text; in China the host is api.minimaxi.com",
    ),
    Provider(
        "kimi-coding", "Kimi Coding", "anthropic",
        {"anthropic": "https://api.kimi.com/coding", "chat": "https://api.kimi.com/coding/v1"},
        ("KIMI_API_KEY",), "switch", lacks=frozenset({"embeddings"}),
        notes="keys of the coding plan alone (sk-kimi-), not those of Moonshot's platform",
    ),
    Provider(
        "zenmux", "ZenMux", "anthropic",
        {
            "anthropic": "https://zenmux.ai/api/anthropic",
            "responses": "https://zenmux.ai/api/v1",
            "vertex": "https://zenmux.ai/api/vertex-ai",
            "chat": "https://zenmux.ai/api/v1",
        },
        ("ZENMUX_API_KEY",), adaptive=True,
        notes="the protocol follows from the model's name",
    ),
)  # fmt: skip
OTHER_NAMES: Final[Mapping[str, str]] = {
    "gemini": "google", "grok": "xai", "kimi": "kimi-coding", "x.ai": "xai", "z.ai": "zai", "claude": "anthropic",
    "google-vertex": "vertex",
}  # fmt: skip


def provider_named(name: str) -> Provider:
    """The provider called `name`, or at it where it is a base URL. Raises SetupError, with the nearest name."""
    if "://" in name:
        return provider_at(name)
    asked = name.strip().lower()
    if (row := PROVIDERS.get(OTHER_NAMES.get(asked, asked))) is not None:
        return row
    near = difflib.get_close_matches(asked, [*PROVIDERS, *OTHER_NAMES], n=1, cutoff=LIKENESS)
    meant = f"did you mean {OTHER_NAMES.get(near[0], near[0])}? " if near else ""
    raise SetupError(
        f"no provider is called {name[:80]!r}: {meant}there are {', '.join(PROVIDERS)}, and any base URL of an "
        "OpenAI-compatible API, like http://127.0.0.1:11434/v1"
    )


def provider_at(base_url: str) -> Provider:
    """A provider without a row: an OpenAI-compatible API at `base_url`. Raises SetupError for what is no http URL."""
    host = _host(base_url)
    return Provider(host, host, "chat", {"chat": _with_version(base_url)}, (FOREIGN_KEY_VARIABLE,), needs_key=False)


def is_foreign(provider: Provider, base_url: str | None) -> bool:
    """Whether `base_url` is on no host of the provider's own, or unencrypted where those are not.

    The provider's usual key does not go there, and of its protocols only the usual one is taken to be spoken.
    """
    if base_url is None:
        return False
    return not any(
        _host(base) == _host(base_url) and urlsplit(base).scheme == urlsplit(base_url.strip()).scheme
        for base in provider.bases.values()
    )


def protocol_for(provider: Provider, model: str, base_url: str | None = None) -> ApiProtocol:
    """What to speak for `model`.

    At ZenMux it follows from the model's name, without what stands behind a colon: `google` or `gemini` is Vertex,
    `openai` or `gpt` Responses, every other Anthropic's. A foreign base of a provider with OpenAI's newer or with
    several protocols speaks Chat, which is what such servers have.
    """
    if is_foreign(provider, base_url) and (provider.adaptive or provider.protocol == "responses"):
        return "chat"
    if not provider.adaptive:
        return provider.protocol
    name = model.lower().partition(":")[0]
    if "google" in name or "gemini" in name:
        return "vertex"
    return "responses" if "openai" in name or "gpt" in name else "anthropic"


def base_for(
    provider: Provider, option: str | None = None, of_model: str | None = None, protocol: ApiProtocol | None = None
) -> str:
    """The base URL: the option's, else the model's own, else the provider's for `protocol` (None: its usual one).

    Raises SetupError where the provider does not speak that protocol.
    """
    if given := option or of_model:
        _host(given)
        is_openai = (protocol or provider.protocol) in ("chat", "responses")
        return _with_version(given) if is_openai else given.strip().rstrip("/")
    if (base := provider.bases.get(protocol or provider.protocol)) is None:
        raise SetupError(
            f"{provider.title} has no {protocol} API: it speaks {', '.join(provider.bases)}; give a base URL that does"
        )
    return base


def key_variables_at(provider: Provider, base_url: str | None = None) -> tuple[str, ...]:
    """Where a provider's key is looked for when it is asked at `base_url` (None: at its own address)."""
    return (FOREIGN_KEY_VARIABLE,) if is_foreign(provider, base_url) else provider.key_variables


def key_for(
    provider: Provider,
    option: str | None,
    configured: str | None,
    environment: Mapping[str, str],
    base_url: str | None = None,
) -> str | None:
    """The key: the option's, else the configured one, else of the environment; None where there is none.

    A provider's own variables go to its own hosts alone: for a foreign `base_url`, `FOREIGN_KEY_VARIABLE` counts.
    Raises SetupError for what cannot be a key; no message quotes it.
    """
    found = [("the key given", option), ("the key configured", configured)]
    found += [(variable, environment.get(variable)) for variable in key_variables_at(provider, base_url)]
    for where, value in found:
        if value is not None and value.strip():
            return checked_key(value.strip(), where)
    return None


def checked_key(key: str, where: str) -> str:
    """`key`, if it can stand in a header. Raises SetupError that says `where` it is from, and does not quote it."""
    if len(key) > MAX_KEY_CHARS or not (key.isascii() and key.isprintable()):
        raise SetupError(f"{where} is not a key: it must be plain ASCII of at most {MAX_KEY_CHARS} characters")
    return key


def missing_key(provider: Provider, base_url: str | None = None) -> str:
    """What to say where a provider needs a key and there is none."""
    return f"{provider.title} needs a key: set {' or '.join(key_variables_at(provider, base_url))} in the environment"


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One request as it goes out; without a `body` it is a GET. `headers` may hold the key."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: JsonObject | None = None


def listing_request(provider: Provider, key: str | None, base_url: str | None = None) -> ProviderRequest | None:
    """What asks for the provider's own list of models, all of it on one page; None where it has none."""
    foreign = is_foreign(provider, base_url)
    if provider.model_list == "none" and not foreign:
        return None
    if provider.model_list == "anthropic" and not foreign:
        root = (base_url or provider.bases["anthropic"]).rstrip("/").removesuffix("/v1")
        return ProviderRequest(f"{root}/v1/models?limit=1000", auth_headers("anthropic", key))
    if provider.model_list == "google" and not foreign:
        return ProviderRequest(f"{provider.bases['google']}/v1beta/models?pageSize=1000", auth_headers("google", key))
    base = base_for(provider, base_url if foreign else None, None, "chat")
    headers = auth_headers("chat", key)
    if (
        foreign and provider.protocol == "anthropic"
    ):  # a server that speaks it elsewhere may take its key in this header alone
        headers = {**headers, **auth_headers("anthropic", key)}
    return ProviderRequest(f"{base}/models", headers)


def one_token_request(
    provider: Provider, model: str, key: str | None, base_url: str | None = None, of_model: str | None = None
) -> ProviderRequest:
    """What asks `model` for as little as can be asked for, over the protocol that it is spoken to in.

    Responses answer with 16 tokens at least, so that where there is Chat beside them it is asked.
    """
    protocol = protocol_for(provider, model, base_url or of_model)
    if protocol == "responses" and "chat" in provider.bases:
        protocol = "chat"
    base, headers = base_for(provider, base_url, of_model, protocol), auth_headers(protocol, key)
    messages: JsonValue = [{"role": "user", "content": ONE_TOKEN_PROMPT}]
    match protocol:
        case "chat":
            # OpenAI's reasoning models know no max_tokens, others nothing else
            limit = "max_completion_tokens" if provider.name.startswith("openai") else "max_tokens"
            return ProviderRequest(
                f"{base}/chat/completions", headers, {"model": model, limit: 1, "messages": messages}
            )
        case "responses":
            body: JsonObject = {"model": model, "max_output_tokens": 16, "input": ONE_TOKEN_PROMPT, "store": False}
            return ProviderRequest(f"{base}/responses", headers, body)
        case "anthropic":
            root = base.removesuffix("/v1")
            return ProviderRequest(
                f"{root}/v1/messages", headers, {"model": model, "max_tokens": 1, "messages": messages}
            )
        case "google" | "vertex":
            publisher, _, name = model.rpartition("/")
            version = "v1beta/models" if protocol == "google" else f"v1/publishers/{publisher or 'google'}/models"
            contents: JsonValue = [{"role": "user", "parts": [{"text": ONE_TOKEN_PROMPT}]}]
            asked: JsonObject = {"contents": contents, "generationConfig": {"maxOutputTokens": 1}}
            return ProviderRequest(f"{base}/{version}/{quote(name, safe='')}:generateContent", headers, asked)


def auth_headers(protocol: ApiProtocol, key: str | None) -> Mapping[str, str]:
    """The headers in which a key goes to a vendor that is spoken to in `protocol`."""
    match protocol:
        case "chat" | "responses":
            return {"Authorization": f"Bearer {key}"} if key else {}
        case "anthropic":
            return {"anthropic-version": ANTHROPIC_VERSION} | ({"x-api-key": key} if key else {})
        case "google" | "vertex":
            return {"x-goog-api-key": key} if key else {}


ONE_TOKEN_PROMPT: Final = "Say 1."
ONE_TOKEN_PROMPT_TOKENS: Final = 16  # with what templates add: enough for an estimate of the cost
ANTHROPIC_VERSION: Final = "2023-06-01"
ANTHROPIC_BUDGETS: Final[Mapping[ThinkingLevel, int]] = {
    "minimal": 1024, "low": 2048, "medium": 10_000, "high": 16_384, "xhigh": 32_768,
}  # fmt: skip
"""Tokens of thought; 1,024 is the least that Anthropic takes. `max_tokens` must be above it."""
GOOGLE_BUDGETS: Final[Mapping[ThinkingLevel, int]] = {
    "off": 0, "minimal": 128, "low": 2048, "medium": 8192, "high": 24_576, "xhigh": 24_576,
}  # fmt: skip
"""Tokens of thought of Gemini 2.5: 24,576 is the most of Flash, 128 the least of Pro, which cannot be at 0."""
BUDGETED_CLAUDES: Final = (
    "claude-3", "claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-2", "claude-opus-4-5", "claude-sonnet-4-0",
    "claude-sonnet-4-2", "claude-sonnet-4-5", "claude-haiku-4-5",
)  # fmt: skip
"""Claudes whose thinking has a budget (4-2: dates, 2025…); the later ones decide themselves, told an effort."""


def thinking_fields(provider: Provider, model: str, level: ThinkingLevel, base_url: str | None = None) -> JsonObject:
    """The fields of a request's body that ask `model` to think at `level`, in the words of what is spoken there.

    Levels that a dialect has not become its nearest. `off` is the least that the model takes: some always think.
    Empty where the provider has no such field. For Google's protocols, fields of `generationConfig`.
    """
    name = model.lower().rpartition("/")[2].partition(":")[0]
    match protocol_for(provider, model, base_url):
        case "responses":
            effort = _openai_effort(name, level)
            return {"reasoning": {"effort": effort} if level == "off" else {"effort": effort, "summary": "auto"}}
        case "anthropic":
            return _anthropic_thinking(name, level)
        case "google" | "vertex":
            return {"thinkingConfig": _google_thinking(name, level)}
        case "chat":
            return _chat_thinking("effort" if is_foreign(provider, base_url) else provider.dialect, name, level)


def _chat_thinking(dialect: ThinkingDialect, name: str, level: ThinkingLevel) -> JsonObject:
    match dialect:
        case "effort":
            return {"reasoning_effort": _openai_effort(name, level)}
        case "object":
            return {"reasoning": {"enabled": False} if level == "off" else {"enabled": True, "effort": level}}
        case "switch":
            return _switched_thinking(name, level)
        case "groq":
            if "qwen" in name:
                return {"reasoning_effort": "none" if level == "off" else "default"}
            # gpt-oss always thinks
            word: dict[ThinkingLevel, str] = {"off": "low", "minimal": "low", "xhigh": "high"}
            return {"reasoning_effort": word.get(level, level)} if "gpt-oss" in name else {}
        case "none":
            return {}


def _openai_effort(name: str, level: ThinkingLevel) -> str:
    """OpenAI's word, and xAI's and Ollama's, which have no `minimal` and nothing above `high`.

    Reasoning models before GPT-5.1 cannot be at `none`; `minimal` was GPT-5's alone, `xhigh` came with GPT-5.2.
    """
    if name == "gpt-5" or name.startswith(("gpt-5-", "gpt-5.0")):
        return {"off": "minimal", "xhigh": "high"}.get(level, level)
    if name.startswith(("o1", "o3", "o4")):
        return {"off": "low", "minimal": "low", "xhigh": "high"}.get(level, level)
    if name.startswith("gpt-5.1"):
        return {"off": "none", "minimal": "low", "xhigh": "high"}.get(level, level)
    if name.startswith("gpt-"):
        return {"off": "none", "minimal": "low"}.get(level, level)
    return {"off": "none", "minimal": "low", "xhigh": "high"}.get(level, level)


def _anthropic_thinking(name: str, level: ThinkingLevel) -> JsonObject:
    if level == "off":
        return {"thinking": {"type": "disabled"}}
    if name.startswith("claude-") and not name.replace(".", "-").startswith(BUDGETED_CLAUDES):
        effort = {"minimal": "low", "xhigh": "max"}.get(level, level)
        return {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
    return {"thinking": {"type": "enabled", "budget_tokens": ANTHROPIC_BUDGETS[level]}}


def _google_thinking(name: str, level: ThinkingLevel) -> JsonObject:
    shown: JsonObject = {} if level == "off" else {"includeThoughts": True}
    if name.startswith(("gemini-1", "gemini-2")):
        least = GOOGLE_BUDGETS["minimal"] if "pro" in name else 0
        return {**shown, "thinkingBudget": max(GOOGLE_BUDGETS[level], least)}
    least_level = "LOW" if "pro" in name else "MINIMAL"
    word: dict[ThinkingLevel, JsonValue] = {"off": least_level, "minimal": least_level, "xhigh": "HIGH"}
    return {**shown, "thinkingLevel": word.get(level, level.upper())}


def _switched_thinking(name: str, level: ThinkingLevel) -> JsonObject:
    """DeepSeek's, Z.AI's and Kimi's: their efforts are `low`, `high` and `max`, of the models that take one."""
    effort = {"minimal": "low", "medium": "high", "xhigh": "max"}.get(level, level)
    if name.startswith(("glm-5.3", "kimi-k3")):  # they always think
        return {"reasoning_effort": "low" if level == "off" else effort}
    if level == "off":
        return {"thinking": {"type": "disabled"}}
    on: JsonObject = {"thinking": {"type": "enabled"}}
    takes_effort = name.startswith(("glm-5.2", "deepseek-v4", "deepseek-flash"))
    return {**on, "reasoning_effort": effort} if takes_effort else on


def _with_version(url: str) -> str:
    """The base of an OpenAI API as it is meant: `http://box:11434` is written for `http://box:11434/v1`."""
    base = url.strip().rstrip("/")
    return base if urlsplit(base).path else f"{base}/v1"


def _host(url: str) -> str:
    """Host and port of an http or https URL. Raises SetupError."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SetupError(f"a base URL is no URL ({error}): give one like https://api.openai.com/v1") from error
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or parts.query or parts.fragment:
        # Not quoted: whatever stands there may be a key.
        raise SetupError(
            "a base URL must be a plain http or https address like https://api.openai.com/v1, without a user, a query "
            "or a fragment: the key belongs in the environment"
        )
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"
