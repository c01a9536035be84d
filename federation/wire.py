"""Names on the wire between nodes: what the gateway serves and what the peer client asks for."""

from typing import Final

PREFIX: Final = "/federation/v1"
NODE_PATH: Final = f"{PREFIX}/node"  # GET; query FROM_PARAM: where the asking node itself can be probed
PEERS_PATH: Final = f"{PREFIX}/peers"  # GET
CANDIDATES_PATH: Final = f"{PREFIX}/candidates"  # POST; answers NDJSON, a blank line is a heartbeat
GENERATE_PATH: Final = f"{PREFIX}/generate"  # POST; the OpenAI request, proxied
UTILITIES_PATH: Final = f"{PREFIX}/utilities"  # POST .../NAME; answers NDJSON, one line after the heartbeats
ROSTER_PATH: Final = f"{PREFIX}/roster"  # POST a paired swarm's list of members; answers the two lists merged
MODELS_PATH: Final = f"{PREFIX}/models"  # GET: the files this node shares; .../SHA256 the bytes (Range)
PIECES_SUFFIX: Final = "/pieces"  # GET .../SHA256/pieces: the hash of each piece
GOODBYE_PATH: Final = f"{PREFIX}/goodbye"  # POST {"id": node id}

MEMBERS_ONLY: Final = "members_only"  # the code of the 403 with which a paired node answers an open one

FROM_PARAM: Final = "from"  # value: "host:port"

HOPS_HEADER: Final = "X-Swarm-Hops"  # how many nodes have forwarded this request already
REQUEST_ID_HEADER: Final = "X-Request-Id"
DEADLINE_HEADER: Final = "X-Swarm-Deadline-Ms"  # what is left of the request's time, in milliseconds
FROM_HEADER: Final = "X-Swarm-From"  # node id of the sender
NEWS_HEADER: Final = "X-Swarm-News"  # what the asking node has found out of late, as JSON
