"""What this node does for its peers, under `/federation/v1/`: describe itself, name peers, run voters, generate.

A peer can ask for nothing else, and what it asks is answered by this node alone: nothing is passed on, nothing loops.
What peers send are OpenAI's bodies, and how many answers are wanted. Calls that generate nothing are answered as one
line, after heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import Annotated

from aiohttp import web
from pydantic import Discriminator, Field, RootModel, Tag

from federation import wire
from federation.advertisement import Goodbye, PeerHints
from federation.errors import RosterError
from federation.roster import Roster
from swarm.consensus.options import MAX_VOTES, Strategy
from swarm.errors import BadRequest, DeadlineExceeded, Forbidden, Unavailable, UnknownModel
from swarm.gateway.answers.answer_form import NDJSON, PACING, open_stream
from swarm.gateway.answers.answer_service import ANSWER_SERVICE, refuse_impossible
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.answers.request_context import AnswerRequest
from swarm.gateway.http.access_middleware import MEMBER
from swarm.gateway.http.bodies import BODY_BYTES, Part, json_response, read_body
from swarm.gateway.http.keys import CONDITION, DESCRIBE, DISPATCHER, LIST_LOADABLE, MEMBERSHIP, POOL, TRUST
from swarm.gateway.observing.node_states import NODE_STATES
from swarm.gateway.observing.usage import spend
from swarm.gateway.openai.bodies import ChatCompletionBody, CompletionBody
from swarm.gateway.openai.shapes import CompletionShape, OpenAIForm
from swarm.gateway.openai.utility_calls import PEER_UTILITIES
from swarm.generation import Delta, Finish
from swarm.routing.dispatcher import DEFAULT_DEADLINE_S
from swarm.routing.peer_answers import LeaderLine, LeaderStep
from swarm.routing.policy import VoteOptions
from swarm.routing.replica_client import local_candidates

MAX_HOPS = 1  # only the node a client asked may fan out
MAX_DEADLINE_MS = 3_600_000  # an hour, which is also the most that a client may ask for
log = logging.getLogger(__name__)


def dialect(body: object) -> str:
    """Which of OpenAI's two request forms a body is."""
    return "chat" if isinstance(body, dict) and "messages" in body else "text"


GenerationBody = Annotated[
    Annotated[ChatCompletionBody, Tag("chat")] | Annotated[CompletionBody, Tag("text")], Discriminator(dialect)
]


class GenerateBody(RootModel[GenerationBody]):
    """`POST /federation/v1/generate`: an OpenAI body of either form."""


class CandidatesBody(Part):
    """`POST /federation/v1/candidates`: run `votes` voters on `request`, an OpenAI body, as it stands.

    With `leader` the first one's answer is sent step by step, too. Where they `gives_way`, they take idle workers only
    and leave them to whoever waits: who has no answer by then is a candidate with that error.
    """

    request: GenerationBody
    votes: Annotated[int, Field(ge=1, le=MAX_VOTES)]
    leader: bool = False
    gives_way: bool = False


async def node(request: web.Request) -> web.Response:
    """Who this is, or what of it has changed; what a probe says of its own node is noted."""
    membership, node = request.app[MEMBERSHIP], request.app[DESCRIBE]()
    reply = membership.reply_to_probe(
        node, request.remote or "", request.query, request.headers, certified=MEMBER in request
    )
    return web.Response(
        status=reply.status, body=reply.body, content_type="application/json", headers={"ETag": reply.tag}
    )


async def peers(request: web.Request) -> web.Response:
    """The nodes that this one knows, as hints: ids and addresses."""
    hints = PeerHints(peers=request.app[MEMBERSHIP].hints())
    return web.Response(text=hints.model_dump_json(), content_type="application/json")


async def loadable(request: web.Request) -> web.Response:
    """The models that this node could load; its description names the digest of these bytes."""
    return web.Response(body=request.app[LIST_LOADABLE](), content_type="application/json")


async def state(request: web.Request) -> web.Response:
    """What this node shows of itself to those who look at their swarm from another one."""
    return json_response(await request.app[NODE_STATES].report())


async def goodbye(request: web.Request) -> web.Response:
    """The sender leaves; only a node may say so of itself: by its certificate, else from where it answers."""
    body = await read_body(request, Goodbye)
    if request.get(MEMBER, body.id) != body.id:
        raise Forbidden("a member may say goodbye for itself only", "not_yourself")
    remote = None if MEMBER in request else request.remote or ""
    request.app[MEMBERSHIP].goodbye_received(body.id, body.instance, remote)
    return web.json_response({"status": "ok"})


async def roster(request: web.Request) -> web.Response:
    """Two lists of members made one, here at once and there with the answer."""
    body = await read_body(request, Roster)
    trust = request.app.get(TRUST)
    if trust is None or trust.mode == "open":
        raise Forbidden("this node is open and has no list of members", "not_paired")
    try:
        merged = await trust.merge_reported(body, request[MEMBER])
    except RosterError as error:
        raise BadRequest(str(error)) from error
    return web.Response(text=merged.model_dump_json(), content_type="application/json")


