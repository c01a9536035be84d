"""Memory that a node lends to other members for parts of their models: what is offered, asked for and told, as JSON.

`LendOffer` is part of a node's description. A host sends `LendRequest` and is answered line by line: `LendGrant` first,
then `LendNews`. The connection of that answer is the lease: when it ends, whoever ended it, the memory is free again.
The bytes themselves go over streams of their own (`open_byte_stream` of `lending_client.py`).
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from federation.advertisement import MAX_CONTEXT_TOKENS, MAX_SIZE_BYTES, BuildWords, Digest, ModelId, RpcVersion
from federation.errors import PeerProtocolError
from federation.printable_text import printable
from federation.wire import WireModel, first_problem

UPGRADE: Final = "ggml-rpc"  # what a connection becomes: llama.cpp's own protocol, which is nobody's business here
LEASE_CHARS: Final = 32  # of hex: 128 bits
MAX_MEASURE_BYTES: Final = 8 << 20  # a gigabit link carries them in a tenth of a second, in which it gets up to speed
MAX_REASON_CHARS: Final = 300
# Codes of refusals, beside `wire.MEMBERS_ONLY` and those of the access rules: hosts decide by them, people read words.
NOT_LENDING: Final = "not_lending"
LENDING_DRAINS: Final = "lending_drains"
NOT_ENOUGH_LENT: Final = "not_enough_lent"
OTHER_BUILD: Final = "other_llama_cpp"
NO_SUCH_LEASE: Final = "no_such_lease"
TOO_MANY_STREAMS: Final = "too_many_streams"
# How a lease ended, said by the lender while it still can. A host plans anew after each; after MEMORY_ENDED and
# SERVER_ENDED the lender is at fault, or what it was given to compute.
DRAINED: Final = "drained"
MEMORY_ENDED: Final = "memory"
SERVER_ENDED: Final = "server"
FROZEN: Final = "frozen"

LeaseId = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{LEASE_CHARS}}}$")]
LentBytes = Annotated[int, Field(ge=1, le=MAX_SIZE_BYTES)]
Reason = Annotated[str, Field(min_length=1, max_length=MAX_REASON_CHARS), AfterValidator(printable)]
EndCode = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z_]+$")]


class LendRequest(WireModel):
    """The body of POST lend: `bytes` of memory for a part of `model`, with all that is computed there.

    They hold its weights, its cache of `context_tokens`, what computing takes, and the largest tensor once more while
    it arrives. `build` and `rpc` are those of the host's llama.cpp: both ends are one program.
    """

    model: ModelId
    bytes: LentBytes
    build: BuildWords
    rpc: RpcVersion
    fingerprint: Digest = None
    sha256: Digest = None
    context_tokens: Annotated[int, Field(ge=1, le=MAX_CONTEXT_TOKENS)] | None = None


class MeasureRequest(WireModel):
    """The other body of POST lend: so many bytes are wanted, for a host that measures the way here."""

    measure: Annotated[int, Field(ge=1, le=MAX_MEASURE_BYTES)]


class LendGrant(WireModel):
    """The first line of the answer: what was granted, to be named by whoever opens a byte stream for it."""

    lease: LeaseId
    bytes: LentBytes
    build: BuildWords
    rpc: RpcVersion


class LendNews(WireModel):
    """A later line. `draining`: the memory is wanted back, and why; it goes `left_s` from now at the latest.

    `ended`: it is gone, and why, which `code` says for programs; no line follows.
    """

    draining: Reason | None = None
    left_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    ended: Reason | None = None
    code: EndCode | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.draining is None and self.ended is None:
            raise ValueError("neither `draining` nor `ended`")
        return self


def same_llama_cpp(build: str, rpc: str, other_build: str, other_rpc: str) -> bool:
    """Whether two programs compute parts of one model: the same build, and a protocol of the same major number.

    llama.cpp sends operations by their numbers in an enumeration, and a newer build may have others.
    """
    return build == other_build and rpc.partition(".")[0] == other_rpc.partition(".")[0]


def parse_grant(raw: bytes) -> LendGrant:
    """The first line of an answer. Raises PeerProtocolError that says what is wrong, in one line."""
    try:
        return LendGrant.model_validate_json(raw)
    except ValidationError as error:
        raise PeerProtocolError(f"what it grants cannot be read: {first_problem(error)}") from error


def parse_news(raw: bytes) -> LendNews:
    """A later line. Raises PeerProtocolError that says what is wrong, in one line."""
    try:
        return LendNews.model_validate_json(raw)
    except ValidationError as error:
        raise PeerProtocolError(f"what it says of a lease cannot be read: {first_problem(error)}") from error
