"""Who is asked where there is an upstream, as a table of pure choices."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from swarm.engines.engine import Capabilities, Engine
from swarm.engines.upstream.address import UpstreamMode
from swarm.engines.upstream.client import UpstreamHttp
from swarm.errors import BadRequest, SwarmError, Unavailable, UnknownModel
from swarm.generation import GenerationRequest
from swarm.routing.replicas import Replica
from swarm.routing.upstream import UpstreamOffer, order_for, who_can
from swarm.routing.utilities import EMBED, READ, UtilityCall

MOST, RANKS = Capabilities(embeddings=True, infill=True), Capabilities(rerank=True, generates=False)
HERE = Replica("kitchen", "kitchen", "m", 4, 4, capabilities=MOST)
PEER = Replica("attic", "attic", "m", 4, 4, url="http://attic", capabilities=MOST)
RANKER = Replica("attic", "attic", "ranker", 1, 1, url="http://attic", capabilities=RANKS)
PLAIN = Replica("kitchen", "kitchen", "plain", 4, 4)


def offer(mode: UpstreamMode, *models: str, problem: str | None = None) -> UpstreamOffer:
    return UpstreamOffer(mode, "cloud", models, models[0] if models else None, 8, 8, problem)


def asked(model: str, suffix: str | None = None) -> GenerationRequest:
    return GenerationRequest(model=model, prompt="x", suffix=suffix)


def names(replicas: tuple[Replica, ...]) -> list[str]:
    """`model@node` of each."""
    return [f"{replica.model}@{replica.node}" for replica in replicas]


BIG = offer("fallback", "big")


@pytest.mark.parametrize(
    ("request_", "replicas", "what", "expected"),
    [
        (asked("m"), [HERE, PEER], None, ["m@kitchen", "m@attic"]),
        (asked("m"), [HERE], BIG, ["m@kitchen"]),
        (asked("swarm"), [HERE], BIG, ["m@kitchen"]),
        (asked("big"), [HERE], BIG, ["big@cloud"]),
        (asked("swarm"), [], BIG, ["big@cloud"]),
        (asked("swarm"), [RANKER], BIG, ["big@cloud"]),
        (asked("swarm"), [RANKER], offer("voter", "big"), ["big@cloud"]),
        (asked("swarm"), [HERE], offer("voter", "big"), ["m@kitchen", "big@cloud"]),
        (asked("m"), [HERE], offer("voter", "m"), ["m@kitchen"]),
        (asked("m"), [PEER], offer("only", "m"), ["m@attic", "m@cloud"]),
        (asked("swarm"), [PEER], offer("only", "big"), ["m@attic", "big@cloud"]),
        (asked("swarm", "end"), [PLAIN, HERE], BIG, ["m@kitchen"]),
        (asked("swarm", "end"), [PLAIN], BIG, ["big@cloud"]),
        (asked("swarm", "end"), [PLAIN], offer("voter", "big"), ["big@cloud"]),
    ],
)
def test_who_can_answer(
    request_: GenerationRequest, replicas: list[Replica], what: UpstreamOffer | None, expected: list[str]
) -> None:
    assert names(who_can(request_, replicas, what)) == expected


@pytest.mark.parametrize(
    ("request_", "replicas", "what", "error", "words"),
    [
        (asked("x"), [HERE], BIG, UnknownModel, "upstream cloud has big"),
        (asked("x"), [HERE], offer("fallback", problem="cloud is down"), Unavailable, "cloud is down"),
        (asked("swarm"), [], offer("only", problem="cloud is down"), Unavailable, "cloud is down"),
        (asked("plain", "end"), [PLAIN], BIG, BadRequest, "cannot fill in the middle"),
        (asked("ranker"), [RANKER], BIG, BadRequest, "writes no text"),
    ],
)
def test_who_cannot_says_why(
    request_: GenerationRequest, replicas: list[Replica], what: UpstreamOffer, error: type[SwarmError], words: str
) -> None:
    with pytest.raises(error, match=words):
        who_can(request_, replicas, what)


def call(upstream: bool) -> UtilityCall[int]:
    async def run(_: Engine) -> int:
        return 1

    async def above(_: UpstreamHttp, __: str) -> int:
        return 2

    body: dict[str, Any] = {}
    fits, skill = (lambda _: True), EMBED if upstream else READ
    return UtilityCall("x", body, TypeAdapter(int), run, fits, skill, upstream=above if upstream else None)


@pytest.mark.parametrize(
    ("name", "replicas", "what", "expected"),
    [
        ("m", [HERE, PEER], None, ["m@kitchen", "m@attic"]),
        ("m", [HERE, PEER], BIG, ["m@kitchen", "m@attic"]),
        ("m", [HERE], offer("fallback", "big", "m"), ["m@kitchen", "m@cloud"]),
        ("swarm", [HERE], offer("fallback", "big", "m"), ["m@kitchen", "m@cloud"]),
        ("swarm", [HERE], offer("voter", "big"), ["m@kitchen"]),
        ("swarm", [PLAIN], BIG, ["big@cloud"]),
        ("big", [HERE], BIG, ["big@cloud"]),
        ("swarm", [PEER], offer("only", "big"), ["big@cloud"]),
        ("m", [PEER], offer("only", "big"), ["m@attic"]),
    ],
)
def test_vectors_of_two_models_are_never_mixed(
    name: str, replicas: list[Replica], what: UpstreamOffer | None, expected: list[str]
) -> None:
    assert names(order_for(call(upstream=True), name, replicas, what)) == expected


def test_what_an_upstream_has_no_endpoint_for_stays_among_nodes() -> None:
    assert names(order_for(call(upstream=False), "swarm", [HERE], offer("only", "big"))) == ["m@kitchen"]
    with pytest.raises(UnknownModel, match="upstream cloud has big, and is not asked for x"):
        order_for(call(upstream=False), "big", [HERE], BIG)
    with pytest.raises(BadRequest, match="cannot embed"):
        order_for(call(upstream=True), "plain", [PLAIN], BIG)
