"""What a node says about itself and about others: the JSON of GET node, peers and loadable, parsed and bounded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final, Literal, cast

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from federation.errors import AddressError, AdvertisementError, VersionError
from federation.hostport import MAX_HOST_CHARS, MAX_PORT, Address, make_address
from federation.printable_text import printable
from federation.wire import PROTOCOL_VERSION, WireModel, first_problem

MAX_NAME_CHARS = 64  # a display name; also fits a DNS label (63 bytes) after shortening
MAX_ID_CHARS = 64  # base32 of SHA-256 is 52
MAX_MODEL_ID_CHARS = 256  # longest hub repository name plus a quantization
MAX_URL_CHARS = 300  # scheme, a longest legal host name, a port
MAX_MODELS = 64  # models one node serves; each occupies memory there, so few
MAX_HARDWARE_CHARS = 8192  # the hardware summary as JSON; a real one is under 1,000
MAX_HINTS = 256  # peers in one exchange: twice what a peer table holds
MAX_CONTEXT_TOKENS = 1 << 31  # far above any model; keeps sums in range
MAX_PARAMS = 10**15  # a thousand times the largest published model
MAX_SLOTS = 4096  # sequences one engine decodes at once; real ones have under 64
MAX_RATE = 1e7  # tokens per second
MAX_WAITING = 1_000_000  # requests in one queue; real ones are bounded by --queue, 1,024 at most
MAX_WAIT_S = 1e6  # eleven days: far above any deadline
MAX_STATE_CHARS = 16  # "unloading" has 9
MAX_ENGINE_CHARS = 200  # "llama-server b11434 on NVIDIA GeForce RTX 4090 (29 of 29 layers)" has 64
MAX_POOLED_NODES = 16  # machines that one model lies on: each token crosses between all of them, and who has more waits
MAX_SIZE_BYTES = 1 << 50  # a petabyte of one model, all parts together
MAX_LOADABLE = 256  # models that one node tells of beside those that it serves
MAX_LOADABLE_BYTES = 192 * 1024  # of that list: 256 models with usual names and their other names are under 100 KiB
MAX_ALSO = 8  # other names of one model: a program each, the catalogue's and the file's
MAX_BYTES_PER_S = 1e15  # a hundred times what the fastest memory is read with
_DIGEST_CHARS = 16  # of a list: 64 bits, and it decides no more than whether the list is fetched again


def _small_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    size_chars = len(json.dumps(value, allow_nan=False))
    if size_chars > MAX_HARDWARE_CHARS:
        raise ValueError(f"{size_chars} characters of JSON, more than {MAX_HARDWARE_CHARS}")
    return value


def _reachable_host(host: str) -> str:
    try:
        return make_address(host, MAX_PORT).host
    except AddressError as error:
        raise ValueError(str(error)) from error


_SHA256 = re.compile(r"[0-9a-f]{64}")


def _digest_or_none(value: str | None) -> str | None:
    """A sha256 in lower-case hex, else None: what cannot be compared says nothing."""
    return value if value is not None and _SHA256.fullmatch(value) else None


NodeId = Annotated[str, Field(pattern=rf"^[a-z0-9][a-z0-9-]{{0,{MAX_ID_CHARS - 1}}}$")]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(printable)]
ModelId = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_ID_CHARS), AfterValidator(printable)]
Digest = Annotated[Annotated[str, Field(max_length=128)] | None, AfterValidator(_digest_or_none)]
StateWord = Annotated[str, Field(min_length=1, max_length=MAX_STATE_CHARS), AfterValidator(printable)]
EngineWords = Annotated[str, Field(max_length=MAX_ENGINE_CHARS), AfterValidator(printable)]
BuildWords = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(printable)]
RpcVersion = Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}\.\d{1,3}$")]
Host = Annotated[str, Field(min_length=1, max_length=MAX_HOST_CHARS), AfterValidator(_reachable_host)]


KEPT_HERE: Final = {"advertised": False}  # metadata of a capability that peers are not told


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What can be asked of a model, by whatever engine runs it.

    A new one is one line here, with the value of models that do not say: it then travels, in this object, from the
    engine to peers (as a field of `ServedModel`'s JSON), to the replica that requests are planned with, and to
    `GET /props`. Those marked KEPT_HERE leave out the peers: nodes of protocol 1 are not told them.
    """

    tools: bool = True  # False where its chat template knows none: they are shown, and called, in a general form
    grammar: bool = field(default=False, metadata=KEPT_HERE)
    logprobs: bool = field(default=False, metadata=KEPT_HERE)
    embeddings: bool = False
    reasoning: bool = False  # whether it thinks before it answers: nobody asks such a one for a greedy answer unasked
    rerank: bool = False
    infill: bool = False
    vision: bool = False  # whether it is shown images
    generates: bool = True  # False for an embedding or a reranking model
    first_temperature: bool = field(default=False, metadata=KEPT_HERE)  # of several answers the first has its own


