"""Every failure a caller can meet, as one tree. Messages name the bad value and the remedy.

SwarmError
├── BadRequest              the caller's input can never work (400)
│   ├── ThreadsUnsupported  it goes on with a conversation that the node was to keep (400)
│   └── ContextExceeded     the prompt is longer than the model's context (400)
├── Unauthorized            the API key is missing or wrong (401)
├── Forbidden               this node does not serve that host name, web page or caller (403)
├── UnknownModel            no reachable node serves that name (404)
│   └── NoSuchModel         a provider of models that is asked by name has none of that name
├── NotInRegistry           no registry known here has a model of that name (404)
├── UnknownFile             this node shares no such file (404)
├── UnknownRequest          no request by that id is in progress here (404)
├── ToolsOff                this node runs no tools (404)
├── NotServed               another server has that, and no node (404)
├── RequestCancelled        someone who may manage this node ended the request (409)
├── ModelInUse              a model that is asked to go works, or is to stay (409)
├── LimitReached            the API key has used up what it may in a minute or a day (429, Retry-After)
├── Unavailable             could work later or elsewhere (503, Retry-After)
│   ├── DeadlineExceeded    the request's own time is up (504)
│   └── NoConsensus         a vote has no quorum, and the client asked for an error then (503)
├── EngineFailed            the engine broke while answering (500)
│   ├── UnknownArchitecture it does not know that kind of model: another engine may (500)
│   ├── EngineDied          its process ended, or had to be ended, over requests in progress (502)
│   └── LenderLost          another machine, which computed a part of the model, is gone (503, Retry-After)
├── PeerFailed              another node did not answer as agreed (502)
│   ├── PeerMalformed       what it sent does not follow the protocol (502)
│   ├── PeerVanished        its connection broke off after it had taken the request (502)
│   ├── PeerSilent          nothing comes from it any more: frozen, or cut off (502)
│   └── PeerDeparted        it had said goodbye, and broke off what was not done by then (502)
├── UpstreamFailed          the configured upstream did not answer as agreed (502)
│   └── UpstreamRefused     the upstream answered with an error of its own (its status)
└── SetupError              this node cannot start as asked (exit code 2)
    └── PooledMisfit        a model does not fit over the machines there are, or would be too slow

`gateway/http/errors.py` is the one place that maps these to HTTP; `cli.py` the one that maps them to exit codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

MOST_LISTED = 40  # names in one message; `GET /v1/models` has all


class SwarmError(Exception):
    """Base of all expected failures: `str(error)` is safe and useful to show to a person."""


class BadRequest(SwarmError):
    """Input that can never work. `param` names the offending field as chat and completions do, if one is to blame."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same error, in the words of an API that calls fields otherwise."""
        again = type(self).__new__(type(self), *self.args)
        again.__dict__.update(self.__dict__)
        again.param = self.param and names.get(self.param, self.param)
        return again


class UnsupportedEncoding(BadRequest):
    """A body in a coding, or in characters, that this node does not read; `accepted` is what it does, for a header."""

    def __init__(self, message: str, accepted: str | None = None) -> None:
        super().__init__(message)
        self.accepted = accepted


class UnmetExpectation(BadRequest):
    """What a client expects before it sends its body, and this node does not know."""


class ThreadsUnsupported(BadRequest):
    """A turn of a conversation that the server is to hold, of which only the new part is sent.

    Anthropic's SDKs send all of it when they are told so in these words, and then without `thread`.
    """

    def __init__(self) -> None:
        super().__init__("this server keeps no conversations: leave thread out, send all of it as `messages`", "thread")


