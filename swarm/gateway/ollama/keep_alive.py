"""`keep_alive`: how long the model of a request stays loaded, where whoever asks may manage this node.

It is as good as a `ttl` for one load: numbers are seconds, texts are durations as Go writes them (`5m`, `1h30m`), and
what is below 0 is for ever. From anybody else the request is answered as if it said nothing, and its answer tells so:
some clients send one with every request.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from federation.printable_text import clean_line
from swarm.errors import Forbidden, Unauthorized, UnknownModel
from swarm.gateway.http.access import check_management, check_token
from swarm.gateway.http.access_middleware import ACCESS, caller_of
from swarm.gateway.http.keys import POOL
from swarm.generation import JsonObject
from swarm.routing.replicas import SWARM_ALIAS

# Seconds of a unit, as Go's time.ParseDuration has them (https://pkg.go.dev/time#ParseDuration).
UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S: Final = 2**63 / 1e9  # what Go's durations hold: 292 years, and more is for ever
MAX_DURATION_CHARS: Final = 64
_NUMBER: Final = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_UNIT: Final = "(?:ns|us|µs|μs|ms|s|m|h)"
_PIECE: Final = re.compile(f"({_NUMBER})({_UNIT})")
_DURATION: Final = re.compile(f"([+-]?)(?:({_NUMBER})|(?:{_NUMBER}{_UNIT})+)")

NOT_MANAGED: Final = "how long a model stays is for who manages this node to say (docs/trust.md, row manage)"
ALL_MODELS: Final = f"{SWARM_ALIAS!r} stands for all models: name one of them"
NOT_HERE: Final = "it is no model of this node: who manages the node that has it says how long it stays there"
NOT_LOADED: Final = "it is not loaded on this node: another one answered"
PINNED: Final = "it is pinned on this node, and stays until it is unloaded"

log = logging.getLogger(__name__)


def idle_seconds(keep_alive: str | float) -> float:
    """How long a model stays that nobody asks for; infinite: until its memory is wanted.

    Raises ValueError for a text that is no duration. `-1` and `300` as texts are seconds, which Go would refuse.
    """
    seconds = _text_s(keep_alive) if isinstance(keep_alive, str) else keep_alive
    return math.inf if seconds < 0 or seconds >= LONGEST_S else float(seconds)  # JSON has longer numbers than floats


def _text_s(text: str) -> float:
    found = _DURATION.fullmatch(text.strip()) if len(text) <= MAX_DURATION_CHARS else None
    if found is None:
        raise ValueError('is no duration: give seconds, or a text such as "5m", "1h30m" or "-1"')
    sign, plain = found[1], found[2]
    pieces = (float(number) * UNITS_S[unit] for number, unit in _PIECE.findall(found[0]))
    seconds = float(plain) if plain else sum(pieces)
    return -seconds if sign == "-" else seconds


def manages(request: web.Request) -> bool:
    """Whether whoever sent `request` may change what this node does for everybody, by a route that all may ask."""
    caller = caller_of(request, manages=True)
    try:
        check_management(request.app[ACCESS], caller)
        check_token(caller)
    except (Forbidden, Unauthorized):
        return False
    return True


@dataclass(slots=True)
class KeepAlive:
    """What `request` said of its `model`, by the id that it has here. `idle_s` None: nothing."""

    request: web.Request
    model: str
    idle_s: float | None
    _settled: bool = False
    _why: str | None = None

    @property
    def unloads(self) -> bool:
        """Whether the model is to go as soon as nobody uses it."""
        return self.idle_s == 0

    def why_not(self) -> str | None:
        """Why it is not for the request to say, in words; None where it is."""
        if not manages(self.request):
            return NOT_MANAGED
        if self.model == SWARM_ALIAS:
            return ALL_MODELS
        return None if self.request.app[POOL].engine_of(self.model) is not None else NOT_HERE

    def settle(self) -> str | None:
        """Let it hold for the load that there is now, once. In words why it has no effect; None where it has one."""
        if not self._settled and self.idle_s is not None:
            self._settled, self._why = True, self._applied(self.idle_s)
        return self._why

    def _applied(self, idle_s: float) -> str | None:
        if (why := self.why_not()) is not None:
            return why
        pool = self.request.app[POOL]
        if any(state.model_id == self.model and state.pinned for state in pool.states()):
            return None if idle_s == math.inf else PINNED
        try:
            is_new = pool.keep(self.model, idle_s)
        except UnknownModel:
            return NOT_LOADED
        if is_new:
            how = "until its memory is wanted" if idle_s == math.inf else f"for {idle_s:g} s while nobody asks for it"
            log.warning("%s keeps %s loaded %s", self.request.remote, clean_line(self.model), how)
        return None

    def told(self) -> JsonObject:
        """{"keep_alive": {"applied", "why"}} for the `swarm` object, once it is settled; {} where nothing was asked."""
        return {} if self.idle_s is None else keep_alive_object(self.settle())


def keep_alive_object(why_not: str | None) -> JsonObject:
    """The part of the `swarm` object that says whether `keep_alive` had an effect."""
    told: JsonObject = {"applied": True} if why_not is None else {"applied": False, "why": why_not}
    return {"keep_alive": told}
