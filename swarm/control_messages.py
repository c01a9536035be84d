"""What the commands of this machine send to its node, and its replies: who belongs to the swarm, and changing it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from federation.invitation import MAX_CODE_LIFE_S, MAX_CODE_USES, MIN_CODE_LIFE_S

PREFIX = "/control/v1"
INVITE_PATH = f"{PREFIX}/invite"
JOIN_PATH = f"{PREFIX}/join"
PEERS_PATH = f"{PREFIX}/peers"
REVOKE_PATH = f"{PREFIX}/revoke"
WITHDRAW_PATH = f"{PREFIX}/withdraw"
PAGE_PATH = f"{PREFIX}/page"
LEND_PATH = f"{PREFIX}/lend"
MAX_WHO_CHARS = 256  # far beyond any id or name
CONTROL_FILE = "control.json"  # in the data directory, mode 0600: where the running node listens, and its secret


class ControlMessage(BaseModel):
    """Base: a newer command may talk to an older node."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ControlFile(ControlMessage):
    """`pid` shows whether the node that wrote it still runs."""

    port: int = Field(ge=1, le=65535)
    secret: str = Field(repr=False)
    pid: int = Field(ge=1)


class JoinBody(ControlMessage):
    code: str = Field(max_length=4096, repr=False)


class InviteBody(ControlMessage):
    """For how many machines the code is to be, and for how long; None: as long as the node gives."""

    uses: int = Field(default=1, ge=1, le=MAX_CODE_USES)
    life_s: float | None = Field(default=None, ge=MIN_CODE_LIFE_S, le=MAX_CODE_LIFE_S)


class WithdrawBody(ControlMessage):
    """`code`: what `swarm invite` printed, its id or the beginning of one, or "all"."""

    code: str = Field(min_length=1, max_length=4096, repr=False)


class RevokeBody(ControlMessage):
    """`who`: a node id, the beginning of one, or a name."""

    who: str = Field(min_length=1, max_length=MAX_WHO_CHARS)


class PageBody(ControlMessage):
    """`lan`: the link is to open the page from other machines, too."""

    lan: bool = False


class PageLink(ControlMessage):
    """A link that opens the node's page once, with the owner's rights, within `life_s`. `lan` as it was made."""

    url: str = Field(repr=False)
    node: str
    life_s: float
    lan: bool


class Invited(ControlMessage):
    """`code` is for `swarm join`, `id` names it in lists; `was_open`: this node was open until this invitation."""

    code: str = Field(repr=False)
    addresses: tuple[str, ...]
    life_s: float
    node: str
    was_open: bool
    id: str = ""
    uses: int = 1  # an older node makes no others


class Joined(ControlMessage):
    """`inviter` is a name. `running`: a node took part, and looks for the others now. `clock_ahead_s` only if far.

    `already`: this node was a member of that swarm before, and nothing has changed.
    """

    inviter: str
    members: tuple[str, ...]
    running: bool
    federated: bool
    already: bool = False
    clock_ahead_s: float | None = None


class KnownCode(ControlMessage):
    """A code whose time is not over: for how many machines it is, who joined by it, and how long it is good for."""

    id: str
    uses: int
    joined: tuple[str, ...] = ()
    ends_in_s: float

    @property
    def uses_left(self) -> int:
        return self.uses - len(self.joined)


class Withdrawn(ControlMessage):
    """The codes that ended, as they were."""

    codes: tuple[KnownCode, ...]


class KnownNode(ControlMessage):
    """One other node. `state` is `absent` for a member that this node has not seen since it started.

    `by`: the name of the member who revoked it, where that is known. When that was is nowhere kept.
    """

    id: str
    name: str
    state: Literal["alive", "suspect", "dead", "absent", "revoked"]
    addresses: tuple[str, ...] = ()
    by: str | None = None


class KnownNodes(ControlMessage):
    """Who belongs to the swarm, as `swarm peers` shows it. `running` False: from the disk, nobody was asked.

    `problem`: this node was put out of it, and by whom. `codes`: those that this node gave out; only while it runs, as
    `api`: the base URL of its API for programs of this machine, which nodes of earlier versions do not say.
    """

    mode: Literal["open", "paired"]
    swarm: str | None
    id: str
    name: str
    running: bool
    nodes: tuple[KnownNode, ...] = ()
    revoked: tuple[KnownNode, ...] = ()
    problem: str | None = None
    codes: tuple[KnownCode, ...] = ()
    api: str | None = None


class Revoked(ControlMessage):
    """`told` and `untold` are names of other members; those untold learn of it from the next member that they meet.

    `knows`: the node that was put out took note of it. `closed`: this node has left, and is not open all the same.
    `codes`: the ids of the codes that ended with it, since the node that was put out could have come back by them.
    """

    id: str
    name: str
    itself: bool
    told: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    knows: bool = False
    closed: bool = False
    codes: tuple[str, ...] = ()


class Refused(ControlMessage):
    """What went wrong, and the exit code that stands for it."""

    message: str
    exit_code: Literal[1, 2] = 1


class LendBody(ControlMessage):
    """Lend memory from now on, `size_bytes` of it or as much as is usual; or have it back."""

    on: bool
    size_bytes: int | None = Field(default=None, ge=1, le=1 << 50)


class LentTo(ControlMessage):
    """`bytes` are lent to the member called `node` for a part of `model`, for `since_s` seconds now; `held_bytes` are
    in use."""

    node: str
    model: str
    bytes: int
    held_bytes: int
    since_s: float


class Lending(ControlMessage):
    """What the node lends. `draining`: it wants back what it has lent, and why."""

    on: bool
    bytes_total: int = 0
    bytes_free: int = 0
    build: str | None = None
    rpc: str | None = None
    draining: str | None = None
    lent: tuple[LentTo, ...] = ()
