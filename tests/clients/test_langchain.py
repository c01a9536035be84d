"""LangChain's own integration tests for chat models, against `ChatOpenAI` pointed at a node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

# LangChain warns that it takes another way for a pydantic 1 class, which is what that test is about.
pytestmark = pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning")

COMPATIBILITY = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
MOST_TOKENS = 100  # of one answer: where a tiny model goes on and on, a test is to fail soon
JOKE = "asked for a joke under a schema, a model this small mostly writes a text that does not end"
CANNOT = {
    "test_structured_output": JOKE,
    "test_structured_output_async": JOKE,
    "test_structured_output_pydantic_2_v1": JOKE,
    "test_structured_output_optional_param": JOKE,
    "test_json_mode": "a joke with the keys that the request names is more than the model was trained for",
    "test_unicode_tool_call_integration": "the model's 2,048 tokens are of English; it cannot copy Chinese or Japanese",
}
# What some of them prove of the table of clients, beside test_python_chains.py. A subclass may override none of them.
for test, cell in {"test_invoke": "text", "test_stream": "stream", "test_agent_loop": "tools"}.items():
    pytest.mark.client("langchain-openai", cell)(getattr(ChatModelIntegrationTests, test))


class TestChatOpenAI(ChatModelIntegrationTests):
    """Every test passes, or is in CANNOT: a model that learns to do it (but for jokes) fails the test."""

    @pytest_asyncio.fixture(autouse=True)
    async def connect(self, base_url: str, request: pytest.FixtureRequest) -> AsyncIterator[None]:
        """Connections of this test alone: those that LangChain shares outlive the event loop of a test."""
        if reason := CANNOT.get(request.node.originalname):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=reason is not JOKE))
        self._base_url = base_url
        self._plain = DefaultHttpxClient(verify=False)
        async with DefaultAsyncHttpxClient(verify=False) as self._async:
            yield
        self._plain.close()

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """Temperature 0 and one voter, as others are sampled: what the model can answer it answers in every run."""
        return {
            "base_url": self._base_url,
            "api_key": "none",
            "model": "demo",
            "temperature": 0,
            "extra_body": {"swarm": {"strategy": "single"}},
            "max_tokens": MOST_TOKENS,
            "max_retries": 0,
            "stream_usage": True,
            "http_client": self._plain,
            "http_async_client": self._async,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "swarm"


def test_what_the_model_cannot_do_is_documented() -> None:
    documented = COMPATIBILITY.read_text()
    assert [test for test, reason in CANNOT.items() if f"| `{test}` | {reason} |" not in documented] == []
