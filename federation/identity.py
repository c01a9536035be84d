"""Who this node is: a stable id kept in the data directory, and a display name."""

from __future__ import annotations

import base64
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from federation.advertisement import MAX_NAME_CHARS, NodeId
from federation.atomic_file import write_atomically
from federation.errors import IdentityError

IDENTITY_FILE = "node.json"
ID_BYTES = 16  # 128 bits: two nodes never draw the same
FALLBACK_NAME = "node"
_MAX_FILE_BYTES = 4096  # the file holds one short id

_UNFIT_IN_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """`node_id` never changes for one data directory; `name` is what people see and may change at any start."""

    node_id: str
    name: str


class _IdentityFile(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: NodeId


def new_node_id() -> str:
    """A random id: 26 characters of lower-case base32."""
    return base64.b32encode(secrets.token_bytes(ID_BYTES)).decode().rstrip("=").lower()


def display_name(wanted: str | None = None) -> str:
    """`wanted`, or the first label of the host name, reduced to letters, digits and `._-`; never empty."""
    source = wanted if wanted is not None else socket.gethostname().split(".")[0]
    return _UNFIT_IN_NAME.sub("-", source).strip("-.")[:MAX_NAME_CHARS] or FALLBACK_NAME


def load_identity(data_dir: Path, name: str | None = None) -> NodeIdentity:
    """The identity kept in `data_dir`, made on first use. Blocks. Raises IdentityError with the remedy."""
    path = data_dir / IDENTITY_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        return NodeIdentity(_create(path), display_name(name))
    except OSError as error:
        raise IdentityError(f"cannot read {path} ({error.strerror}): make it readable, or use --data-dir") from error
    try:
        return NodeIdentity(_IdentityFile.model_validate_json(raw).id, display_name(name))
    except ValidationError as error:
        raise IdentityError(
            f"{path} does not hold a node id: delete it to get a new identity, or restore it from a backup"
        ) from error


def _create(path: Path) -> str:
    node_id = new_node_id()
    try:
        write_atomically(path, _IdentityFile(id=node_id).model_dump_json().encode() + b"\n")
    except OSError as error:
        raise IdentityError(
            f"cannot write {path} ({error.strerror}): make its folder writable, or use --data-dir"
        ) from error
    return node_id
