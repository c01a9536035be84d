"""Providers of the table with a fake behind them: the same row, its bases on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from swarm.agent.models import ProviderModel, make_model
from swarm.providers import PROVIDERS, ApiProtocol, Provider, protocol_for
from tests.agent.fake_providers.chat import (
    ChatWire,
    OpenRouterWire,
    deepseek_refusal,
    groq_refusal,
    ollama_refusal,
    xai_refusal,
    zai_refusal,
)
from tests.agent.fake_providers.google import GoogleWire
from tests.agent.fake_providers.messages import MessagesWire
from tests.agent.fake_providers.replies import Reply, Wire
from tests.agent.fake_providers.responses import ResponsesWire
from tests.agent.fake_providers.server import KEY, FakeProvider, fake_provider


@dataclass(frozen=True)
class Case:
    """A row with one of its models. `served` is the model's name as the protocol has it in its requests."""

    row: str
    model: str
    served: str = ""

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.row]

    @property
    def protocol(self) -> ApiProtocol:
        return protocol_for(self.provider, self.model)

    def __str__(self) -> str:
        return f"{self.row}-{self.protocol}"


PROTOCOLS = (
    Case("openai-chat", "gpt-5.2"),
    Case("openai", "gpt-5.2"),
    Case("anthropic", "claude-sonnet-5"),
    Case("google", "gemini-3-flash"),
    Case("vertex", "gemini-3-flash"),
)
"""One of each protocol."""

CASES = (
    *PROTOCOLS,
    Case("ollama", "qwen3:8b"),
    Case("xai", "grok-4.5"),
    Case("groq", "openai/gpt-oss-120b"),
    Case("openrouter", "anthropic/claude-sonnet-4.5"),
    Case("deepseek", "deepseek-v4"),
    Case("zai", "glm-5.2"),
    Case("minimax", "MiniMax-M3"),
    Case("kimi-coding", "kimi-for-coding"),
    Case("zenmux", "anthropic/claude-sonnet-4.5"),
    Case("zenmux", "openai/gpt-5.2"),
    Case("zenmux", "google/gemini-3-flash", "gemini-3-flash"),
)
"""Every row, ZenMux in each of its three protocols."""


def wire_of(case: Case, prefix: str, sees_images: bool = True) -> Wire:
    """The protocol as this provider speaks it."""
    match case.protocol:
        case "responses":
            return ResponsesWire(prefix, sees_images=sees_images)
        case "anthropic":
            return MessagesWire(prefix, name=case.row, sees_images=sees_images)
        case "google" | "vertex":
            return GoogleWire(prefix, vertex=case.protocol == "vertex", sees_images=sees_images)
        case "chat":
            pass
    match case.row:
        case "ollama":
            return ChatWire(prefix, "reasoning", ollama_refusal, sees_images)
        case "xai":
            return ChatWire(prefix, "reasoning_content", xai_refusal, sees_images)
        case "groq":
            return ChatWire(prefix, "reasoning", groq_refusal, sees_images)
        case "openrouter":
            return OpenRouterWire(prefix, sees_images=sees_images)
        case "deepseek":
            return ChatWire(prefix, "reasoning_content", deepseek_refusal, sees_images)
        case "zai":
            return ChatWire(prefix, "reasoning_content", zai_refusal, sees_images)
        case _:
            return ChatWire(prefix, sees_images=sees_images)


def prefix_of(case: Case) -> str:
    """The path of the row's base."""
    _, slash, path = case.provider.bases[case.protocol].partition("://")[2].partition("/")
    return slash + path


def at(provider: Provider, base: str) -> Provider:
    """The row with its bases on another host, their paths as they are."""
    moved: dict[ApiProtocol, str] = {}
    for protocol, url in provider.bases.items():
        _, slash, path = url.partition("://")[2].partition("/")
        moved[protocol] = base + slash + path
    return replace(provider, bases=moved)


@dataclass(frozen=True)
class Asked:
    """A fake that runs, and what makes models of it."""

    case: Case
    fake: FakeProvider
    provider: Provider

    def model(self, key: str | None = KEY, name: str | None = None, **options: Any) -> ProviderModel:
        return make_model(self.provider, name or self.case.model, key, **options)


@asynccontextmanager
async def asked(case: Case, *replies: Reply, key: str | None = KEY, sees_images: bool = True) -> AsyncIterator[Asked]:
    """The case's provider, answering with `replies`."""
    wire = wire_of(case, prefix_of(case), sees_images)
    served = case.served or case.model
    async with fake_provider(wire, *replies, key=key, models=(served, f"{served}-mini", "another-one")) as fake:
        yield Asked(case, fake, at(case.provider, fake.base))