def deadline_s(request: web.Request) -> float:
    """What is left of the caller's time. Raises BadRequest for a header that is no number, and for a second hop."""
    hops = request.headers.get(wire.HOPS_HEADER, "1")
    if header_number(hops) not in range(MAX_HOPS + 1):
        raise BadRequest(f"{wire.HOPS_HEADER} is {hops[:20]!r}: a request is passed on at most {MAX_HOPS} time")
    left_ms = request.headers.get(wire.DEADLINE_HEADER)
    if left_ms is None:
        return DEFAULT_DEADLINE_S
    if header_number(left_ms) not in range(1, MAX_DEADLINE_MS + 1):
        raise BadRequest(f"{wire.DEADLINE_HEADER} is {left_ms[:20]!r}: use 1 to {MAX_DEADLINE_MS}")
    return int(left_ms) / 1000


def header_number(text: str) -> int | None:
    """A short run of ASCII digits as a number; None for everything else."""
    return int(text) if len(text) <= 10 and text.isascii() and text.isdecimal() else None


async def known_here(app: web.Application, model: str) -> None:
    """Look at the disk once more for a model that a peer names and that nobody here knows."""
    if app[POOL].engine_of(model) is None:
        await app[NAMES].look_again()


async def candidates(request: web.Request) -> web.StreamResponse:
    """Run voters on this node and send each whole answer as a JSON line; blank lines say that it still works.

    Where the caller asks for a leader, the steps of the first answer are lines, too.
    What goes wrong once the voters are asked is a last line, the error object of every other endpoint.
    """
    app = request.app
    left_s = deadline_s(request)
    body = await read_body(request, CandidatesBody)
    generation = body.request.to_request()
    pool, model = app[POOL], generation.model
    await known_here(app, model)
    engine = pool.engine_of(model)
    if engine is None:
        raise UnknownModel(model, tuple(state.model_id for state in pool.states()))
    await refuse_impossible(generation, [engine], request.get(BODY_BYTES, 0))
    if app[CONDITION].draining:
        raise Unavailable("this node is shutting down: ask another node")
    pacing = app[PACING]
    async with open_stream(request, NDJSON, {}, pacing.peer_beat_s, pacing.stalled_s) as out:
        await out.beat()  # from here on everything is a line: an error's body would reach the caller cut short

        async def send_step(event: Delta | Finish) -> None:
            await out.write(
                LeaderLine(leader=LeaderStep.of(event)).model_dump_json(exclude_defaults=True).encode() + b"\n"
            )

        dispatcher, on_event = app[DISPATCHER], send_step if body.leader else None
        deadline = time.monotonic() + left_s
        try:
            using = pool.using(model, deadline, for_peer=True, if_loaded=body.gives_way)
            async with asyncio.timeout(left_s), using as workers:
                answers = local_candidates(
                    workers,
                    generation,
                    min(body.votes, len(workers.workers)),
                    dispatcher.node,
                    deadline,
                    dispatcher.pills,
                    dispatcher.utilities,
                    on_event,
                    gives_way=body.gives_way,
                )
                async with aclosing(answers):
                    async for candidate in answers:
                        spend(request, candidate.usage.prompt_tokens, candidate.usage.completion_tokens)
                        await out.write(candidate.model_dump_json(exclude_defaults=True).encode() + b"\n")
        except TimeoutError:
            raise DeadlineExceeded("the caller's deadline passed") from None
    return out.response


async def generate(request: web.Request) -> web.StreamResponse:
    """One answer to an OpenAI request as a stream, by this node's own workers."""
    left_s = deadline_s(request)
    body = await read_body(request, GenerateBody)
    options = VoteOptions(Strategy.SINGLE, deadline_s=left_s)
    generation = body.root.to_request()
    await known_here(request.app, generation.model)
    shape = CompletionShape("text" if generation.messages is None else "chat", generation.model, include_usage=True)
    asked = AnswerRequest(generation, options, choices=1, stream=True, form=OpenAIForm(shape), local_only=True)
    return await request.app[ANSWER_SERVICE].answer(request, asked)


async def utility(request: web.Request) -> web.StreamResponse:
    """One answer. What goes wrong once the call runs is the line, the error object of every other endpoint."""
    left_s = deadline_s(request)
    known = PEER_UTILITIES.get(request.match_info["name"])
    if known is None:
        raise web.HTTPNotFound
    model, call = await known.read(request)
    app = request.app
    dispatcher, pacing = app[DISPATCHER], app[PACING]
    deadline = time.monotonic() + left_s
    await known_here(app, model)
    async with open_stream(request, NDJSON, {}, pacing.peer_beat_s, pacing.stalled_s) as out:
        await out.beat()  # from here on everything is a line: an error's body would reach the caller cut short
        with app[CONDITION].finding_a_model(dispatcher.node, for_peer=True):
            answer, _ = await dispatcher.utility(model, call, deadline, local_only=True)
        spend(request, int(getattr(answer, "prompt_tokens", 0)))
        await out.write(call.answer.dump_json(answer) + b"\n")
    return out.response


def routes() -> list[web.RouteDef]:
    """What nodes ask of nodes."""
    return [
        web.get(wire.NODE_PATH, node),
        web.get(wire.PEERS_PATH, peers),
        web.get(wire.LOADABLE_PATH, loadable),
        web.get(wire.STATE_PATH, state),
        web.post(wire.GOODBYE_PATH, goodbye),
        web.post(wire.ROSTER_PATH, roster),
        web.post(wire.CANDIDATES_PATH, candidates),
        web.post(wire.GENERATE_PATH, generate),
        web.post(wire.UTILITIES_PATH + "/{name}", utility),
    ]
