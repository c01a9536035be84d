"""What the user decided of models: for all, and by name in a configuration file's `[aliases]` and `[models."NAME"]`.

And the other tables of the file: `[peers]`, and `[upstream.NAME]` of others' servers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from federation.advertisement import MAX_MODEL_ID_CHARS
from swarm.engines.registry import EngineName
from swarm.engines.upstream.address import UpstreamMode
from swarm.generation import MIN_REPEAT_PENALTY, RepairRule
from swarm.quantities import SIZE_FORM, TIME_FORM, bytes_of, seconds_of
from swarm.registry.model_ids import BOUNDARIES
from swarm.registry.model_memory import CacheType
from swarm.registry.names import EMBEDDED_NAMES
from swarm.tools.mcp_servers import McpServerSettings, McpSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_SHOWN_CHARS: Final = 100  # of a value that is refused
SWARM: Final = "swarm"  # the name for whatever the swarm answers best with: no alias may hide it
MAX_ALIASES: Final = 256
MAX_MODELS: Final = 256  # tables of models; a node has fewer
MOST_LOADED: Final = 64  # of --max-models: as many as a node tells its peers of
MAX_MODEL_DIRS: Final = 64
LEAST_TTL_S, MOST_TTL_S = 1.0, 366 * 86_400.0
LEAST_MEMORY_BYTES, MOST_MEMORY_BYTES = 1 << 20, 1 << 50
NEVER: Final = "never"
HALF: Final = "half"  # of the machine's memory: what is lent where no size is given
MAX_LOADS_A_MINUTE: Final = 60
MAX_UPSTREAMS: Final = 32
MAX_HEADERS: Final = 32
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token of RFC 9110
HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]{0,4096}")
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
OWN_HEADERS: Final = frozenset(
    {"authorization", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)


def between(least: float, most: float) -> AfterValidator:
    """The bounds of a number."""

    def check(value: float) -> float:
        if not least <= value <= most:
            raise PydanticCustomError("range", "is out of range: use {least} to {most}", {"least": least, "most": most})
        return value

    return AfterValidator(check)


def _seconds(value: object) -> float:
    """A number of seconds, a text such as 30m, or `never`."""
    if isinstance(value, str) and value.strip().lower() == NEVER:
        return math.inf
    seconds = _number(value, seconds_of)
    if seconds is None:
        raise PydanticCustomError("time", "is no time: {form}, or never", {"form": TIME_FORM})
    if seconds != math.inf and not LEAST_TTL_S <= seconds <= MOST_TTL_S:
        raise PydanticCustomError("time", "is out of range: use 1s to 366d, or never")
    return seconds


def _size(value: object) -> int:
    """A number of bytes, or a text such as 8G."""
    size_bytes = _number(value, bytes_of)
    if size_bytes is None:
        raise PydanticCustomError("size", "is no size: {form}", {"form": SIZE_FORM})
    if not LEAST_MEMORY_BYTES <= size_bytes <= MOST_MEMORY_BYTES:
        raise PydanticCustomError("size", "is out of range: use 1M to 1024T")
    return int(size_bytes)


def _lent_size(value: object) -> object:
    """A size, or how much is usual where only lending was asked for."""
    if value is True or (isinstance(value, str) and value.strip().lower() == HALF):
        return HALF
    return None if value is None or value is False else _size(value)


def _number(value: object, read: Callable[[str], float]) -> float | None:
    """The number, or what `read` makes of a text; None for what is neither."""
    if isinstance(value, str):
        try:
            return read(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value) else None


def _name(text: str) -> str:
    if not text.strip() or len(text) > MAX_MODEL_ID_CHARS or not text.isprintable():
        raise PydanticCustomError(
            "name", "is no name of a model: use 1 to {most} characters on one line", {"most": MAX_MODEL_ID_CHARS}
        )
    return text.strip()


def _alias(text: str) -> str:
    if text.casefold() == SWARM:
        raise PydanticCustomError("alias", "is the name of the swarm itself: choose another")
    if text.casefold() in EMBEDDED_NAMES:
        raise PydanticCustomError("alias", "is the name of an embedded model: choose another")
    return text


def _expanded(path: Path) -> Path:
    """With the home of the user whom it begins with, as a shell does it."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise PydanticCustomError("folder", "begins with a user who has no home here: give the whole path") from None


