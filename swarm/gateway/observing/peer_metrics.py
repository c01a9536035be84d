"""How many peers there are in each state, and how often one changed to it: read from the membership when asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from federation.membership import Membership
from federation.peer import PeerState


class PeerMetrics(Collector):
    """`swarm_peers{state}` and `swarm_peer_changes_total{to}`."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def collect(self) -> Iterator[Metric]:
        now = Counter(peer.state for peer in self._membership.peers())
        peers = GaugeMetricFamily("swarm_peers", "Peers known, by state", labels=["state"])
        changes = CounterMetricFamily("swarm_peer_changes", "Peers' changes of state, by the new one", labels=["to"])
        for state in PeerState:
            peers.add_metric([state.value], now[state])
            changes.add_metric([state.value], self._membership.change_counts()[state])
        yield peers
        yield changes