ADVERTISED: Final = tuple(each.name for each in fields(Capabilities) if each.metadata.get("advertised", True))


class KnownModel(WireModel):
    """What is told of any model. `params` is a count, and None wherever something is not known.

    `fingerprint` (of its header and tensor table) and `sha256` (of its file) say what it is. In JSON each advertised
    capability is a field beside the others, and none is called `capabilities`.
    """

    id: ModelId
    context_tokens: Annotated[int, Field(ge=1, le=MAX_CONTEXT_TOKENS)] | None = None
    params: Annotated[int, Field(ge=1, le=MAX_PARAMS)] | None = None
    capabilities: Capabilities = Capabilities()
    fingerprint: Digest = None
    sha256: Digest = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        flat = cast("dict[str, Any]", said)
        if isinstance(flat.get("capabilities"), Capabilities):  # made here, not read
            return flat
        return {**flat, "capabilities": {name: flat[name] for name in ADVERTISED if name in flat}}

    @model_serializer(mode="wrap")
    def _spread(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in serialize(self).items():
            told = {each: getattr(self.capabilities, each) for each in ADVERTISED}
            flat |= told if name == "capabilities" else {name: value}
        return flat


class ServedModel(KnownModel):
    """One model a node has loaded. `slots_free` of `slots` sequences are idle.

    `waiting` requests are queued; one that came now would wait about `wait_s`, None while nothing was measured. One
    whose `state` is not "ready" takes nothing new, and says that it has no slots: older nodes read no more than that.
    `engine` says in words with what it is computed, for people. `nodes` are the names of the machines that it lies on,
    for people, too: its host first, none where that is the only one.
    """

    slots: Annotated[int, Field(ge=0, le=MAX_SLOTS)] = 0
    slots_free: Annotated[int, Field(ge=0, le=MAX_SLOTS)] = 0
    tokens_per_s: Annotated[float, Field(ge=0, le=MAX_RATE)] | None = None
    waiting: Annotated[int, Field(ge=0, le=MAX_WAITING)] = 0
    wait_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] | None = None
    state: StateWord = "ready"
    engine: EngineWords | None = None
    nodes: Annotated[tuple[Name, ...], Field(max_length=MAX_POOLED_NODES)] = ()


class LoadableModel(KnownModel):
    """One model that lies on a node's disk, with what it is or would be when it is loaded.

    `size_bytes` are those of all its files, and `load_s` is how long a whole load is expected to take. `fits`: there is
    room for it, or would be once idle models are unloaded. `also` are names that people know it by. `state` is
    "available" (not loaded), "loading", or "ready": then it is served, too; any other says that it cannot be had now.
    """

    size_bytes: Annotated[int, Field(ge=0, le=MAX_SIZE_BYTES)] = 0
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = 1
    load_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] | None = None
    prefill_tokens_per_s: Annotated[float, Field(ge=0, le=MAX_RATE)] | None = None
    state: StateWord = "available"
    fits: bool = True
    also: Annotated[tuple[ModelId, ...], Field(max_length=MAX_ALSO)] = ()


class LoadableList(WireModel):
    """The body of GET loadable. `left_out` further models did not find room in it."""

    models: Annotated[tuple[LoadableModel, ...], Field(max_length=MAX_LOADABLE)] = ()
    left_out: Annotated[int, Field(ge=0, le=MAX_WAITING)] = 0


@dataclass(frozen=True, slots=True)
class Loadables:
    """What a node could load, as it told or tells it. `digest` is that of the very bytes."""

    digest: str
    models: tuple[LoadableModel, ...]
    left_out: int = 0


class LendOffer(WireModel):
    """Memory that a node lends to members of its swarm for parts of their models: `bytes_free` of `bytes_total`.

    `build` is that of its llama.cpp and `rpc` the version of llama.cpp's protocol; `bytes_per_s` is how fast its memory
    is read, as it says itself. While it is `draining` it lends nothing new, and wants back what it has lent.
    """

    bytes_free: Annotated[int, Field(ge=0, le=MAX_SIZE_BYTES)]
    bytes_total: Annotated[int, Field(ge=0, le=MAX_SIZE_BYTES)]
    build: BuildWords
    rpc: RpcVersion
    bytes_per_s: Annotated[float, Field(gt=0, le=MAX_BYTES_PER_S)] | None = None
    threads: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = 1
    draining: bool = False


