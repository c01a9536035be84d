"""What nodes agree on before any message: paths, headers, the version, and the base of every message.

The gateway serves these paths; the peer client asks for them.
"""

from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from federation.printable_text import printable

PROTOCOL_VERSION: Final = 1  # major: raised only when older nodes could misread the wire; new fields do not raise it
SERVICE_TYPE: Final = "_local-swarm._tcp.local."  # what mDNS browses for

PREFIX: Final = "/federation/v1"
NODE_PATH: Final = f"{PREFIX}/node"  # GET; query FROM_PARAM: where the asking node itself can be probed
PEERS_PATH: Final = f"{PREFIX}/peers"  # GET
STATE_PATH: Final = f"{PREFIX}/state"  # GET; what the node shows of itself to people who look at their swarm
LOADABLE_PATH: Final = f"{PREFIX}/loadable"  # GET; the models that the node could load
CANDIDATES_PATH: Final = f"{PREFIX}/candidates"  # POST; answers NDJSON, a blank line is a heartbeat
GENERATE_PATH: Final = f"{PREFIX}/generate"  # POST; the OpenAI request, proxied
UTILITIES_PATH: Final = f"{PREFIX}/utilities"  # POST .../NAME; answers NDJSON, one line after the heartbeats
ROSTER_PATH: Final = f"{PREFIX}/roster"  # POST a paired swarm's list of members; answers the two lists merged
MODELS_PATH: Final = f"{PREFIX}/models"  # GET: the files this node shares; .../SHA256 the bytes (Range)
PIECES_SUFFIX: Final = "/pieces"  # GET .../SHA256/pieces: the hash of each piece
LOAD_PATH: Final = f"{PREFIX}/load"  # POST {"model"}; these four answer NDJSON, one line after the heartbeats
UNLOAD_PATH: Final = f"{PREFIX}/unload"  # POST {"model"}
PIN_PATH: Final = f"{PREFIX}/pin"  # POST {"model", "pinned"}
PULL_PATH: Final = f"{PREFIX}/pull"  # POST {"model", "sha256"?}
GOODBYE_PATH: Final = f"{PREFIX}/goodbye"  # POST {"id": node id}
LEND_PATH: Final = f"{PREFIX}/lend"  # POST; answers NDJSON for as long as memory is lent, or becomes a byte stream

# Then a node closes a connection on which no request comes, sooner where anybody may have opened it. Nodes that ask do
# so before.
IDLE_S: Final = 15.0
MEMBERS_IDLE_S: Final = 45.0

MEMBERS_ONLY: Final = "members_only"  # the code of the 403 with which a paired node answers an open one

FROM_PARAM: Final = "from"  # value: "host:port"

HOPS_HEADER: Final = "X-Swarm-Hops"  # how many nodes have forwarded this request already
REQUEST_ID_HEADER: Final = "X-Request-Id"
DEADLINE_HEADER: Final = "X-Swarm-Deadline-Ms"  # what is left of the request's time, in milliseconds
FROM_HEADER: Final = "X-Swarm-From"  # node id of the sender
LEASE_HEADER: Final = "X-Swarm-Lease"  # of POST lend with Upgrade: which lease the byte stream is for
NEWS_HEADER: Final = "X-Swarm-News"  # what the asking node has found out of late, as JSON
_MAX_PROBLEM_CHARS = 200  # of a validation message: it may quote what the peer sent


class WireModel(BaseModel):
    """Base of what crosses between nodes: immutable, unknown fields ignored (a newer peer may send more)."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def first_problem(error: ValidationError) -> str:
    """What is wrong with a message, in one printable line of at most 200 characters."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return printable(f"{where}: {problem['msg']}" if where else problem["msg"])[:_MAX_PROBLEM_CHARS]