class ContextExceeded(BadRequest):
    """A prompt of `prompt_tokens` does not fit a context of `context_tokens`; nothing was truncated.

    `at_least`: the tokens were not counted; the prompt's length in bytes shows that there cannot be fewer.
    `param` is the field with the prompt, None where that is not known.
    """

    def __init__(
        self,
        prompt_tokens: int,
        context_tokens: int,
        at_least: bool = False,
        *,
        param: str | None = None,
        remedy: str = "shorten it, or start the node with a larger --context",
    ) -> None:
        super().__init__(
            f"the prompt has {'at least ' if at_least else ''}{prompt_tokens} tokens "
            f"and the context holds {context_tokens}: {remedy}",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class Unauthorized(SwarmError):
    """The request's API key is missing (`given` False) or unknown to this node. The message never holds a key."""

    def __init__(self, message: str, given: bool) -> None:
        super().__init__(message)
        self.given = given


class Forbidden(SwarmError):
    """This node does not answer the request for this caller. `code` names the rule that refused it."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class UnknownModel(SwarmError):
    """`name` is served by no reachable node; `known` lists what is."""

    def __init__(self, name: str, known: tuple[str, ...], why: str = "") -> None:
        listing = ", ".join(known[:MOST_LISTED]) if known else "none"
        if len(known) > MOST_LISTED:
            listing += f" and {len(known) - MOST_LISTED} more"
        hint = " (a node started with --answer-any-model answers any name)" if known else ""
        super().__init__(f"model {name!r} is not served here{f' ({why})' if why else ''}; available: {listing}{hint}")
        self.name = name
        self.known = known
        self.why = why


class NoSuchModel(UnknownModel):
    """The provider called `provider` has no model `name`; `known` lists what it has, as far as that is known.

    `near` are those of them that may have been meant, the likest first.
    """

    def __init__(self, provider: str, name: str, known: tuple[str, ...] = (), near: tuple[str, ...] = ()) -> None:
        super().__init__(name, known)
        meant = f": did you mean {' or '.join(near)}?" if near else ";"
        self.args = (f"{provider} has no model {name!r}{meant} `swarm providers models {provider}` lists what it has",)
        self.provider = provider
        self.near = near


class NotInRegistry(SwarmError):
    """A model that is to be pulled is in no registry that is known here. The message has the nearest names."""


class UnknownFile(SwarmError):
    """A peer asks for a file that this node does not share, or does not have any more."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"this node shares no file with sha256 {sha256}")
        self.sha256 = sha256


class UnknownRequest(SwarmError):
    """No request that asks for work and has this id is in progress on this node."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"no request {request_id!r} is in progress here: it has ended, or is another node's")


class ToolsOff(SwarmError):
    """This node runs no tools: its owner has not asked for any."""

    def __init__(self) -> None:
        super().__init__(
            "this node runs no tools: start it with --tools read,grep,glob (or --tools all) and --tools-root DIR"
        )


class NotServed(SwarmError):
    """What another server answers and a node never does: the message says why, and what to do instead."""


class RequestCancelled(SwarmError):
    """Someone who manages this node ended the request on purpose: clients should not repeat it by themselves."""


class ModelInUse(SwarmError):
    """A model cannot be removed while it is pinned, on its way, or answers somebody."""


class LimitReached(SwarmError):
    """The request's API key has used up one of its limits: `what` is "requests" or "tokens".

    `again_in_s`: whole seconds until a request is taken again.
    """

    def __init__(self, message: str, what: str, again_in_s: int) -> None:
        super().__init__(message)
        self.what = what
        self.again_in_s = again_in_s


class Unavailable(SwarmError):
    """Nothing can serve this now; try again in `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Unavailable):
    """The request's own deadline passed before an answer was complete."""


class NoConsensus(Unavailable):
    """A vote came to no consensus, and the client asked for an error in that case. Another vote may."""


class EngineFailed(SwarmError):
    """The inference library failed while loading or generating."""


class UnknownArchitecture(EngineFailed):
    """This build of an engine does not know the model's architecture: another engine, or a newer build, may."""


class EngineDied(EngineFailed):
    """The engine's process ended, or had to be ended, while it worked on the request: asking again may end another.

    `refused_for_s`: for how many seconds nodes that know of it refuse the same request; None where that is unknown.
    """

    def __init__(self, message: str, refused_for_s: int | None = None) -> None:
        super().__init__(message)
        self.refused_for_s = refused_for_s


class LenderLost(EngineFailed):
    """The machine called `lender`, with a part of the model, is gone, cannot be had, or takes its memory back.

    That says nothing against the request, which another replica may answer, or this one again in `retry_after_s`
    seconds: the model is loaded anew over whoever is left.
    """

    def __init__(self, lender: str, message: str, retry_after_s: int = 10) -> None:
        super().__init__(message)
        self.lender = lender
        self.retry_after_s = retry_after_s


class PeerFailed(SwarmError):
    """A peer refused, broke off or did not follow the protocol. `peer` is its name or address."""

    def __init__(self, peer: str, message: str) -> None:
        super().__init__(f"peer {peer}: {message}")
        self.peer = peer


class PeerMalformed(PeerFailed):
    """What a peer sent does not follow the protocol: it is defective or hostile; the network cannot cause this."""


class PeerVanished(PeerFailed):
    """A peer took the request, and its connection broke off without a reply: the request may have ended its process."""


class PeerSilent(PeerFailed):
    """A peer took the request, and nothing comes from it, no heartbeat either: frozen, or out of reach."""


class PeerDeparted(PeerFailed):
    """A peer that had said goodbye broke off what it had not done by then."""


class UpstreamFailed(SwarmError):
    """The upstream broke off or gave an unusable answer. `host` is where it is; no message holds its key."""

    def __init__(self, host: str, message: str) -> None:
        super().__init__(f"upstream {host}: {message}")
        self.host = host


@dataclass(frozen=True, slots=True)
class UpstreamRefusal:
    """What an upstream said when it refused: its HTTP status and the fields of its error object, bounded and printable.

    `sizes` are the counts that go with a prompt that is too long (`n_prompt_tokens`, `n_ctx`).
    """

    status: int
    message: str
    type: str = "upstream_error"
    code: str = "upstream_error"
    param: str | None = None
    retry_after_s: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])


class UpstreamRefused(UpstreamFailed):
    """The upstream answered with an error, which is passed on as it was."""

    def __init__(self, host: str, refusal: UpstreamRefusal) -> None:
        super().__init__(host, refusal.message)
        self.refusal = refusal


class SetupError(SwarmError):
    """This node cannot start as asked: wrong usage, impossible model, port taken. Exit code 2."""


class PooledMisfit(SetupError):
    """A model cannot be put over the machines there are, or would answer too slowly there."""
