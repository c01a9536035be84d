"""What a node has found out of late, told to the others with its probes and answers: hints to probe, never verdicts.

As in SWIM (Das et al., 2002) word of a change rides on messages that are sent anyway. Unlike there a node tells only
what its own probe (or the node's own goodbye) has shown, and whoever hears it probes before it believes or tells: word
is passed on as fast as it is confirmed, and a liar costs each node that it speaks to one probe an entry, at a bounded
rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from federation.advertisement import Host, NodeId
from federation.hostport import MAX_PORT, Address
from federation.wire import Wire

NEWS_LIFE_S: Final = 5.0  # at six probes a second each way everybody has met everybody's acquaintance by then
MAX_NEWS_TOLD: Final = 8  # in one message: the youngest; some 130 bytes each
MAX_NEWS_KEPT: Final = 32  # own findings; more at once are a partition, which each side sees itself
MAX_NEWS_CHARS: Final = 4096  # of the header that carries it; eight entries with the longest names fit
HINTED_PROBES_PER_S: Final = 8.0  # that hearsay may cause, all peers together
HINTED_PROBES_AT_ONCE: Final = 32.0  # after a quiet time: half the nodes of a large swarm being switched off


class Happening(StrEnum):
    """What the teller found."""

    JOINED = "joined"
    DOUBTED = "doubted"
    LEFT = "left"


class News(Wire):
    """Of node `id`, in its run `run`, found `age_s` ago; `host` and `port` are where it answers, or did."""

    id: NodeId
    what: Happening
    host: Host
    port: Annotated[int, Field(ge=1, le=MAX_PORT)]
    run: NodeId | None = None
    age_s: Annotated[float, Field(ge=0, le=NEWS_LIFE_S)] = 0.0

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


Tidings = Annotated[tuple[News, ...], Field(max_length=MAX_NEWS_TOLD)]
_TIDINGS: Final[TypeAdapter[tuple[News, ...]]] = TypeAdapter(Tidings)


def news_header(news: Iterable[News]) -> str:
    """As JSON on one line: ids, states and hosts are ASCII."""
    return _TIDINGS.dump_json(tuple(news), exclude_none=True).decode()


def parse_news(text: str | None) -> tuple[News, ...]:
    """What a header says; nothing where it breaks the agreed shape, since nothing depends on it."""
    if text is None or len(text) > MAX_NEWS_CHARS:
        return ()
    try:
        return _TIDINGS.validate_json(text)
    except ValidationError:
        return ()


@dataclass(frozen=True, slots=True)
class _Finding:
    news: News
    at: float


class NewsBoard:
    """This node's own findings, while they are news."""

    def __init__(self) -> None:
        self._findings: dict[str, _Finding] = {}  # the oldest first

    def post(self, node_id: str, what: Happening, address: Address, run: str | None, now: float) -> None:
        """In place of whatever was said of that node."""
        self._findings.pop(node_id, None)
        news = News(id=node_id, what=what, host=address.host, port=address.port, run=run)
        self._findings[node_id] = _Finding(news, now)
        if len(self._findings) > MAX_NEWS_KEPT:
            del self._findings[next(iter(self._findings))]

    def retract(self, node_id: str) -> None:
        """It is all right: a doubt is not worth telling any more."""
        if node_id in self._findings and self._findings[node_id].news.what is Happening.DOUBTED:
            del self._findings[node_id]

    def told(self, now: float, to: str | None = None) -> tuple[News, ...]:
        """The youngest findings, the youngest last; a node is told nothing of itself."""
        for node_id in [node_id for node_id, found in self._findings.items() if now - found.at > NEWS_LIFE_S]:
            del self._findings[node_id]
        youngest = [found for node_id, found in self._findings.items() if node_id != to][-MAX_NEWS_TOLD:]
        return tuple(found.news.model_copy(update={"age_s": round(max(0.0, now - found.at), 2)}) for found in youngest)


class HintAllowance:
    """How many probes hearsay may still cause: a bucket that fills with time."""

    def __init__(self) -> None:
        self._left = HINTED_PROBES_AT_ONCE
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        passed_s = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._left = min(HINTED_PROBES_AT_ONCE, self._left + passed_s * HINTED_PROBES_PER_S)
        if self._left < 1:
            return False
        self._left -= 1
        return True
