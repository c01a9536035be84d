"""The node's HTTP application, put together from its endpoint files.

Both spellings of every path: with `/v1` as OpenAI's clients ask, and without it as llama.cpp's users do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from aiohttp import web

from federation.advertisement import NodeDescription, list_body
from federation.client import PeerClient
from federation.membership import Membership
from federation.trust import Trust
from swarm.gateway.answers.answer_form import PACING, Pacing
from swarm.gateway.answers.answer_service import ANSWER_SERVICE, AnswerService
from swarm.gateway.answers.model_names import (
    NAMES,
    GivenNames,
    LookAgain,
    RequestedNames,
    SamplingOf,
    Unusable,
    as_engines_have_it,
    everything_is_usable,
    look_at_nothing,
)
from swarm.gateway.answers.request_images import RequestImages
from swarm.gateway.answers.tool_instructions import ToolInstructions
from swarm.gateway.anthropic import endpoints as anthropic
from swarm.gateway.documentation import pages
from swarm.gateway.http.access import AccessRules
from swarm.gateway.http.access_middleware import PeerGate, every_route_has_a_kind, guard
from swarm.gateway.http.bodies import BODIES, BODY_TIMEOUT, BODY_TIMEOUT_S, KEEPS_BODIES, MAX_BODY_BYTES, BodyBudget
from swarm.gateway.http.errors import error_middleware
from swarm.gateway.http.in_progress import MAX_IN_FLIGHT, Admission, Condition, closing_connections
from swarm.gateway.http.keys import (
    CONDITION,
    DESCRIBE,
    DISPATCHER,
    LIST_LOADABLE,
    MEMBERSHIP,
    POOL,
    STARTED_AT,
    TRUST,
)
from swarm.gateway.http.listener import quiet_about_bad_requests, without_server_header
from swarm.gateway.http.page_access import PageAccess
from swarm.gateway.llama import endpoints as llama
from swarm.gateway.llama import not_served, slots
from swarm.gateway.observing import endpoints as observing
from swarm.gateway.observing import events
from swarm.gateway.observing.board import BOARD, EventBoard, refreshing
from swarm.gateway.observing.changes import CHANGES, ViewChanges, show_view
from swarm.gateway.observing.findings import Trouble, show_findings
from swarm.gateway.observing.log_lines import LogPart
from swarm.gateway.observing.metrics import METRICS, Metrics
from swarm.gateway.observing.node_states import NODE_STATES, NodeStates, ReadMemory, no_memory_known
from swarm.gateway.observing.performance import PERFORMANCE, Performance, sampling_the_queue
from swarm.gateway.observing.usage import USAGE, UsageBook, UsageCounters, UsageKeeper
from swarm.gateway.observing.usage_file import keeping_usage
from swarm.gateway.observing.view import LentEntry, ViewSources
from swarm.gateway.observing.vote_history import MAX_KEPT, VOTES, VoteHistory
from swarm.gateway.ollama import endpoints as ollama
from swarm.gateway.openai import endpoints as openai
from swarm.gateway.page import endpoints as page
from swarm.gateway.page import models as page_models
from swarm.gateway.page import ollama_management, pulls, rights
from swarm.gateway.peers import endpoints as peers
from swarm.gateway.peers import lending, management, model_files
from swarm.gateway.peers.control import TrustCommands
from swarm.gateway.responses import endpoints as responses
from swarm.gateway.tools import endpoints as tools
from swarm.gateway.tools.service import TOOLS, ToolService
from swarm.logs import MAX_KEPT_LINES, LogRing
from swarm.routing.dispatcher import Dispatcher
from swarm.tools.tool import ToolHost
from swarm.workers.pool import WorkerPool

PREFIX = "/v1"
WATCHED_S = 1.0  # between two looks at what is made only while somebody watches
NOT_UNVERSIONED = "/v1/federation/"  # ours alone, and `/federation/` is where peers talk


def with_unversioned_paths(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """`routes`, and beside each one under `/v1/` the same handler without that prefix, unless it is there already."""
    given = list(routes)
    taken = {(route.method, route.path) for route in given}
    unversioned = [
        web.RouteDef(route.method, path, route.handler, route.kwargs)
        for route in given
        if route.path.startswith(PREFIX + "/") and not route.path.startswith(NOT_UNVERSIONED)
        if (route.method, path := route.path.removeprefix(PREFIX)) not in taken
    ]
    return given + unversioned


def make_app(
    dispatcher: Dispatcher,
    pool: WorkerPool,
    membership: Membership,
    describe: Callable[[], NodeDescription],
    condition: Condition,
    pacing: Pacing | None = None,
    access: AccessRules | None = None,
    trust: Trust | None = None,
    files: model_files.FileService | None = None,
    body_timeout_s: float = BODY_TIMEOUT_S,
    most_in_flight: int = MAX_IN_FLIGHT,
    answers_any: bool = False,
    list_loadable: Callable[[], bytes] = lambda: list_body(()),
    aliases: Mapping[str, str] | None = None,
    look_again: LookAgain = look_at_nothing,
    sampling: SamplingOf = as_engines_have_it,
    unusable: Unusable = everything_is_usable,
    pull: management.Pull | None = None,
    images: RequestImages | None = None,
    instructions: ToolInstructions | None = None,
    page_access: PageAccess | None = None,
    trust_commands: Callable[[], TrustCommands | None] = lambda: None,
    shelf: pulls.ModelShelf | None = None,
    client: PeerClient | None = None,
    read_memory: ReadMemory = no_memory_known,
    records: bool = False,
    machine: Callable[[], Mapping[str, Trouble]] = dict[str, Trouble],
    usage_file: Path | None = None,
    log_ring: LogRing | None = None,
    tool_host: ToolHost | None = None,
    loads_models: bool = True,
    given_names_file: Path | None = None,
    lent: Callable[[], Sequence[LentEntry]] = tuple[LentEntry, ...],
    unused_lenders: Callable[[], Mapping[str, str]] = dict[str, str],
    lender: Callable[[], lending.Lender | None] = lambda: None,
) -> web.Application:
    """The application that serves clients and peers of this node.

    `aliases`, `look_again`, `sampling`, `unusable` and `answers_any` are as in `RequestedNames`, `pull` as in
    `management`. `trust_commands` say who belongs to the swarm, None while they are not there yet.
    `shelf` is this node's disk for those who manage it; None: it loads nothing of its own.
    `instructions` are added to conversations with tools.
    `client` asks peers for their states, `read_memory` what is free here.
    `records`: votes are kept with their prompts, in memory. `machine`: what is wrong with it, as in `findings_of`.
    `usage_file` keeps what keys use, where there are keys, and `given_names_file` what models are called, too.
    `log_ring` has this process's last log lines.
    `tool_host` executes tools for clients; None: this node runs none. Without `loads_models` it is well without any.
    `lent` and `unused_lenders` as in `ViewSources`.
    `lender` lends this node's memory to members; what it gives is None while there is nothing to lend.
    """
    quiet_about_bad_requests()
    pacing = pacing or Pacing()
    metrics = Metrics()
    in_progress = condition.in_progress
    pool.listeners.append(metrics)
    pool.subscribe(metrics.lived)
    admission = Admission(pool, in_progress, lambda: metrics.refused("node_full"), most_in_flight)
    votes, performance = VoteHistory(dispatcher.node, records), Performance()
    dispatcher.listeners.append(metrics)
    dispatcher.answer_listeners.append(performance)
    access = access or AccessRules()
    view = ViewSources(
        describe=describe,
        dispatcher=dispatcher,
        pool=pool,
        membership=membership,
        condition=condition,
        access=access,
        trust=trust,
        file_transfers=None if files is None else lambda: files.transfers.running,
        records=records,
        loads_models=loads_models,
        tools=lambda: () if tool_host is None else tuple(tool.name for tool in tool_host.tools()),
        lent=lent,
        unused_lenders=unused_lenders,
    )
    metrics.show(view.look)
    changes = ViewChanges(view.look)
    membership.subscribe(changes.notice)
    pool.subscribe(changes.notice)
    condition.subscribe(changes.notice)
    if trust is not None:
        trust.subscribe(changes.notice)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[metrics.middleware, error_middleware])
    if trust is not None:
        app[TRUST] = trust
        app.middlewares.append(PeerGate(trust).middleware)
    guard(app, access, page_access or PageAccess())
    app[USAGE] = usage = UsageBook(access.holders())
    keeper = UsageKeeper(usage)
    app.middlewares.append(keeper.middleware)
    app.on_response_prepare.append(keeper.tell_limits)
    metrics.registry.register(UsageCounters(usage))
    if usage_file is not None and access.holders():
        app.cleanup_ctx.append(keeping_usage(usage, usage_file))
    app.middlewares.append(admission.middleware)
    app[BODIES] = BodyBudget()
    app[BODY_TIMEOUT] = body_timeout_s
    app[KEEPS_BODIES] = len(dispatcher.upstreams) > 0
    app.middlewares.append(app[BODIES].middleware)
    app.on_response_prepare.append(closing_connections(condition))
    app.on_response_prepare.append(without_server_header)
    given = GivenNames(given_names_file)
    app[NAMES] = names = RequestedNames(dispatcher, aliases, answers_any, look_again, sampling, unusable, given)
    app[ANSWER_SERVICE] = AnswerService(
        dispatcher, metrics, votes, performance, condition, pacing, names, images or RequestImages(), instructions
    )
    app[DISPATCHER] = dispatcher
    app[POOL] = pool
    app[MEMBERSHIP] = membership
    app[METRICS] = metrics
    app[CONDITION] = condition
    app[DESCRIBE] = describe
    app[LIST_LOADABLE] = list_loadable
    app[PACING] = pacing
    app[model_files.FILES] = files
    app[observing.VIEW] = view
    app[CHANGES] = changes
    app.on_cleanup.append(lambda _: changes.aclose())
    app[BOARD] = board = EventBoard({"vote": MAX_KEPT, "log": MAX_KEPT_LINES})
    app[events.READERS] = readers = events.Readers()

    async def end_readers(_: web.Application) -> None:
        readers.end(board)

    app.on_shutdown.append(end_readers)
    app.cleanup_ctx.append(metrics.watching_the_loop)
    show_view(board, view, changes)
    app[observing.LOGS] = log_ring = log_ring or LogRing()
    app.on_cleanup.append(refreshing(board, "request", view.requests_by_key, WATCHED_S))
    app.on_cleanup.append(refreshing(board, "usage", usage.by_name, WATCHED_S))
    app.on_cleanup.append(refreshing(board, "log", LogPart(log_ring).entries, WATCHED_S))
    app[NODE_STATES] = states = NodeStates(board, view, client, read_memory)
    states.show()
    app.on_cleanup.append(lambda _: states.aclose())
    show_findings(
        board, view.look, changes, lambda: {peer.id: peer.description.version for peer in membership.peers()}, machine
    )
    app[VOTES] = votes
    votes.show(board)
    app[PERFORMANCE] = performance
    app.cleanup_ctx.append(sampling_the_queue(performance, lambda: sum(state.waiting for state in pool.states())))
    app[rights.RECORDS] = records
    app[management.PULL] = pull
    app[rights.TRUST_COMMANDS] = trust_commands
    app[pulls.SHELF] = shelf
    app[pulls.PULLS] = own_pulls = pulls.Pulls(board)
    app.on_cleanup.append(lambda _: own_pulls.aclose())
    app[lending.LENDER] = lender
    app[TOOLS] = ToolService(tool_host, metrics)
    app[STARTED_AT] = int(time.time())
    of_nodes = (peers, model_files, lending, management)
    of_page = (page, rights, page_models, pulls, ollama_management, events)
    of_llama = (llama, slots, not_served)
    for room in (openai, responses, anthropic, *of_llama, ollama, tools, observing, pages, *of_nodes, *of_page):
        app.add_routes(with_unversioned_paths(room.routes()))
    every_route_has_a_kind(app)
    return app
