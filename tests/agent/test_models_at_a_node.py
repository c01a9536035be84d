"""The SDKs against a server that neither they nor the fakes are made for: our own node, in three protocols."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from swarm.agent import Agent, Tool
from swarm.agent.events import AgentEvent, TextPiece
from swarm.agent.models import provider_choice
from swarm.errors import NoSuchModel
from swarm.providers import PROVIDERS, ApiProtocol, Provider
from tests.agent.scripted_turns import calls, node_taking

ROWS: dict[ApiProtocol, str] = {"chat": "openai-chat", "responses": "openai", "anthropic": "anthropic"}


def row_at(protocol: ApiProtocol, url: str) -> Provider:
    base = url if protocol == "anthropic" else f"{url}/v1"
    return replace(PROVIDERS[ROWS[protocol]], bases={protocol: base}, needs_key=False)


def read_file(path: str) -> str:
    """Read a file."""
    return f"contents of {path}"


@pytest.mark.parametrize("protocol", ROWS)
async def test_a_node_is_asked_over_each_protocol_that_it_has(protocol: ApiProtocol) -> None:
    script = (calls(("read_file", {"path": "a"}), ("read_file", {"path": "b"})), ["It ", "is done."], ["Again."])
    async with node_taking(*script) as (node, _):
        row = row_at(protocol, node.url)
        choice = await asyncio.to_thread(provider_choice, row, "swarm", environment={})
        events: list[AgentEvent] = []
        async with Agent(choice, tools=[Tool(read_file, reads_only=True)]).session() as session:
            session.subscribe(events.append)
            assert (await session.run("Read both.")).output == "It is done."
            assert "".join(event.text for event in events if isinstance(event, TextPiece)) == "It is done."
            assert (await session.run("And again.")).output == "Again."
        missing = await asyncio.to_thread(provider_choice, row, "no-such-model", environment={})
        with pytest.raises(NoSuchModel):
            await Agent(missing).run("Hello?")


async def test_a_conversation_moves_between_the_protocols_of_one_node() -> None:
    turn = calls(("read_file", {"path": "a"}))
    async with node_taking(turn, ["One."], turn, ["Two."], turn, ["Three."]) as (node, _):
        messages = ()
        for protocol, said in zip(ROWS, ("One.", "Two.", "Three."), strict=True):
            choice = await asyncio.to_thread(provider_choice, row_at(protocol, node.url), "swarm", environment={})
            made = Agent(choice, tools=[Tool(read_file, reads_only=True)])
            async with made.session(messages=messages) as session:
                assert (await session.run(f"Over {protocol}.")).output == said
                messages = session.messages
        assert len(messages) == 12
