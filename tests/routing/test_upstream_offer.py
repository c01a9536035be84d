"""Who is asked where there are upstreams, as a table of pure choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from swarm.engines.engine import Capabilities, Engine
from swarm.engines.upstream.address import UpstreamMode, parse_upstream
from swarm.engines.upstream.upstream_http import UpstreamHttp
from swarm.errors import BadRequest, SetupError, SwarmError, Unavailable, UnknownModel
from swarm.generation import GenerationRequest
from swarm.routing.preference import by_preference
from swarm.routing.replicas import Replica
from swarm.routing.upstream import (
    Upstream,
    UpstreamOffer,
    UpstreamPlan,
    Upstreams,
    last_resorts,
    order_for,
    upstream_replicas,
    who_can,
)
from swarm.routing.utilities import EMBED, INFILL, READ, UtilityCall, skilled
from tests.doubles.replicas import replica

MOST, RANKS = Capabilities(embeddings=True, infill=True), Capabilities(rerank=True, generates=False)
HERE = Replica("kitchen", "kitchen", "m", 4, 4, capabilities=MOST)
PEER = Replica("attic", "attic", "m", 4, 4, url="http://attic", capabilities=MOST)
RANKER = Replica("attic", "attic", "ranker", 1, 1, url="http://attic", capabilities=RANKS)
PLAIN = Replica("kitchen", "kitchen", "plain", 4, 4)


def offer(mode: UpstreamMode, *models: str, problem: str | None = None) -> list[UpstreamOffer]:
    """Of the only upstream."""
    return [UpstreamOffer(mode, "cloud", models, models[0] if models else None, 8, 8, problem)]


def two(mode: UpstreamMode, first: Sequence[str], second: Sequence[str]) -> list[UpstreamOffer]:
    """Of two upstreams, the second with less room; what each has, and the first of that for the alias."""
    return [
        UpstreamOffer(mode, host, tuple(models), next(iter(models), None), slots, slots, None, turn)
        for turn, (host, models, slots) in enumerate((("nas", first, 8), ("cloud", second, 2)))
    ]


def asked(model: str, suffix: str | None = None) -> GenerationRequest:
    return GenerationRequest(model=model, prompt="x", suffix=suffix)


def names(replicas: tuple[Replica, ...]) -> list[str]:
    """`model@node` of each."""
    return [f"{replica.model}@{replica.node}" for replica in replicas]


BIG = offer("fallback", "big")


@pytest.mark.parametrize(
    ("request_", "replicas", "offers", "expected"),
    [
        (asked("m"), [HERE, PEER], [], ["m@kitchen", "m@attic"]),
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
        (asked("big"), [HERE], two("fallback", ["big"], ["big", "m"]), ["big@nas"]),
        (asked("swarm"), [], two("fallback", ["small"], ["big"]), ["small@nas"]),
        (asked("m"), [HERE], two("fallback", ["big"], ["big", "m"]), ["m@kitchen"]),
        (asked("swarm"), [HERE], two("voter", ["small"], ["big"]), ["m@kitchen", "small@nas", "big@cloud"]),
        (asked("big"), [], two("only", ["small"], ["big"]), ["big@cloud"]),
        (asked("swarm"), [], two("only", ["small"], ["big"]), ["small@nas", "big@cloud"]),
    ],
)
def test_who_can_answer(
    request_: GenerationRequest, replicas: list[Replica], offers: list[UpstreamOffer], expected: list[str]
) -> None:
    assert names(who_can(request_, replicas, offers)) == expected


@pytest.mark.parametrize(
    ("request_", "replicas", "offers", "error", "words"),
    [
        (asked("x"), [HERE], BIG, UnknownModel, "upstream cloud has big"),
        (asked("x"), [HERE], offer("fallback", problem="cloud is down"), Unavailable, "cloud is down"),
        (asked("swarm"), [], offer("only", problem="cloud is down"), Unavailable, "cloud is down"),
        (asked("plain", "end"), [PLAIN], BIG, BadRequest, "cannot fill in the middle"),
        (asked("ranker"), [RANKER], BIG, BadRequest, "writes no text"),
        (
            asked("x"),
            [HERE],
            two("fallback", ["big"], ["m"]),
            UnknownModel,
            "upstream nas has big; upstream cloud has m",
        ),
        (asked("x"), [HERE], [*BIG, *offer("only", problem="nas is down")], Unavailable, "nas is down"),
    ],
)
def test_who_cannot_says_why(
    request_: GenerationRequest,
    replicas: list[Replica],
    offers: list[UpstreamOffer],
    error: type[SwarmError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        who_can(request_, replicas, offers)


def call(upstream: bool) -> UtilityCall[int]:
    async def run(_: Engine) -> int:
        return 1

    async def above(_: UpstreamHttp, __: str) -> int:
        return 2

    body: dict[str, Any] = {}
    fits, skill = (lambda _: True), EMBED if upstream else READ
    return UtilityCall("x", body, TypeAdapter(int), run, fits, skill, upstream=above if upstream else None)


@pytest.mark.parametrize(
    ("name", "replicas", "offers", "expected"),
    [
        ("m", [HERE, PEER], [], ["m@kitchen", "m@attic"]),
        ("m", [HERE, PEER], BIG, ["m@kitchen", "m@attic"]),
        ("m", [HERE], offer("fallback", "big", "m"), ["m@kitchen", "m@cloud"]),
        ("swarm", [HERE], offer("fallback", "big", "m"), ["m@kitchen", "m@cloud"]),
        ("swarm", [HERE], offer("voter", "big"), ["m@kitchen"]),
        ("swarm", [PLAIN], BIG, ["big@cloud"]),
        ("big", [HERE], BIG, ["big@cloud"]),
        ("swarm", [PEER], offer("only", "big"), ["big@cloud"]),
        ("m", [PEER], offer("only", "big"), ["m@attic"]),
        ("swarm", [HERE], two("fallback", ["m"], ["m"]), ["m@kitchen", "m@nas", "m@cloud"]),
        ("swarm", [PEER], two("only", ["m"], ["big", "m"]), ["m@nas", "m@cloud"]),
        ("swarm", [PEER], two("only", ["m"], ["big"]), ["m@nas"]),
    ],
)
def test_vectors_of_two_models_are_never_mixed(
    name: str, replicas: list[Replica], offers: list[UpstreamOffer], expected: list[str]
) -> None:
    assert names(order_for(call(upstream=True), name, replicas, offers)) == expected


def test_what_an_upstream_has_no_endpoint_for_stays_among_nodes() -> None:
    assert names(order_for(call(upstream=False), "swarm", [HERE], offer("only", "big"))) == ["m@kitchen"]
    with pytest.raises(UnknownModel, match="upstream cloud has big, and is not asked for x"):
        order_for(call(upstream=False), "big", [HERE], BIG)
    with pytest.raises(BadRequest, match="cannot embed"):
        order_for(call(upstream=True), "plain", [PLAIN], BIG)


def test_each_upstream_yields_replicas_of_its_own() -> None:
    """Its own node, room and turn, so that slots, circuits and seats are never counted for another."""
    nas, cloud = upstream_replicas([HERE], two("fallback", ["big", "m"], ["big"]))
    assert (nas.key, nas.slots, cloud.key, cloud.slots) == (
        ("upstream:nas", "big"),
        8,
        ("upstream:cloud", "big"),
        2,
    )
    assert nas.party != cloud.party
    assert by_preference([cloud, nas]) == (nas, cloud), "in the order in which they were named"


def test_whoever_failed_is_followed_by_the_next_upstream() -> None:
    offers = two("fallback", ["big"], ["big"])
    nas, cloud = last_resorts("big", [HERE], offers)
    assert names((nas, cloud)) == ["big@nas", "big@cloud"]
    assert last_resorts("big", [HERE, nas], offers) == (cloud,)
    assert last_resorts("big", [nas, cloud], offers) == ()


def test_two_upstreams_at_one_address_are_refused() -> None:
    plan = UpstreamPlan(parse_upstream("https://api.example.com/v1"))
    with pytest.raises(SetupError, match=r"two upstreams are at api\.example\.com: name each address once"):
        Upstreams([Upstream(plan, "one"), Upstream(plan, "other")])


@pytest.mark.parametrize(
    ("size", "tools", "first"),
    [
        (3_000_000_000, True, "knows"),
        (3_000_000_000, False, "knows none"),
        (1_000_000_000, True, "knows none"),
    ],
)
def test_with_tools_a_model_that_knows_them_is_asked_first_unless_it_is_tiny(
    size: int, tools: bool, first: str
) -> None:
    without = Capabilities(tools=False)
    replicas = [
        replica("here", model="knows none", params=8_000_000_000, capabilities=without),
        replica("attic", model="knows", params=size),
    ]
    spec: Any = [{"type": "function", "function": {"name": "f"}}] if tools else []
    asked = GenerationRequest.model_validate({"model": "swarm", "messages": [], "tools": spec})
    assert by_preference(who_can(asked, replicas))[0].model == first


def test_whether_a_model_that_rests_fills_in_is_found_out_by_loading_it() -> None:
    """No file says so: who runs is known, and of the others the one that is named may."""
    resting = replace(PLAIN, state="available")
    assert names(who_can(asked("plain", "end"), [resting], [])) == names((resting,))
    able = replace(PLAIN, node="attic", capabilities=MOST)
    assert names(who_can(asked("plain", "end"), [resting, able], [])) == names((able,))
    for unable in (replace(resting, capabilities=RANKS), PLAIN):
        with pytest.raises(BadRequest):
            who_can(asked("plain", "end"), [unable], [])
    with pytest.raises(BadRequest, match="cannot fill in the middle"):
        skilled("swarm", [resting], INFILL, [resting])
