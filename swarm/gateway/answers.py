"""From a validated request to the client's answer: planned here, given whole or streamed."""

from __future__ import annotations

import time
from dataclasses import replace

from aiohttp import web

from swarm.engines.upstream_http import VIA_HEADER
from swarm.errors import Unavailable, UnknownModel
from swarm.gateway.answering import Answering, Asked
from swarm.gateway.condition import Condition
from swarm.gateway.metrics import Metrics
from swarm.gateway.streamed_answer import streamed_answer
from swarm.gateway.streams import Pacing
from swarm.gateway.whole_answer import whole_answer
from swarm.routing.dispatcher import DEFAULT_DEADLINE_S, Dispatcher

LOADING_RETRY_AFTER_S = 2  # told to clients: a small model is there by then, a large one after a few retries


class Answerer:
    """Turns requests into responses with a dispatcher's help."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, condition: Condition, pacing: Pacing) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._condition = condition
        self._pacing = pacing

    async def answer(self, http: web.Request, asked: Asked) -> web.StreamResponse:
        """The response to `asked`; failures before the first byte are raised for the error mapper."""
        if self._condition.draining:
            raise Unavailable(f"node {self._dispatcher.node!r} is shutting down: ask another node")
        if (
            VIA_HEADER in http.headers
        ):  # another node's upstream is this one: it ends here, or it could go round for ever
            asked = replace(asked, options=replace(asked.options, upstream=False))
        request = asked.request
        try:
            plan = self._dispatcher.plan(request, asked.options, asked.choices, asked.local_only)
        except UnknownModel as error:
            if not self._condition.loading:
                raise
            raise Unavailable(f"{error}; this node is still loading its own", LOADING_RETRY_AFTER_S) from error
        answering = Answering(
            dispatcher=self._dispatcher,
            metrics=self._metrics,
            asked=asked,
            plan=plan,
            deadline=time.monotonic() + (asked.options.deadline_s or DEFAULT_DEADLINE_S),
        )
        if asked.stream:
            return await streamed_answer(http, answering, self._pacing)
        return await whole_answer(answering)
