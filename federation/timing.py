"""Every interval and bound of membership, with its unit and reason.

How the promises follow from the defaults. Frozen: it answered at 0, is probed at most 1.1 s later, and misses three
probes of 1.5 s each: out at 5.6 s, within 6. Killed: probed within 1.1 s and refused, asked again 0.25 s later: out at
1.4 s, within 2. Back: a lost peer is asked at most 2.75 s after the last attempt of 1.5 s ended: 4.3 s, within 5.
Three misses in a row, each long enough for TCP to repeat a lost packet (first after 0.2 s, a lost SYN after 1 s),
are what keeps 10 % loss or 200 ms of delay from evicting anyone.
"""

from dataclasses import dataclass

DEAD_AFTER_FAILURES = 3  # consecutive failed probes; two happen by chance on lossy Wi-Fi, three practically never
DEAD_AFTER_REFUSALS = 2  # refused connections without an answer between; one can be a listener being restarted
CONFLICTS_TO_REJECT = 2  # a restarted node may look like a double for one probe, never for two

MAX_PEERS = 128  # records; a home or office swarm is tens of nodes, and each costs one probe a second
MAX_ADDRESSES_PER_PEER = 4  # wired, wireless, IPv6, one spare
MAX_UNPROVEN = 64  # addresses that never answered; anyone on the network can propose them
MAX_STATIC = 64  # --peer addresses; each is retried for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Intervals in seconds. Shortening them scales every promise above with them."""

    probe_interval_s: float = 1.0  # start to start on the address in use; bounds how stale load figures get
    probe_timeout_s: float = 1.5  # one lost SYN (repeated after 1 s) plus a round trip of 200 ms fits
    refused_retry_s: float = 0.25  # long enough for a listener to be reopened, short enough to be out in 2 s
    alternate_interval_s: float = 10.0  # addresses not in use: only to know that they could be
    retry_first_s: float = 1.0  # backoff starts here and doubles
    lost_retry_cap_s: float = 2.5  # peers that answered once: back within 5 s of answering
    unproven_retry_cap_s: float = 30.0  # addresses that never answered: a machine that is still off costs little
    forget_lost_s: float = 600.0  # ten minutes: a reboot or a lunch break does not lose the peer's history
    forget_unproven_s: float = 120.0  # mDNS and exchange repeat what is still true, so nothing is lost
    conflict_window_s: float = 3.0  # two processes that both answered as one id within this time are two nodes
    exchange_interval_s: float = 10.0  # asking peers for further peers: joining is immediate, this only repairs
    goodbye_timeout_s: float = 1.0  # shutting down waits no longer than this for peers to take note
    jitter: float = 0.1  # share of an interval, either way: nodes started together do not stay in step