TimeToLive = Annotated[float, BeforeValidator(_seconds)]
MemorySize = Annotated[int, BeforeValidator(_size)]
LentSize = Annotated[int | Literal["half"] | None, BeforeValidator(_lent_size)]
ModelName = Annotated[str, AfterValidator(_name)]
Alias = Annotated[ModelName, AfterValidator(_alias)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Aliases = Annotated[
    tuple[Alias, ...],
    Field(max_length=MAX_ALIASES),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
ExpandedPath = Annotated[Path, AfterValidator(_expanded)]
Folders = Annotated[
    tuple[ExpandedPath, ...],
    Field(max_length=MAX_MODEL_DIRS),
    BeforeValidator(lambda value: [value] if isinstance(value, str | Path) else value),
]
Probability = Annotated[float, between(0, 1)]
Penalty = Annotated[float, between(-2, 2)]
TokenCount = Annotated[int, between(1, 2**31 - 1)]

CHECKED = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=CHECKED)
class SamplingDefaults:
    """`[models."NAME".sampling]`: what a request that does not say it is answered with. None: the engine's own."""

    temperature: Annotated[float, between(0, 2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, between(0, 2**31 - 1)] | None = None
    min_p: Probability | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, between(MIN_REPEAT_PENALTY, 10)] | None = None
    max_tokens: TokenCount | None = None

    def given(self) -> Mapping[str, float | int]:
        """Those that are set, by the names of a request's fields."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, config=CHECKED)
class ModelSettings:
    """`[models."NAME"]`: what holds for one model. None: what holds for all, or what the node chooses.

    `ttl` is seconds, infinite for `never`; a pinned model is never unloaded to make room. The next tokens of an answer
    are guessed by the model `draft`, and with `speculate` from what was written before.
    """

    ttl: TimeToLive | None = None
    pin: StrictBool = False
    context: Annotated[int, between(256, 10_000_000)] | None = None
    slots: Annotated[int, between(1, 64)] | None = None
    threads: Annotated[int, between(1, 512)] | None = None
    gpu_layers: Annotated[int, between(0, 1000)] | None = None
    engine: EngineName | None = None
    aliases: Aliases = ()
    kv_cache: CacheType | None = None
    draft: ModelName | None = None
    speculate: StrictBool = False
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)

    @property
    def guesses(self) -> bool:
        """Whether tokens of its answers are to be guessed."""
        return self.speculate or self.draft is not None


@dataclass(frozen=True, slots=True, config=CHECKED)
class PeerRules:
    """`[peers]`: what members of a paired swarm may do here beyond asking.

    `manage`: they may have models pulled, pinned and unloaded. `loads_a_minute`: as many may be loaded for what they
    ask; 0 is none.
    """

    manage: StrictBool = False
    loads_a_minute: Annotated[int, between(0, MAX_LOADS_A_MINUTE)] = 1


def _header(name: str) -> str:
    if not HEADER_NAME.fullmatch(name) or name.lower() in OWN_HEADERS:
        raise PydanticCustomError("header", "is no header to be set here; the key is named by key_variable")
    return name


def _header_value(value: str) -> str:
    if not HEADER_VALUE.fullmatch(value) or (value.startswith("$") and not VARIABLE.fullmatch(value[1:])):
        raise PydanticCustomError(
            "header", "is no value of a header: use plain ASCII, or $NAME for what the environment has under that name"
        )
    return value


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise PydanticCustomError(
            "variable", "is no name of an environment variable: name the one that holds the key, as GROQ_API_KEY"
        )
    return name


def _upstream_name(name: str) -> str:
    if not name.strip() or len(name) > MAX_SHOWN_CHARS or not name.isprintable() or "://" in name:
        raise PydanticCustomError("name", "is no name of an upstream: use a short word, and base = for its URL")
    return name


HeaderName = Annotated[str, AfterValidator(_header)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
KeyVariable = Annotated[str, AfterValidator(_variable)]


@dataclass(frozen=True, slots=True, config=CHECKED)
class UpstreamSettings:
    """`[upstream.NAME]`: a server of others. None: what holds for all upstreams, or the provider's own.

    `base` is its URL, `provider` a row of the table of providers (left out: NAME, where that is one). `key_variable`
    names the environment variable with its key. A value of `headers` that is `$NAME` is taken from the environment.
    """

    base: Annotated[str, Field(min_length=1)] | None = None
    provider: Annotated[str, Field(min_length=1)] | None = None
    mode: UpstreamMode | None = None
    model: str | None = None
    slots: Annotated[int, between(1, 256)] | None = None
    key_variable: KeyVariable | None = None
    headers: Annotated[Mapping[HeaderName, HeaderValue], Field(max_length=MAX_HEADERS)] = field(
        default_factory=dict[str, str], repr=False
    )
    repair: RepairRule | None = None


UpstreamName = Annotated[str, AfterValidator(_upstream_name)]
UpstreamTables = Annotated[Mapping[UpstreamName, UpstreamSettings], Field(max_length=MAX_UPSTREAMS)]
ByName = Annotated[Mapping[ModelName, ModelSettings], Field(max_length=MAX_MODELS)]
AliasTable = Annotated[Mapping[Alias, ModelName], Field(max_length=MAX_ALIASES)]


def ambiguous_alias(pairs: Iterable[tuple[str, str]]) -> str | None:
    """What is wrong with aliases, given with what each means: two meanings, or the name of another alias."""
    meanings: dict[str, str] = {}
    for alias, name in pairs:
        if (other := meanings.setdefault(alias.casefold(), name)) != name:
            return f"{alias!r} cannot mean both {other!r} and {name!r}: leave one of them out"
    for alias, name in meanings.items():
        if name.casefold() in meanings:
            return f"{alias!r} means {name!r}, which is an alias itself: write the model that it means"
    return None


def settings_for(
    models: Mapping[str, ModelSettings], model_id: str, also: Collection[str] = ()
) -> tuple[str | None, ModelSettings]:
    """The settings of a model, and the name of the table that they are in; of several that mean it the closest.

    A table means the model of that id or other name (`also`), in any case, and every one whose id it is the beginning
    of, up to a `:`, `-`, `@`, `.` or `_`: `qwen3:4b` means `qwen3:4b:q4_k_m`, whatever its quantization. None where no
    table means it.
    """
    own, others = model_id.casefold(), {name.casefold() for name in also}

    def closeness(name: str) -> tuple[int, int]:
        wanted = name.casefold()
        if wanted in (own, *others):
            return 3 if wanted == own else 2, 0
        begins = own.startswith(wanted) and own[len(wanted) : len(wanted) + 1] in BOUNDARIES
        return int(begins), len(wanted)

    closest = max(models, key=closeness, default=None)
    if closest is None or closeness(closest)[0] == 0:
        return None, ModelSettings()
    return closest, models[closest]


def place_of(problem: ErrorDetails) -> str:
    """Where in a table of a configuration file something is wrong, and its value, as the user wrote it."""
    name, *inside = (str(part) for part in problem["loc"])
    name = "upstream" if name == "upstreams" else name  # as it is written; the word alone is a list of addresses
    shown = f"{repr(problem['input'])[:MAX_SHOWN_CHARS]} "
    if not inside:  # of all entries together
        return f"[{name}] "
    if inside[-1] == "[key]":
        return f"[{name}] {shown}"
    if name in ("models", "upstream") and len(inside) == 1:
        return f'[{name}]: "{inside[0]}" = {shown}'
    table = f"[{name}]"
    if name == "upstream":
        upstream, *inside = inside
        table = f"[upstream.{upstream}]"
    if name == "models":
        model, *inside = inside
        table = f'[models."{model}"]'
        if inside[0] == "sampling" and len(inside) > 1:
            table, inside = f'[models."{model}".sampling]', inside[1:]
    setting = inside[0]  # what follows it is an entry of a list
    if problem["type"] == "unexpected_keyword_argument":
        return f"{table} {setting!r} "
    written = f'"{setting}"' if name == "aliases" else setting
    return f"{table} {written} = {shown}"


def known_in(loc: Sequence[int | str]) -> Sequence[str]:
    """The settings of the table that this place is in; none where it is in no table of these."""
    match tuple(loc):
        case ("models", _, "sampling", _):
            kind: Any = SamplingDefaults
        case ("models", _, _):
            kind = ModelSettings
        case ("peers", _):
            kind = PeerRules
        case ("upstreams", _, _):
            kind = UpstreamSettings
        case ("mcp", _):
            kind = McpSettings
        case ("mcp", "servers", _, _):
            kind = McpServerSettings
        case _:
            return ()
    return [setting.name for setting in fields(kind)]
