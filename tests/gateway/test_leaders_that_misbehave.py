"""A peer that leads a vote and misbehaves: replaced before its first word, an honest error after it, never believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.doubles.clients import Reply
from tests.doubles.fake_peer import FakePeer, Piece
from tests.gateway.test_peers_that_misbehave import NEVER, candidate, kitchen_with

PROSE = "The sky is blue."


def step(**fields: Any) -> bytes:
    return json.dumps({"leader": fields}).encode() + b"\n"


async def led_by(*pieces: Piece) -> Reply:
    """A streamed vote that a larger model at "attic" leads with these lines; this node's two voters say PROSE."""
    async with kitchen_with(FakePeer("attic", *pieces, model="large", slots=1), PROSE, PROSE) as (client, _):
        return await client.chat(stream=True, swarm={"votes": 3, "stream": "leader"})


def account(reply: Reply) -> dict[str, Any]:
    (told,) = [chunk["swarm"] for chunk in reply.chunks if "swarm" in chunk]
    return told


@pytest.mark.parametrize(
    "pieces",
    [
        [b'{"leader":\n'],
        [b'{"leader":{"text":5}}\n'],
        [b'{"leader":[]}\n'],
        [b'{"leader":{"text":"x"}}{"leader"\n'],
        [step(ended=True)],
        [NEVER()],
    ],
    ids=["half", "a number", "a list", "two", "an end", "silence"],
)
async def test_rubbish_before_the_first_word_costs_the_peer_its_lead(pieces: list[Piece]) -> None:
    reply = await led_by(*pieces)
    assert reply.done, reply.text
    assert reply.said() == PROSE
    assert not account(reply).get("leader", "@kitchen").endswith("@attic")


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"rubbish\n"],
        [step(text=5)],
        [NEVER()],
        [candidate("half and more")],
    ],
    ids=["broke off", "rubbish", "no step", "silent", "never ended"],
)
async def test_what_goes_wrong_in_mid_answer_is_an_error_in_the_stream(pieces: list[Piece]) -> None:
    reply = await led_by(step(text="half "), *pieces)
    assert reply.said() == "half "
    assert reply.chunks[-1]["error"]["code"] == "peer_failed"
    assert not reply.done


async def test_a_peer_that_goes_on_after_its_end_is_not_heard() -> None:
    reply = await led_by(step(text=PROSE), step(ended=True), step(text=" And more."), candidate(PROSE))
    assert reply.done
    assert reply.said() == PROSE
    assert account(reply)["leader"] == "Rex@attic"


async def test_a_peer_of_an_older_version_tells_no_steps_and_votes_all_the_same() -> None:
    reply = await led_by(candidate(PROSE))
    assert reply.done
    assert reply.said() == PROSE
    assert account(reply)["stream"] == "buffer"
    assert account(reply)["votes"] >= 2
