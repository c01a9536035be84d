"""Reaching the node that runs with a data directory: through the file it keeps there, over loopback."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import BaseModel, ValidationError

from swarm.control_messages import CONTROL_FILE, ControlFile, Refused
from swarm.errors import SetupError, SwarmError

CONNECT_S = 5.0
ANSWER_S = 60.0  # joining tries four addresses for five seconds each
_MAX_FILE_BYTES = 4096

M = TypeVar("M", bound=BaseModel)


def find_node(data_dir: Path) -> ControlFile | None:
    """The node that runs with `data_dir`; None if none does. Raises SetupError for a file that is not readable."""
    path = data_dir / CONTROL_FILE
    try:
        with path.open("rb") as file:
            found = ControlFile.model_validate_json(file.read(_MAX_FILE_BYTES))
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        raise SetupError(
            f"cannot read {path} ({error.strerror}): only the user who runs the node may do this"
        ) from error
    return found if psutil.pid_exists(found.pid) else None  # a killed node leaves its file behind


def ask_node(node: ControlFile, path: str, reply: type[M], body: BaseModel | None = None) -> M | None:
    """The node's reply; None where nobody listens any more. Raises what the node refused with."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", node.port, timeout=CONNECT_S
    )  # no proxy is asked, unlike urllib
    try:
        try:
            connection.connect()
        except OSError:
            return None
        connection.sock.settimeout(ANSWER_S)
        headers = {"Authorization": f"Bearer {node.secret}", "Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        connection.request(method, path, None if body is None else body.model_dump_json(), headers)
        response = connection.getresponse()
        raw = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise SwarmError(f"the node on this machine broke off: {error or type(error).__name__}") from error
    finally:
        connection.close()
    try:
        if response.status == 200:
            return reply.model_validate_json(raw)
        refused = Refused.model_validate_json(raw)
    except ValidationError as error:
        raise SwarmError(f"the node on this machine answered {response.status} in words unknown here") from error
    raise (SetupError if refused.exit_code == 2 else SwarmError)(refused.message)


def ask_running(data_dir: Path, path: str, reply: type[M], body: BaseModel | None = None) -> M | None:
    """The reply of the node that runs with `data_dir`; None if none does. Raises as the two above."""
    node = find_node(data_dir)
    return None if node is None else ask_node(node, path, reply, body)


def as_json(message: BaseModel) -> str:
    """For --json."""
    shown: dict[str, Any] = message.model_dump(mode="json")
    return json.dumps(shown, indent=2)
