"""What kind of thing each route does: one entry each. Who may ask follows from the kind alone (`access.py`).

A route that is in no row keeps the node from starting. `docs/trust.md` says in one table who may do what of each kind;
a test makes that table by asking every route of running nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from federation import wire


class Kind(StrEnum):
    """In the order of the table in `docs/trust.md`."""

    HEALTH = "health"
    DOCUMENTATION = "documentation"
    API = "API"
    STATUS = "status"
    NODES = "what nodes ask"
    FILES = "model files"
    MANAGEMENT = "management"
    TRUST = "trust"


BETWEEN_NODES: Final = frozenset({Kind.NODES, Kind.FILES})
REQUESTS_PATH: Final = "/swarm/v1/requests"  # a prefix of our own, for what no other server has a name for
_WITHOUT_VERSION: Final = "/v1"  # each path under it is served without it, too (`twins.py`)

ROUTES: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.HEALTH: ("GET /livez", "GET /readyz", "GET /health", "GET /v1/health"),
    Kind.DOCUMENTATION: ("GET /openapi.json", "GET /docs", "GET /docs/{name}"),
    Kind.API: (
        "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/responses", "POST /v1/messages",
        "POST /v1/messages/count_tokens", "POST /v1/embeddings", "POST /v1/infill", "POST /v1/tokenize",
        "POST /v1/detokenize", "POST /v1/apply-template", "POST /v1/rerank", "POST /v1/reranking",
        "GET /v1/models", "GET /v1/models/{id}", "GET /v1/props", "POST /v1/props",
    ),
    Kind.STATUS: ("GET /metrics", "GET /v1/federation/health"),
    Kind.NODES: (
        f"GET {wire.NODE_PATH}", f"GET {wire.PEERS_PATH}", f"POST {wire.GOODBYE_PATH}", f"POST {wire.ROSTER_PATH}",
        f"POST {wire.CANDIDATES_PATH}", f"POST {wire.GENERATE_PATH}", f"POST {wire.UTILITIES_PATH}/{{name}}",
    ),
    Kind.FILES: (
        f"GET {wire.MODELS_PATH}", f"GET {wire.MODELS_PATH}/{{sha256}}",
        f"GET {wire.MODELS_PATH}/{{sha256}}{wire.PIECES_SUFFIX}",
    ),
    Kind.MANAGEMENT: (f"GET {REQUESTS_PATH}", f"POST {REQUESTS_PATH}/{{id}}/cancel"),
    Kind.TRUST: (),  # over the control door only (`control.py`): a route of this kind would be refused to everybody
}  # fmt: skip

_KINDS: Final = {route: kind for kind, routes in ROUTES.items() for route in routes}


def kind_of(method: str, path: str) -> Kind | None:
    """The kind of the route with this pattern; None where it is in no row. HEAD is as good as GET."""
    asked = "GET" if method == "HEAD" else method
    return _KINDS.get(f"{asked} {path}") or _KINDS.get(f"{asked} {_WITHOUT_VERSION}{path}")


def is_between_nodes(path: str) -> bool:
    """Whether only nodes have business there, route or no route."""
    return path == wire.PREFIX or path.startswith(wire.PREFIX + "/")
