"""Membership in fast motion: production's intervals, about twenty times shorter."""

from __future__ import annotations

from federation.timing import Timing

FAST = Timing(
    probe_interval_s=0.05,
    probe_timeout_s=1.0,
    retransmit_min_s=0.5,
    suspect_after_s=2.5,  # above any pause of a busy machine: a suspect has no seat in a vote, however well it is
    give_up_s=3.0,
    one_way_s=3.0,
    refused_retry_s=0.02,
    alternate_interval_s=0.1,
    retry_first_s=0.05,
    lost_retry_cap_s=0.1,
    unproven_retry_cap_s=0.1,
    exchange_interval_s=0.1,
    list_interval_s=0.05,
    goodbye_timeout_s=1.0,
)
