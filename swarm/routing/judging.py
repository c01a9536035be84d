"""Asking one voter which of the disputed answers is the best; `consensus.judge` has the question and its reading."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing

from swarm.consensus.groups import Group
from swarm.consensus.judge import judge_request
from swarm.errors import EngineDied, SwarmError
from swarm.generation import Candidate, GenerationRequest
from swarm.routing.pills import Content
from swarm.routing.replica_client import Asking
from swarm.routing.replicas import Replica

log = logging.getLogger(__name__)


def best_judge(replicas: Sequence[Replica]) -> Replica:
    """The strongest model, here before elsewhere, no upstream or failing peer while there are others; the names."""
    return min(replicas, key=lambda r: (r.upstream, r.troubled, -(r.params or 0), not r.local, r.node_id, r.model))


async def judgement(
    asking: Asking, judge: Replica, request: GenerationRequest, groups: Sequence[Group], deadline: float
) -> Candidate:
    """What `judge` says of the answers in `groups`; a failure is a candidate with its error, and the vote stands."""
    question = judge_request(request, groups)
    failed = Candidate(voter=f"judge@{judge.node}", node=judge.node, model=judge.model)
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            async with aclosing(asking.candidates(judge, question, 1, deadline)) as answers:
                async for candidate in answers:
                    return candidate
        return failed.model_copy(update={"error": "no answer came"})
    except TimeoutError:
        error = "the request's deadline passed"
    except SwarmError as failure:
        error = str(failure)
        if isinstance(failure, EngineDied):  # who asks again would have a judge asked again
            asking.pills.died(Content.of(request), judge.node, failure.refused_for_s)
    log.warning("the judge at %s failed, the vote stands: %s", judge.node, error)
    return failed.model_copy(update={"error": error})
