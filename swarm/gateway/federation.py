"""What this node does for its peers, under `/federation/v1/`: describe itself, name peers, run voters, generate.

A peer can ask for nothing else, and what it asks is answered by this node alone: nothing is passed on, nothing loops.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from aiohttp import web

from federation import wire
from federation.advertisement import Goodbye, PeerHints
from federation.errors import AddressError
from federation.hostport import parse_address
from swarm.errors import BadRequest, SwarmError, Unavailable, UnknownModel
from swarm.gateway.answers import Asked
from swarm.gateway.keys import ANSWERER, CONDITION, DESCRIBE, DISPATCHER, MEMBERSHIP, POOL
from swarm.gateway.openai import read_body
from swarm.gateway.schemas import ChatCompletionBody, CompletionBody
from swarm.gateway.sse import PEER_HEARTBEAT_S, event_stream
from swarm.generation import Candidate
from swarm.routing.dispatcher import DEFAULT_DEADLINE_S
from swarm.routing.policy import MAX_VOTES, VoteOptions
from swarm.routing.voters import REFUSAL_VOTER, CandidatesBody, local_candidates

log = logging.getLogger(__name__)

MAX_HOPS = 1  # only the node a client asked may fan out


async def node(request: web.Request) -> web.Response:
    """Who this is. A probe says where its own node listens, so that one --peer makes both know each other."""
    caller = request.query.get(wire.FROM_PARAM)
    if caller is not None:
        try:
            address = parse_address(caller)
            request.app[MEMBERSHIP].heard_of(address.host, address.port)
        except AddressError as error:
            log.debug("a probe from %s names no address: %s", request.remote, error)
    return web.Response(text=request.app[DESCRIBE]().model_dump_json(), content_type="application/json")


async def peers(request: web.Request) -> web.Response:
    hints = PeerHints(peers=request.app[MEMBERSHIP].hints())
    return web.Response(text=hints.model_dump_json(), content_type="application/json")


async def goodbye(request: web.Request) -> web.Response:
    """The sender leaves; only a node may say so of itself, which the next probe checks."""
    body = Goodbye.model_validate_json(await request.read())
    request.app[MEMBERSHIP].heard_goodbye(body.id)
    return web.json_response({"status": "ok"})


def deadline_s(request: web.Request) -> float:
    """What is left of the caller's time. Raises BadRequest for a header that is no number, and for a second hop."""
    hops, left_ms = request.headers.get(wire.HOPS_HEADER, "1"), request.headers.get(wire.DEADLINE_HEADER)
    if not hops.isdecimal() or int(hops) > MAX_HOPS:
        raise BadRequest(f"{wire.HOPS_HEADER} is {hops!r}: a request is passed on at most {MAX_HOPS} time")
    if left_ms is None:
        return DEFAULT_DEADLINE_S
    if not left_ms.isdecimal() or not 1 <= int(left_ms) <= DEFAULT_DEADLINE_S * 1000:
        raise BadRequest(f"{wire.DEADLINE_HEADER} is {left_ms!r}: use 1 to {DEFAULT_DEADLINE_S * 1000:.0f}")
    return int(left_ms) / 1000


async def candidates(request: web.Request) -> web.StreamResponse:
    """Run voters on this node and send each whole answer as a JSON line; blank lines say that it still works."""
    left_s = deadline_s(request)
    body = CandidatesBody.model_validate_json(await request.read())
    if not 1 <= body.votes <= MAX_VOTES:
        raise BadRequest(f"votes is {body.votes}; this node runs 1 to {MAX_VOTES}", param="votes")
    workers = request.app[POOL].get(body.request.model)
    if workers is None:
        raise UnknownModel(body.request.model, tuple(state.model_id for state in request.app[POOL].states()))
    if request.app[CONDITION].draining:
        raise Unavailable("this node is shutting down")
    count = min(body.votes, len(workers.workers))
    headers = {"Content-Type": "application/x-ndjson"}
    async with event_stream(request, headers, PEER_HEARTBEAT_S, heartbeat=b"\n") as out:
        answers = local_candidates(workers, body.request, count, request.app[DISPATCHER].node)
        try:
            async with asyncio.timeout(left_s), aclosing(answers):
                async for candidate in answers:
                    await out.write(candidate.model_dump_json(exclude_defaults=True).encode() + b"\n")
        except BadRequest as error:
            if not out.begun:
                raise
            await out.write(Candidate(voter=REFUSAL_VOTER, error=str(error)).model_dump_json().encode() + b"\n")
        except (SwarmError, TimeoutError) as error:
            if not out.begun:
                raise Unavailable(str(error) or "the deadline passed") from error
            log.warning("candidates broken off: %s", error or "the deadline passed")  # the missing lines tell the peer
        except ConnectionResetError:
            log.info("the peer left")
    return out.response


async def generate(request: web.Request) -> web.StreamResponse:
    """One answer to an OpenAI request as a stream, by this node's own workers."""
    deadline_s(request)
    raw = await request.read()
    is_chat = b'"messages"' in raw
    body = await read_body(request, ChatCompletionBody if is_chat else CompletionBody)
    asked = Asked(body.to_request(), VoteOptions("single"), choices=1, stream=True, include_usage=True, local_only=True)
    return await request.app[ANSWERER].answer(request, asked)


def routes() -> list[web.RouteDef]:
    return [
        web.get(wire.NODE_PATH, node),
        web.get(wire.PEERS_PATH, peers),
        web.post(wire.GOODBYE_PATH, goodbye),
        web.post(wire.CANDIDATES_PATH, candidates),
        web.post(wire.GENERATE_PATH, generate),
    ]
