"""What `/metrics` shows, for Prometheus: counters that the gateway feeds, and gauges read from the node's view."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Literal

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from federation.peer import PeerState
from swarm.consensus.verdict import Verdict
from swarm.gateway.http.in_progress import CLIENT_LEFT, ENDING
from swarm.gateway.observing.view import NodeView
from swarm.generation import Candidate
from swarm.workers.life import GIVEN, MENDED, LifeEvent
from swarm.workers.slots import Refusal

CallOutcome = Literal["ok", "failed", "timed_out", "refused", "unavailable", "cut"]
AGREEMENT_BUCKETS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LAG_LOOK_S = 0.5
SECONDS_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters that the gateway feeds and `GET /metrics` shows."""

    def __init__(self) -> None:
        self.lag_look_s = LAG_LOOK_S
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "swarm_requests", "HTTP requests by endpoint and status", ["endpoint", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "swarm_request_seconds",
            "Time to a whole answer",
            ["endpoint"],
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._prompt = Counter("swarm_prompt_tokens", "Prompt tokens of answers given", registry=self.registry)
        self._completion = Counter("swarm_completion_tokens", "Tokens of answers given", registry=self.registry)
        self._lost = Counter("swarm_losing_tokens", "Tokens of candidates that lost a vote", registry=self.registry)
        self._votes = Counter("swarm_votes", "Votes by kind and outcome", ["kind", "outcome"], registry=self.registry)
        self._stopped = Counter("swarm_votes_stopped", "Votes by what ended them", ["by"], registry=self.registry)
        self._candidates = Counter("swarm_candidates", "Ballots cast in votes", registry=self.registry)
        self._saved = Counter(
            "swarm_candidates_saved", "Voters planned who did not have to answer", registry=self.registry
        )
        self._wasted = Counter(
            "swarm_wasted_tokens",
            "Tokens of voters cut short, as far as known: peers tell of whole answers only",
            registry=self.registry,
        )
        self._overruled = Counter(
            "swarm_leaders_overruled", "Votes that went against the answer streamed live", registry=self.registry
        )
        self._agreement = Histogram(
            "swarm_vote_agreement",
            "Share of the winner's group",
            ["kind"],
            buckets=AGREEMENT_BUCKETS,
            registry=self.registry,
        )
        self._waits = Histogram(
            "swarm_queue_wait_seconds",
            "Time until a request had its workers",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._refused = Counter(
            "swarm_refused", "Requests turned away before they waited", ["reason"], registry=self.registry
        )
        self._failovers = Counter(
            "swarm_failovers", "What one replica failed and another was asked for", registry=self.registry
        )
        self._retries_refused = Counter(
            "swarm_retries_refused", "Failed requests not asked elsewhere: too many were", registry=self.registry
        )
        self._circuits = Counter(
            "swarm_circuits_opened", "Times that a failing peer was left alone for a while", registry=self.registry
        )
        self._prefixes = Counter(
            "swarm_prefixes_followed",
            "Answers asked where their conversation was answered last",
            registry=self.registry,
        )
        self._moved = Counter(
            "swarm_requests_moved", "Requests that left this node's queue for an idle peer", registry=self.registry
        )
        self._resumed = Counter(
            "swarm_streams_resumed",
            "Streamed answers whose node was lost: gone on with elsewhere, or ended by an error although they could be",
            ["went_on"],
            registry=self.registry,
        )
        self._loads = Counter(
            "swarm_model_loads", "Loads of models, by how they ended: ready or failed", ["to"], registry=self.registry
        )
        self._load_seconds = Histogram(
            "swarm_model_load_seconds",
            "Time of loads that ended well, the wait for memory not included",
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._unloads = Counter(
            "swarm_model_unloads",
            "Models unloaded: for another's room, idle for long, other programs' pressure, or as asked",
            ["cause"],
            registry=self.registry,
        )
        self._tool_calls = Counter(
            "swarm_tool_calls",
            "Calls of this node's tools, by how they ended: ok, failed, timed_out, refused, unavailable or cut",
            ["tool", "outcome"],
            registry=self.registry,
        )
        self._lag = Histogram(
            "swarm_event_loop_lag_seconds",
            "How late the event loop came to a timer, twice a second",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        self._loading_since: dict[str, float] = {}  # models of this node, bounded by its pool

    def show(self, look: Callable[[], NodeView]) -> None:
        """Show the gauges of the view that `look` makes, whenever somebody asks."""
        self.registry.register(ViewGauges(look))

    async def watching_the_loop(self, _: web.Application) -> AsyncGenerator[None]:
        """Measure how late the event loop is, from the application's start to its end, by one timer."""
        loop = asyncio.get_running_loop()

        def look(due: float) -> None:
            nonlocal timer
            now = loop.time()
            self._lag.observe(max(0.0, now - due))
            timer = loop.call_at(now + self.lag_look_s, look, now + self.lag_look_s)

        timer = loop.call_later(self.lag_look_s, look, loop.time() + self.lag_look_s)
        yield
        timer.cancel()

    def answered(self, candidates: Sequence[Candidate], verdict: Verdict | None) -> None:
        """Count one answer and, if there was one, its vote."""
        tokens = sum(candidate.usage.completion_tokens for candidate in candidates)
        self._prompt.inc(candidates[0].usage.prompt_tokens if candidates else 0)
        self._completion.inc(tokens)
        if verdict is None or verdict.stopped_by == "single":
            return
        self._votes.labels(verdict.kind, verdict.outcome).inc()
        self._stopped.labels(verdict.stopped_by).inc()
        self._candidates.inc(verdict.votes)
        self._lost.inc(max(0, verdict.total_completion_tokens - tokens))
        self._saved.inc(verdict.saved)
        self._wasted.inc(verdict.wasted_tokens or 0)
        if overruled(candidates, verdict):
            self._overruled.inc()
        if verdict.agreement is not None:
            self._agreement.labels(verdict.kind).observe(verdict.agreement)

    def waited(self, seconds: float) -> None:
        """A request got this node's workers after so long."""
        self._waits.observe(seconds)

    def refused(self, why: Refusal) -> None:
        """A request was turned away: its queue or the node was full, or it would have waited beyond its deadline."""
        self._refused.labels(why).inc()

    def tool_called(self, tool: str, outcome: CallOutcome) -> None:
        """A call of one of this node's tools ended. `tool` is the name of one that there is, or "unknown"."""
        self._tool_calls.labels(tool, outcome).inc()

    def failed_over(self) -> None:
        """A request that one replica failed was asked of the next."""
        self._failovers.inc()

    def retry_refused(self) -> None:
        """A request that failed was not asked again."""
        self._retries_refused.inc()

    def circuit_opened(self) -> None:
        """A peer is left alone for a while."""
        self._circuits.inc()

    def prefix_followed(self) -> None:
        """A request went where its conversation was answered last."""
        self._prefixes.inc()

    def moved(self) -> None:
        """A request left this node's queue for an idle peer."""
        self._moved.inc()

    def resumed(self) -> None:
        """A streamed answer goes on elsewhere."""
        self._resumed.labels("yes").inc()

    def not_resumed(self) -> None:
        """A streamed answer could not go on elsewhere."""
        self._resumed.labels("no").inc()

    def lived(self, event: LifeEvent) -> None:
        """One of this node's models comes or goes."""
        if event.after == "loading":
            self._loading_since[event.model_id] = event.at
        elif event.after == "unloading":
            self._unloads.labels(event.cause).inc()
        if event.before == "loading":
            since = self._loading_since.pop(event.model_id, event.at)
            self._loads.labels("ready" if event.after == "ready" else "failed").inc()
            if event.after == "ready" and event.reason not in (GIVEN, MENDED):
                self._load_seconds.observe(event.at - since)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count every request under its route, never under a path that a client made up."""
        resource = request.match_info.route.resource
        endpoint = "unknown" if resource is None else resource.canonical
        started = time.perf_counter()
        status = CLIENT_LEFT  # unless an answer says otherwise, or a stream that is over
        try:
            response = await handler(request)
            status = str(response.status)
            return response
        except web.HTTPException as answer:  # a redirect, say: failures have been given their shape by now
            status = str(answer.status)
            raise
        finally:
            self._requests.labels(endpoint, request.get(ENDING, status)).inc()
            self._seconds.labels(endpoint).observe(time.perf_counter() - started)

    def render(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


def overruled(shown: Sequence[Candidate], verdict: Verdict) -> bool:
    """The client saw another answer than the one that won: a leader that was streamed before the vote was over."""
    agreed = {summary.voter for summary in verdict.candidates if summary.group == 0}
    return verdict.winner is not None and any(c.voter not in {verdict.winner.voter, *agreed} for c in shown)


class ViewGauges(Collector):
    """What holds at this moment: slots, requests, peers, all from one view."""

    def __init__(self, look: Callable[[], NodeView]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        view = self._look()
        gauges: dict[str, tuple[str, float]] = {
            "swarm_slots_free": ("Idle slots on this node", sum(model.slots_free for model in view.models)),
            "swarm_slots": ("Slots on this node", sum(model.slots for model in view.models)),
            "swarm_peers_alive": ("Peers that answer", view.peers_alive),
            "swarm_draining": ("1 while this node shuts down, else 0", view.draining),
            "swarm_requests_in_flight": ("Requests running, queued or passed on", view.requests),
            "swarm_queue_length": ("Requests waiting for workers", sum(model.waiting for model in view.models)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        memory = GaugeMetricFamily(
            "swarm_model_memory_bytes", "Memory that models of this node take, measured or estimated", labels=["model"]
        )
        for model in view.models:
            if model.taken_bytes is not None and model.state != "failed":
                memory.add_metric([model.id], model.taken_bytes)
        yield memory
        lending = view.federation.lending
        lent_bytes = sum(lent.bytes for lent in lending.lent) if lending else 0
        told = {
            "swarm_lending_bytes": (
                "Memory lent to members or to be had by them",
                lending.total_bytes if lending else 0,
            ),
            "swarm_lent_bytes": ("Memory that holds parts of other members' models", lent_bytes),
            "swarm_lent_parts": ("Parts of other members' models held here", len(lending.lent) if lending else 0),
            "swarm_pooled_models": (
                "Models of this node that lie on other machines, too",
                sum(bool(model.nodes) and model.state == "ready" for model in view.models),
            ),
        }
        for name, (text, value) in told.items():
            yield GaugeMetricFamily(name, text, value=value)
        peers = GaugeMetricFamily("swarm_peers", "Peers known, by state", labels=["state"])
        changes = CounterMetricFamily("swarm_peer_changes", "Peers' changes of state, by the new one", labels=["to"])
        for state in PeerState:
            peers.add_metric([state.value], view.peers_by_state.get(state.value, 0))
            changes.add_metric([state.value], view.changes_to_state.get(state.value, 0))
        yield peers
        yield changes
        if view.file_transfers is not None:
            yield GaugeMetricFamily(
                "swarm_file_transfers", "Model files being given to peers", value=view.file_transfers
            )


METRICS = web.AppKey("metrics", Metrics)
