"""Votes through the official packages: every mode streams to its end, parses, and brings its `swarm` object along."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import Anthropic
from anthropic import DefaultHttpxClient as AnthropicHttp
from openai import BadRequestError, DefaultHttpxClient, OpenAI

from swarm.consensus.options import STREAM_MODES
from tests.e2e.node_process import NodeProcess

SUM: Any = [{"role": "user", "content": "Calculate 12 + 7 - 3"}]


def vote(**more: object) -> dict[str, Any]:
    return {"swarm": {"votes": 3, **more}}


@pytest.mark.parametrize("mode", STREAM_MODES)
def test_openai_streams_a_vote_in_every_mode(base_url: str, mode: str) -> None:
    with OpenAI(base_url=base_url, api_key="none", http_client=DefaultHttpxClient(verify=False)) as ai:
        with ai.chat.completions.stream(model="swarm", messages=SUM, extra_body=vote(stream=mode)) as events:
            for _ in events:
                pass
            chat = events.get_final_completion()
        assert "Answer:" in (chat.choices[0].message.content or "")
        with ai.responses.stream(model="swarm", input=SUM, extra_body=vote(stream=mode)) as events:
            kinds = [event.type for event in events]
            response = events.get_final_response()
        assert kinds[-1] == "response.completed"
        assert "Answer:" in response.output_text
        assert (response.model_extra or {})["swarm"]["wanted"] == 3
        chunks = list(
            ai.chat.completions.create(model="swarm", messages=SUM, stream=True, extra_body=vote(stream=mode))
        )
        assert (chunks[-1].model_extra or {})["swarm"]["stream"] in (mode, "buffer")


@pytest.mark.parametrize("mode", STREAM_MODES)
def test_anthropic_streams_a_vote_in_every_mode(node: NodeProcess, mode: str) -> None:
    with Anthropic(base_url=node.url, api_key="none", http_client=AnthropicHttp(verify=False)) as claude:
        with claude.messages.stream(model="swarm", max_tokens=60, messages=SUM, extra_body=vote(stream=mode)) as events:
            kinds = [event.type for event in events]
            message = events.get_final_message()
        assert kinds[-1] == "message_stop"
        assert "Answer:" in "".join(block.text for block in message.content if block.type == "text")


def test_whole_votes_parse_and_tell_of_themselves(base_url: str, node: NodeProcess) -> None:
    with OpenAI(base_url=base_url, api_key="none", http_client=DefaultHttpxClient(verify=False)) as ai:
        raw = ai.chat.completions.with_raw_response.create(model="swarm", messages=SUM, extra_body=vote())
        assert int(raw.headers["X-Swarm-Votes"]) >= 2
        assert (raw.parse().model_extra or {})["swarm"]["wanted"] == 3
        assert (ai.responses.create(model="swarm", input=SUM, extra_body=vote()).model_extra or {})["swarm"]
        completion = ai.completions.create(model="swarm", prompt="Once", max_tokens=8, extra_body=vote())
        assert (completion.model_extra or {})["swarm"]
    with Anthropic(base_url=node.url, api_key="none", http_client=AnthropicHttp(verify=False)) as claude:
        message = claude.messages.create(model="swarm", max_tokens=60, messages=SUM, extra_body=vote())
        assert (message.model_extra or {})["swarm"]["wanted"] == 3


def test_a_contradiction_is_a_bad_request_that_names_its_field(base_url: str) -> None:
    with OpenAI(base_url=base_url, api_key="none", http_client=DefaultHttpxClient(verify=False)) as ai:
        with pytest.raises(BadRequestError) as caught:
            ai.chat.completions.create(model="swarm", messages=SUM, extra_body={"swarm": {"votes": 1000}})
        assert caught.value.param == "swarm.votes"
        assert "1 to 32" in caught.value.message