class NodeDescription(WireModel):
    """What a node says about itself. `url` is its own claim: peers use the address that they reached it at.

    `instance` differs between two runs of the same node, so that a copied data directory can be told from a restart.
    `roster` is the digest of a paired node's list of members: where it differs, the two lists are merged. `loadable` is
    that of the list of models which it could load (GET loadable), None where there are none. `lends` is memory for
    parts of other members' models.
    """

    id: NodeId
    name: Name
    version: Annotated[str, Field(max_length=64), AfterValidator(printable)]
    protocol: int = PROTOCOL_VERSION
    url: Annotated[str, Field(max_length=MAX_URL_CHARS, pattern=r"^https?://[^\s]+$"), AfterValidator(printable)]
    mode: Literal["open", "paired"] = "open"
    models: Annotated[tuple[ServedModel, ...], Field(max_length=MAX_MODELS)] = ()
    slots_free: Annotated[int, Field(ge=0, le=MAX_SLOTS * MAX_MODELS)] = 0
    draining: bool = False
    hardware: Annotated[dict[str, JsonValue], AfterValidator(_small_json)] = Field(default_factory=dict)
    instance: NodeId | None = None
    roster: Annotated[str, Field(max_length=64), AfterValidator(printable)] | None = None
    loadable: Annotated[str, Field(max_length=64), AfterValidator(printable)] | None = None
    lends: LendOffer | None = None


class PeerHint(WireModel):
    """A peer that a peer knows: where to probe it. Nothing is believed before the probe."""

    id: NodeId
    name: Name
    host: Host
    port: Annotated[int, Field(ge=1, le=MAX_PORT)]

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


class PeerHints(WireModel):
    """The body of GET peers."""

    peers: Annotated[tuple[PeerHint, ...], Field(max_length=MAX_HINTS)] = ()


class Goodbye(WireModel):
    """The body of POST goodbye: `id` leaves and should be asked nothing more.

    `instance` is the run that leaves: the end of a copied data directory's node is not the end of the original.
    """

    id: NodeId
    instance: NodeId | None = None


class _Versioned(WireModel):
    """Read first: another major version may have changed the meaning of everything else."""

    protocol: Annotated[int, Field(ge=0, le=1_000_000)]


def parse_description(raw: bytes) -> NodeDescription:
    """The answer of GET node; raises AdvertisementError that says what is wrong, in one line."""
    try:
        protocol = _Versioned.model_validate_json(raw).protocol
        if protocol != PROTOCOL_VERSION:
            raise VersionError(
                f"speaks federation protocol {protocol} and this node speaks {PROTOCOL_VERSION}: "
                "run matching versions of local-swarm on both"
            )
        return NodeDescription.model_validate_json(raw)
    except ValidationError as error:
        raise AdvertisementError(f"does not describe a node: {first_problem(error)}") from error


def parse_hints(raw: bytes) -> tuple[PeerHint, ...]:
    """The answer of GET peers; raises AdvertisementError that says what is wrong, in one line."""
    try:
        return PeerHints.model_validate_json(raw).peers
    except ValidationError as error:
        raise AdvertisementError(f"does not list peers: {first_problem(error)}") from error


def list_body(models: Sequence[LoadableModel]) -> bytes:
    """The answer of GET loadable with as many of `models` as it takes: those that fit first, then by id.

    The same models in another order are the same bytes.
    """
    wanted = sorted(models, key=lambda model: (not model.fits, model.id))
    told = [model.model_dump_json(exclude_defaults=True) for model in wanted[:MAX_LOADABLE]]
    size_bytes = len('{"models":[],"left_out":1000000}')
    for count, text in enumerate(told):
        size_bytes += len(text.encode()) + 1
        if size_bytes > MAX_LOADABLE_BYTES:
            del told[count:]
            break
    return f'{{"models":[{",".join(told)}],"left_out":{min(len(wanted) - len(told), MAX_WAITING)}}}'.encode()


def parse_loadable(raw: bytes) -> Loadables:
    """The answer of GET loadable; raises AdvertisementError that says what is wrong, in one line."""
    try:
        found = LoadableList.model_validate_json(raw)
    except ValidationError as error:
        raise AdvertisementError(f"does not list what it could load: {first_problem(error)}") from error
    return Loadables(hashlib.sha256(raw).hexdigest()[:_DIGEST_CHARS], found.models, found.left_out)
