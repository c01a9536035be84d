"""What the handlers find in the application, typed."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from federation.advertisement import NodeDescription
from federation.membership import Membership
from federation.trust import Trust
from swarm.gateway.http.in_progress import Condition
from swarm.routing.dispatcher import Dispatcher
from swarm.workers.pool import WorkerPool

DISPATCHER = web.AppKey("dispatcher", Dispatcher)
POOL = web.AppKey("pool", WorkerPool)
MEMBERSHIP = web.AppKey("membership", Membership)
CONDITION = web.AppKey("condition", Condition)
DESCRIBE: web.AppKey[Callable[[], NodeDescription]] = web.AppKey("describe")
LIST_LOADABLE: web.AppKey[Callable[[], bytes]] = web.AppKey("list_loadable")  # the body of GET loadable
STARTED_AT = web.AppKey("started_at", int)
TRUST = web.AppKey("trust", Trust)
