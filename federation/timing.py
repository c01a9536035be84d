"""Every interval and bound of membership, with its unit and reason.

How the promises follow from the defaults. Frozen: it answered at 0, is probed at most 1.1 s later, and nothing of it is
received for 4.4 s, in which up to six connections were tried beside each other: out at 5.5 s, within 6. Killed: probed
within 1.1 s and refused, asked again 0.25 s later: out at 1.4 s, within 2. Back: a lost peer is asked at most 2.75 s
after the last attempt of 1.5 s ended: 4.3 s, within 5. The first question stays open for the whole 4.4 s, long enough
for TCP to repeat a lost packet four times (after 0.2, 0.6, 1.4 and 3.0 s), and each further one has a connection of its
own whose packets are lost independently: 10 % loss or 200 ms of delay evict nobody, and neither does a slow answer.

Larger swarms: up to SMALL_SWARM_PEERS every peer is asked each second. Beyond, PROBES_PER_S are shared, so that a
node's traffic does not grow with the swarm; a peer is then asked every `peers / PROBES_PER_S` seconds, load figures are
that old, and news between nodes (`probing.py`) take the place of one's own discovery. Members keep their connections
for longer than that (`client.MEMBERS_KEEPALIVE_S`), and when they are asked for longer still (`wire.MEMBERS_IDLE_S`).
"""

from dataclasses import dataclass

DEAD_AFTER_FAILURES = 3  # failed probes of an address that is not in use, before it is asked less often
DEAD_AFTER_REFUSALS = 2  # refused connections without an answer between; one can be a listener being restarted
CONFLICTS_TO_REJECT = 2  # a restarted node may look like a double for one probe, never for two

MAX_PEERS = 128  # records; a home or office swarm is tens of nodes
MAX_ADDRESSES_PER_PEER = 4  # wired, wireless, IPv6, one spare
MAX_PEERS_PER_ADDRESS = max(4, MAX_PEERS // 16)  # of an open swarm: containers share one; whoever has 16 fills a table
MAX_UNPROVEN_PER_ADDRESS = 2 * MAX_PEERS_PER_ADDRESS  # one caller can name any number of its own ports
MAX_UNPROVEN = 128  # addresses that never answered; anyone can propose them, and a whole swarm must fit
MAX_STATIC = 64  # --peer addresses; each is retried for ever
LISTS_AT_ONCE = 4  # peers asked for what they could load; a whole swarm may say at once that it has changed
MAX_PROBES_AT_ONCE = 6  # of one address in use: chances lost independently, the last of which leaves in time to count

SMALL_SWARM_PEERS = 8  # so many are each asked every second
PROBES_PER_S = 6.0  # beyond that, all peers together: some 700 bytes each, both directions, are 4 KB/s
LOST_AT_FULL_PACE = 10  # dead ones that are each asked often enough to be back within 5 s; more share that


@dataclass(frozen=True, slots=True, kw_only=True)
class TableBounds:
    """How much one peer table holds; the constants above give the reasons."""

    peers: int = MAX_PEERS
    addresses_per_peer: int = MAX_ADDRESSES_PER_PEER
    peers_per_address: int = MAX_PEERS_PER_ADDRESS
    unproven: int = MAX_UNPROVEN
    unproven_per_address: int = MAX_UNPROVEN_PER_ADDRESS
    static: int = MAX_STATIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Intervals in seconds. Shortening them scales every promise above with them."""

    probe_interval_s: float = 1.0  # start to start on the address in use; bounds how stale load figures get
    probe_timeout_s: float = 1.5  # addresses not in use: one lost SYN (repeated after 1 s) and a round trip of 200 ms
    retransmit_min_s: float = 0.5  # no second connection before: TCP's own first two repetitions get their chance
    retransmit_max_s: float = 0.75  # so that several fit before the verdict; a slow peer bears some more questions
    suspect_after_s: float = 1.5  # unanswered for so long is worth a word
    suspect_late_s: float = 3.0  # ... and for so long where that is usual
    give_up_s: float = 4.4  # unanswered for so long is dead; see above for what fits into it
    refused_retry_s: float = 0.25  # long enough for a listener to be reopened, short enough to be out in 2 s
    alternate_interval_s: float = 10.0  # addresses not in use: only to know that they could be
    retry_first_s: float = 1.0  # backoff starts here and doubles
    lost_retry_cap_s: float = 2.5  # peers that answered once: back within 5 s of answering
    unproven_retry_cap_s: float = 30.0  # addresses that never answered: a machine that is still off costs little
    forget_lost_s: float = 600.0  # ten minutes: a reboot or a lunch break does not lose the peer's history
    forget_unproven_s: float = 120.0  # mDNS and exchange repeat what is still true, so nothing is lost
    conflict_window_s: float = 3.0  # two processes that both answered as one id within this time are two nodes
    one_way_s: float = 5.0  # it answers and says so long that it cannot reach this node: out here as it is there
    exchange_interval_s: float = 10.0  # asking peers for further peers: joining is immediate, this only repairs
    list_interval_s: float = 1.0  # between two questions for one peer's list of models; doubled after one in vain
    list_retry_cap_s: float = 60.0  # whose list cannot be had is asked again when it says that there is another
    list_timeout_s: float = 5.0  # a hundred kilobytes over Wi-Fi, beside answers
    goodbye_timeout_s: float = 1.0  # shutting down waits no longer than this for peers to take note
    stall_s: float = 2.0  # this process looks at the clock each second; what it slept longer is nobody's silence
    jitter: float = 0.1  # share of an interval, either way: nodes started together do not stay in step
    crowd_jitter: float = 0.5  # the same in a large swarm: somebody must be asking each node at any time


def stretch(peers: int) -> float:
    """How many times longer than in a small swarm each peer is left alone, with so many that may be routed to."""
    return 1.0 if peers <= SMALL_SWARM_PEERS else max(1.0, peers / PROBES_PER_S)


def lost_stretch(lost: int) -> float:
    """The same for dead peers, which are asked more often than others to be back soon."""
    return max(1.0, lost / LOST_AT_FULL_PACE)
