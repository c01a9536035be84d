"""Have a peer load, unload, pin or fetch one of its models. It decides itself whether it does."""

from __future__ import annotations

from contextlib import aclosing
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from federation.client import PeerClient
from federation.errors import PeerError
from federation.wire import PREFIX
from swarm.errors import Forbidden, PeerFailed, PeerMalformed, Unavailable, UnknownModel
from swarm.generation import Frozen, JsonObject
from swarm.logs import current_request_id
from swarm.routing.peer_answers import HOPS, error_object, peer_failure, refusal, remaining_s
from swarm.routing.replicas import Replica
from swarm.workers.life import Phase

Action = Literal["load", "unload", "pin", "pull"]
MAX_LOAD_MS = 86_400_000


class ModelDone(Frozen):
    """What became of a model on a node. `load_ms` is how long it was loaded for this, 0 where it was already."""

    model: str = Field(min_length=1, max_length=512)
    state: Phase
    load_ms: int = Field(default=0, ge=0, le=MAX_LOAD_MS)
    pinned: bool | None = None


async def ask_to(
    client: PeerClient, peer: Replica, action: Action, body: JsonObject, deadline: float, known: tuple[str, ...] = ()
) -> ModelDone:
    """What the node of `peer` did with its model `body["model"]`, by the monotonic instant `deadline`.

    Raises its refusal: UnknownModel (with the names that are `known`), Unavailable (no room, too often, it shuts down),
    Forbidden; or PeerFailed. A load that has begun goes on where the caller leaves.
    """
    assert peer.url is not None
    try:
        stream = client.stream_lines(
            peer.url,
            f"{PREFIX}/{action}",
            body,
            request_id=current_request_id.get(),
            hops=HOPS,
            deadline_s=remaining_s(deadline),
        )
        async with aclosing(stream) as lines:
            async for line in lines:
                return _read(line, peer, body.get("model"), known)
    except PeerError as error:
        if error.status in (404, 405):
            raise Unavailable(
                f"{peer.node} runs a version that does not {action} models for others: update it"
            ) from error
        if error.status == 403:
            raise Forbidden(str(error), "management_not_allowed") from error
        raise peer_failure(peer, error) from error
    raise PeerFailed(peer.node, "ended without an answer")


def _read(line: bytes, peer: Replica, asked: JsonValue, known: tuple[str, ...]) -> ModelDone:
    try:
        return ModelDone.model_validate_json(line)
    except ValidationError as error:
        detail = error_object(line)
        if not detail:
            raise PeerMalformed(peer.node, "sent what is no answer to this") from error
        if detail.get("code") == "model_not_found":
            raise UnknownModel(str(asked), known, f"{peer.node} does not have it") from error
        raise refusal(peer, detail) from error
