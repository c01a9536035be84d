"""A node's access rules, from its settings, the files with its keys, and the names of this machine."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from pathlib import Path

from federation import wire
from federation.small_files import TextFileError, read_text_file
from federation.trust import Mode
from swarm.errors import SetupError
from swarm.gateway.http.access import (
    MAX_KEY_CHARS,
    AccessRules,
    allowed_host,
    allowed_origin,
    digest,
    is_key,
    machine_names,
)
from swarm.node.settings import Settings

log = logging.getLogger(__name__)

MAX_KEYS = 1000  # each is compared on every request, a third of a microsecond
MAX_KEY_FILE_BYTES = 2**20
_COMMENT = re.compile(r"(?:^|\s)#")  # a # inside a key is part of it


def read_access(settings: Settings, node_name: str) -> AccessRules:
    """The rules. Blocks for files. Raises SetupError for keys and names that could never be matched."""
    keys = given_keys(settings)
    for number, key in enumerate(settings.api_key, 1):
        if not is_key(key):
            raise SetupError(f"--api-key number {number} is not a key: {_what_a_key_is()}")
    admin_keys = given_admin_keys(settings)
    if len(keys) + len(admin_keys) > MAX_KEYS:
        raise SetupError(f"there are {len(keys) + len(admin_keys)} keys; a node takes at most {MAX_KEYS}")
    for number, key in enumerate(admin_keys, 1):
        if key in keys:
            raise SetupError(
                f"key number {number} of --admin-key-file {settings.admin_key_file} is a client's key, too: "
                "give those who manage this node a key of their own"
            )
    if settings.open_federation and not settings.federated:
        raise SetupError("--open-federation opens nothing without a federation: add --federation, or leave it out")
    if settings.config and settings.api_key:
        warn_if_readable(settings.config)
    return AccessRules(
        hosts=machine_names(socket.gethostname(), node_name) | {allowed_host(name) for name in settings.allow_host},
        origins=frozenset(allowed_origin(origin) for origin in settings.allow_origin),
        key_digests=tuple(dict.fromkeys(map(digest, keys))),
        admin_digests=tuple(dict.fromkeys(map(digest, admin_keys))),
        federated=settings.federated,
        open_federation=settings.open_federation,
        members_manage=settings.peers.manage,
    )


def check_federation(rules: AccessRules, mode: Mode) -> None:
    """Raises SetupError for a key beside an open federation, which answers without it, unless that was said aloud."""
    if rules.peers(mode) == "nobody":
        raise SetupError(
            "an API key closes half of an open federation: any machine that reaches this port could still have answers "
            f"generated at {wire.PREFIX} (candidates, generate, utilities) without it. Pair the nodes: with a code "
            "from `swarm invite` on another node, `swarm join CODE` works here while no node runs; to begin a swarm, "
            "start this node without the key once, run `swarm invite` (it is paired from then on), and start it again "
            "with the key. Or leave it open, and say so: --open-federation"
        )


def given_keys(settings: Settings) -> tuple[str, ...]:
    """Those given themselves, then those in the file. Raises SetupError as `read_key_file` does."""
    return (*settings.api_key, *(read_key_file(settings.api_key_file) if settings.api_key_file else ()))


def given_admin_keys(settings: Settings) -> tuple[str, ...]:
    """Those in their file; there is no other way to give them. Raises SetupError as `read_key_file` does."""
    return read_key_file(settings.admin_key_file, "--admin-key-file") if settings.admin_key_file else ()


def read_key_file(path: Path, option: str = "--api-key-file") -> tuple[str, ...]:
    """The keys in a file, one a line. Raises SetupError for a file without any: the node would stand open."""
    try:
        text = read_text_file(path, option, MAX_KEY_FILE_BYTES)
    except TextFileError as error:
        raise SetupError(str(error)) from error
    lines = [_COMMENT.split(line, maxsplit=1)[0].strip() for line in text.splitlines()]
    for number, key in enumerate(lines, 1):
        if key and not is_key(key):
            raise SetupError(f"{option} {path}: line {number} is not a key: {_what_a_key_is()}")
    keys = tuple(key for key in lines if key)
    if not keys:
        raise SetupError(f"{option} {path} holds no key: write one a line, or leave the option out")
    warn_if_readable(path.expanduser())
    return keys


def warn_if_readable(path: Path) -> None:
    """Say it where other users of this machine can read a file with keys."""
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s holds API keys and other users can read it: chmod 600 %s", path, path)


def _what_a_key_is() -> str:
    return f"1 to {MAX_KEY_CHARS} letters, digits and signs of ASCII, without spaces"
