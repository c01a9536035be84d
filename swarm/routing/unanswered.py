"""What a client is told when a vote has no answer for it: nobody answered, or too few did. Plain choices."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineDied,
    EngineFailed,
    NoConsensus,
    SwarmError,
    Unavailable,
    UpstreamRefused,
)


def no_candidate(failures: Sequence[SwarmError], asked: int, late: bool) -> SwarmError:
    """What to tell a client when nobody answered: an engine ended over it, time ran out, its own mistake, or why."""
    for error in failures:
        if isinstance(error, EngineDied):
            return error
    reasons = "; ".join(dict.fromkeys(str(error) for error in failures))
    if late:
        also = f" ({reasons})" if reasons else ""
        return DeadlineExceeded(f"none of the {asked} voters answered by the request's deadline{also}")
    for error in failures:
        if isinstance(error, BadRequest):
            return error
    if failures and all(isinstance(error, UpstreamRefused) for error in failures):
        return failures[0]  # its status and its words are the best that there is to say
    busy = [error.retry_after_s for error in failures if isinstance(error, Unavailable)]
    if len(busy) == len(failures):
        return Unavailable(reasons, retry_after_s=min(busy, default=1))
    return EngineFailed(f"every voter failed: {reasons}")


def no_consensus(shortfall: str | None) -> NoConsensus:
    """A degraded verdict as the error that `swarm.on_no_quorum: error` asks for."""
    return NoConsensus(
        f"no consensus: {shortfall or 'too few voters answered'} (swarm.on_no_quorum is error: ask again, or set it to "
        "best_effort for the best answer there is)"
    )
