"""Requests over which engines end, by what they say: such a request stops at its first victim. The caller brings time.

| what was seen                                      | the request                                                  |
|----------------------------------------------------|--------------------------------------------------------------|
| an engine ended over it, said by a node that lives | is a poison pill: asked of nobody else, refused for a minute |
| a node vanished that had it                        | is asked once more, elsewhere                                |
| ... and within a minute another node that had it   | is a poison pill                                             |
| ... and in between it was answered                 | is none: other things end nodes, and many ask the same       |

What a peer says can make no other request refused than the one that it was asked.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

from swarm.engines.openai_dialect import request_body
from swarm.errors import EngineDied, PeerDeparted, PeerVanished
from swarm.generation import SEED_MASK, GenerationRequest

log = logging.getLogger(__name__)

REFUSED_S = 60  # longer than clients and agents go on repeating what failed; short enough for an innocent request
MAX_REMEMBERED = 1024  # of each kind, some 200 bytes each: each costs an engine, or a node, so that a minute has few
# What votes, routing and waiting change, or the form of the answer: no part of what kills.
VARIED = frozenset({"model", "seed", "temperature", "n", "stream", "stream_options"})


class RequestContent:
    """What a request asks, known by its hash. The hash is made when it is first needed: mostly it never is.

    All that the engine gets is in it: messages or prompt, suffix and the other texts, tools and their choice, the
    form of the answer, limits and sampling. Left out is what differs between the voters of one ballot and the models
    of one swarm (VARIED): the same words in another engine, with another seed, are as likely to end it.
    Whoever changes a byte has another request. Nothing is promised there: each costs one engine at most, whose
    reloading is paced, and the client's key is known.
    """

    def __init__(self, kind: str, body: Callable[[], Mapping[str, Any]]) -> None:
        self._kind = kind
        self._body = body

    @staticmethod
    def of(request: GenerationRequest) -> RequestContent:
        """Of a request for text: its wire form, so that every node that it passes through finds the same."""
        return RequestContent("generate", lambda: request_body(request, 1))

    @staticmethod
    def of_call(name: str, body: Mapping[str, Any]) -> RequestContent:
        """Of a call that generates nothing."""
        return RequestContent(name, lambda: body)

    @cached_property
    def key(self) -> bytes:
        said = {name: value for name, value in self._body().items() if name not in VARIED}
        return sha256(json.dumps([self._kind, said], sort_keys=True).encode()).digest()

    @property
    def seed(self) -> int:
        """A seed for those who are to say the same whenever they are asked the same."""
        return int.from_bytes(self.key[:4]) & SEED_MASK


@dataclass(frozen=True, slots=True)
class PoisonPill:
    """A request that is refused `until` an instant, because an engine or two nodes ended over it `where`."""

    where: str
    until: float


@dataclass(frozen=True, slots=True)
class Vanishing:
    """A node that vanished while it had a request, remembered `until` an instant."""

    node_id: str
    until: float


S = TypeVar("S", PoisonPill, Vanishing)


class PoisonPills:
    """What was seen in the last minute, at most MAX_REMEMBERED of each kind. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pills: dict[bytes, PoisonPill] = {}
        self._vanishings: dict[bytes, Vanishing] = {}

    def find(self, content: RequestContent) -> PoisonPill | None:
        """The pill that `content` is; None where it is none, or none any more."""
        return _found(self._pills, content, self._clock())

    def died(self, content: RequestContent, where: str, for_s: int | None = None) -> PoisonPill:
        """An engine ended over `content`, as a living node says. A shorter time than a minute is what it has left."""
        left_s = REFUSED_S if for_s is None else min(max(for_s, 1), REFUSED_S)
        pill, known = PoisonPill(where, self._clock() + left_s), self.find(content)
        if known is not None and known.until >= pill.until:
            return known
        _keep(self._pills, content.key, pill)
        return pill

    def vanished(self, content: RequestContent, node_id: str) -> bool:
        """A node is gone that had `content`; whether it is the second one within a minute."""
        now = self._clock()
        before = _found(self._vanishings, content, now)
        if before is not None and before.node_id != node_id:
            return True
        _keep(self._vanishings, content.key, Vanishing(node_id, now + REFUSED_S))
        return False

    def answered(self, content: RequestContent) -> None:
        """`content` was answered, so that no node that vanished with it did so because of it."""
        if _found(self._vanishings, content, self._clock()) is not None:
            del self._vanishings[content.key]

    def refuse(self, content: RequestContent) -> None:
        """Raises EngineDied for a poison pill: no engine sees it."""
        pill = self.find(content)
        if pill is None:
            return
        left_s = max(1, math.ceil(pill.until - self._clock()))
        raise EngineDied(
            f"an engine ended over this very request ({pill.where}): so that no other does, it is refused for another "
            f"{left_s} s; change it, or send it again after that",
            left_s,
        )

    @contextmanager
    def guard(
        self, content: RequestContent, node: str, node_id: str = "", is_there: Callable[[], bool] = lambda: True
    ) -> Generator[None]:
        """`node` works on `content` in the block: a poison pill does not get there, and what becomes of it is noted.

        `is_there` says whether a peer that vanished was counted on: one that had said goodbye cut off what was late.
        """
        self.refuse(content)
        try:
            yield
        except EngineDied as error:
            self._note(content, node, str(error), error.refused_for_s)
            raise
        except PeerVanished as error:
            if not is_there():
                raise PeerDeparted(node, "left while it had the request") from error
            if self.vanished(content, node_id):
                raise self.second_vanishing(content, node, error) from error
            raise
        self.answered(content)

    def second_vanishing(self, content: RequestContent, node: str, error: PeerVanished) -> EngineDied:
        """What becomes of a request with which two nodes have vanished, of which `node` is the second; noted."""
        why = f"{error}; it is the second node that vanished with this request, which is not asked elsewhere"
        self._note(content, node, why)
        return EngineDied(why)

    def _note(self, content: RequestContent, where: str, why: str, for_s: int | None = None) -> None:
        pill = self.died(content, where, for_s)
        log.warning("a poison pill, refused for %.0f s: %s", pill.until - self._clock(), why)


def _found(kept: dict[bytes, S], content: RequestContent, now: float) -> S | None:
    """What is kept of `content`. Where nothing at all is, nothing is hashed."""
    while kept and kept[first := next(iter(kept))].until <= now:
        del kept[first]
    found = kept.get(content.key) if kept else None
    return None if found is None or found.until <= now else found


def _keep(kept: dict[bytes, S], key: bytes, seen: S) -> None:
    """The latest last; beyond MAX_REMEMBERED the oldest is forgotten."""
    kept.pop(key, None)
    if len(kept) >= MAX_REMEMBERED:
        del kept[next(iter(kept))]
    kept[key] = seen
