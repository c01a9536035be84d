"""What nodes tell each other with each probe: a description once, then only what has changed, and news of other nodes.

    a probe asks                      is answered
    nothing known                     200, the description
    If-None-Match: "STATIC-REST"      304 where nothing changed
                                      200, {"same": STATIC, load, view, sight, news} where only those did
                                      200, the description where more did

A description's tag is STATIC (who, where, which models) and REST (load, view, sight). `view` is a digest of whom the
node finds here; where it equals one's own there is nothing to exchange. `sight` is how it finds whoever asks.
A node of an older version knows no tags: it asks for, and gives, the whole description each time.

News is what a node has found out of late, sent along with its probes and answers: hints to probe, never verdicts. As in
SWIM (Das et al., 2002) a change is reported with messages that are sent anyway. Unlike there a node reports only what
its own probe (or the node's own goodbye) has shown, and whoever receives it probes before it believes or reports it:
news travels as fast as it is confirmed, and a liar costs each node that it speaks to one probe an entry, at a bounded
rate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from federation.advertisement import MAX_MODELS, Host, NodeDescription, NodeId, parse_description
from federation.errors import AdvertisementError
from federation.hostport import MAX_PORT, Address
from federation.wire import WireModel, first_problem

NEWS_LIFE_S: Final = 5.0  # at six probes a second each way everybody has met everybody's acquaintance by then
MAX_NEWS_TOLD: Final = 8  # in one message: the youngest; some 130 bytes each
MAX_NEWS_KEPT: Final = 32  # own findings; more at once are a partition, which each side sees itself
MAX_NEWS_CHARS: Final = 4096  # of the header that carries it; eight entries with the longest names fit
HINTED_PROBES_PER_S: Final = 8.0  # that news may cause, all peers together
HINTED_PROBES_AT_ONCE: Final = 32.0  # after a quiet time: half the nodes of a large swarm being switched off
LOAD_FIELDS: Final = frozenset({"slots_free", "tokens_per_s", "waiting", "wait_s"})  # of a model: what work changes
_STATIC_CHARS: Final = 12  # 48 bits: a node has tens of descriptions in its life
_REST_CHARS: Final = 8
_VIEW_CHARS: Final = 12


class NewsKind(StrEnum):
    """What the sender of news found."""

    JOINED = "joined"
    DOUBTED = "doubted"
    LEFT = "left"


class News(WireModel):
    """Of node `id`, in its run `run`, found `age_s` ago; `host` and `port` are where it answers, or did."""

    id: NodeId
    what: NewsKind
    host: Host
    port: Annotated[int, Field(ge=1, le=MAX_PORT)]
    run: NodeId | None = None
    age_s: Annotated[float, Field(ge=0, le=NEWS_LIFE_S)] = 0.0

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


NewsItems = Annotated[tuple[News, ...], Field(max_length=MAX_NEWS_TOLD)]
_TIDINGS: Final[TypeAdapter[tuple[News, ...]]] = TypeAdapter(NewsItems)


class Sight(StrEnum):
    """How a node finds whoever asks it."""

    HERE = "here"  # among its peers
    UNREACHABLE = "unreachable"  # it was, and does not answer there any more
    UNKNOWN = "unknown"  # not met yet


class _Load(WireModel):
    """What work changes of a description: `models` in its order, each with LOAD_FIELDS only."""

    slots_free: int
    models: Annotated[tuple[dict[str, JsonValue], ...], Field(max_length=MAX_MODELS)]


class _Extras(WireModel):
    """What comes beside a description, or with `same` and `load` in place of it."""

    same: Annotated[str, Field(max_length=64)] | None = None
    load: _Load | None = None
    view: Annotated[str, Field(max_length=64)] | None = None
    sight: Sight | None = None
    news: NewsItems = ()


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """A probe's answer, whole again. `tag` and `view` are None from a node of an older version."""

    description: NodeDescription
    tag: str | None = None
    view: str | None = None
    sight: Sight | None = None
    news: tuple[News, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeQuestion:
    """What a probe takes along: what is known already, this node's news, and whether to say where this node is."""

    timeout_s: float
    known: ProbeAnswer | None = None
    news: tuple[News, ...] = ()
    introduces: bool = True


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """What to send back; the body is JSON."""

    status: int
    tag: str
    body: bytes


def view_digest(ids: frozenset[str]) -> str:
    """Equal where two nodes find the same nodes here, themselves included."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:_VIEW_CHARS]


def reply_to(
    description: NodeDescription, view: str, sight: Sight, news: tuple[News, ...], asked_tag: str | None
) -> ProbeReply:
    """The answer to a probe that knows `asked_tag` (an If-None-Match header) already."""
    load = _load_of(description)
    static = _digest(_static_of(description), _STATIC_CHARS)
    tag = f'"{static}-{_digest({"load": load, "view": view, "sight": sight}, _REST_CHARS)}"'
    if asked_tag == tag and not news:
        return ProbeReply(304, tag, b"")
    extras: dict[str, Any] = {"view": view, "sight": sight.value}
    if news:
        extras["news"] = [item.model_dump(mode="json", exclude_none=True) for item in news]
    is_known = asked_tag is not None and asked_tag.startswith(f'"{static}-')
    body = {"same": static, "load": load} if is_known else description.model_dump(mode="json")
    return ProbeReply(200, tag, json.dumps({**body, **extras}, separators=(",", ":")).encode())


def read_reply(raw: bytes | None, tag: str | None, known: ProbeAnswer | None) -> ProbeAnswer:
    """The answer that `raw` (None for a 304) stands for. Raises AdvertisementError that says what is wrong."""
    if raw is None:
        if known is None:
            raise AdvertisementError("answers that nothing has changed, and nothing was known")
        return ProbeAnswer(known.description, known.tag, known.view, known.sight)
    try:
        extras = _Extras.model_validate_json(raw)
        if extras.same is None:
            description = parse_description(raw)
        elif known is None or known.tag is None or not known.tag.startswith(f'"{extras.same}-'):
            raise AdvertisementError("answers that little has changed of what was not known")
        else:
            description = known.description if extras.load is None else _with_load(known.description, extras.load)
    except ValidationError as error:
        raise AdvertisementError(f"does not describe a node: {first_problem(error)}") from error
    return ProbeAnswer(description, _checked(tag), extras.view, extras.sight, extras.news)


def _checked(tag: str | None) -> str | None:
    """A tag as agreed; anything else, which a proxy may have added, is none."""
    shape = len('""-') + _STATIC_CHARS + _REST_CHARS
    return tag if tag is not None and len(tag) == shape and tag.isascii() and tag.isprintable() else None


def _digest(value: Mapping[str, Any], chars: int) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:chars]


def _load_of(description: NodeDescription) -> dict[str, Any]:
    models = [model.model_dump(mode="json", include=set(LOAD_FIELDS)) for model in description.models]
    return {"slots_free": description.slots_free, "models": models}


def _static_of(description: NodeDescription) -> dict[str, Any]:
    return description.model_dump(mode="json", exclude={"slots_free": True, "models": {"__all__": set(LOAD_FIELDS)}})


def _with_load(description: NodeDescription, load: _Load) -> NodeDescription:
    """The description with other load figures, checked like any other; `load` may name nothing else."""
    if len(load.models) != len(description.models):
        raise AdvertisementError("reports the load of other models than it has described")
    models = [
        {**model.model_dump(mode="json"), **{name: value for name, value in new.items() if name in LOAD_FIELDS}}
        for model, new in zip(description.models, load.models, strict=True)
    ]
    return NodeDescription.model_validate(
        {**description.model_dump(mode="json"), "slots_free": load.slots_free, "models": models}
    )


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

    def post(self, node_id: str, what: NewsKind, address: Address, run: str | None, now: float) -> None:
        """In place of whatever was said of that node."""
        self._findings.pop(node_id, None)
        news = News(id=node_id, what=what, host=address.host, port=address.port, run=run)
        self._findings[node_id] = _Finding(news, now)
        if len(self._findings) > MAX_NEWS_KEPT:
            del self._findings[next(iter(self._findings))]

    def retract(self, node_id: str) -> None:
        """It is all right: a doubt is not worth telling any more."""
        if node_id in self._findings and self._findings[node_id].news.what is NewsKind.DOUBTED:
            del self._findings[node_id]

    def items(self, now: float, to: str | None = None) -> tuple[News, ...]:
        """The youngest findings, the youngest last; a node is sent nothing about itself."""
        for node_id in [node_id for node_id, found in self._findings.items() if now - found.at > NEWS_LIFE_S]:
            del self._findings[node_id]
        youngest = [found for node_id, found in self._findings.items() if node_id != to][-MAX_NEWS_TOLD:]
        return tuple(found.news.model_copy(update={"age_s": round(max(0.0, now - found.at), 2)}) for found in youngest)


class HintAllowance:
    """How many probes news may still cause: a bucket that fills with time."""

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
