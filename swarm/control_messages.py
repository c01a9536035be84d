"""What the commands of this machine send to its node, and its replies: who belongs to the swarm, and changing it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PREFIX = "/control/v1"
INVITE_PATH = f"{PREFIX}/invite"
JOIN_PATH = f"{PREFIX}/join"
PEERS_PATH = f"{PREFIX}/peers"
REVOKE_PATH = f"{PREFIX}/revoke"
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


class RevokeBody(ControlMessage):
    """`who`: a node id, the beginning of one, or a name."""

    who: str = Field(min_length=1, max_length=MAX_WHO_CHARS)


class Invited(ControlMessage):
    """`code` is for `swarm join`; `was_open`: this node is paired only since this invitation.

    `other_port`: where joiners connect, if not at the node's port plus one, for which firewalls are opened.
    """

    code: str = Field(repr=False)
    addresses: tuple[str, ...]
    life_s: float
    node: str
    was_open: bool
    other_port: int | None = None


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


class KnownNode(ControlMessage):
    """One other node. `state` is `absent` for a member that this node has not seen since it started."""

    id: str
    name: str
    state: Literal["alive", "suspect", "dead", "absent", "revoked"]
    addresses: tuple[str, ...] = ()


class KnownNodes(ControlMessage):
    """Who belongs to the swarm, as `swarm peers` shows it. `running` False: from the disk, nobody was asked.

    `problem`: this node was put out of it, and by whom.
    """

    mode: Literal["open", "paired"]
    swarm: str | None
    id: str
    name: str
    running: bool
    nodes: tuple[KnownNode, ...] = ()
    revoked: tuple[KnownNode, ...] = ()
    problem: str | None = None


class Revoked(ControlMessage):
    """`told` and `untold` are names of other members; those untold learn of it from the next member that they meet.

    `knows`: the node that was put out took note of it. `closed`: this node has left, and is not open all the same.
    """

    id: str
    name: str
    itself: bool
    told: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    knows: bool = False
    closed: bool = False


class Refused(ControlMessage):
    """What went wrong, and the exit code that stands for it."""

    message: str
    exit_code: Literal[1, 2] = 1
