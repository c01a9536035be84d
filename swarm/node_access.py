"""A node's access rules, from its settings, the file with its keys, and the names of this machine."""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from pathlib import Path

from federation.text_file import TextFileError, read_text_file
from swarm.errors import SetupError
from swarm.gateway.access import (
    MAX_KEY_CHARS,
    AccessRules,
    allowed_host,
    allowed_origin,
    digest,
    is_key,
    machine_names,
)
from swarm.settings import Settings

log = logging.getLogger(__name__)

MAX_KEYS = 1000  # each is compared on every request, a third of a microsecond
MAX_KEY_FILE_BYTES = 2**20
_COMMENT = re.compile(r"(?:^|\s)#")  # a # inside a key is part of it


def read_access(settings: Settings, node_name: str) -> AccessRules:
    """The rules. Blocks for files. Raises SetupError for keys and names that could never be matched."""
    keys = given_keys(settings)
    for number, key in enumerate(settings.api_key, 1):
        if not is_key(key):
            raise SetupError(f"--api-key number {number} is no key: {_what_a_key_is()}")
    if len(keys) > MAX_KEYS:
        raise SetupError(f"there are {len(keys)} API keys; a node takes at most {MAX_KEYS}")
    if settings.config and settings.api_key:
        warn_if_readable(settings.config)
    return AccessRules(
        hosts=machine_names(socket.gethostname(), node_name) | {allowed_host(name) for name in settings.allow_host},
        origins=frozenset(allowed_origin(origin) for origin in settings.allow_origin),
        key_digests=tuple(dict.fromkeys(map(digest, keys))),
        federated=settings.federated,
    )


def given_keys(settings: Settings) -> tuple[str, ...]:
    """Those given themselves, then those in the file. Raises SetupError as `read_key_file` does."""
    return (*settings.api_key, *(read_key_file(settings.api_key_file) if settings.api_key_file else ()))


def read_key_file(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line. Raises SetupError for a file without any: the node would stand open."""
    try:
        text = read_text_file(path, "--api-key-file", MAX_KEY_FILE_BYTES)
    except TextFileError as error:
        raise SetupError(str(error)) from error
    lines = [_COMMENT.split(line, maxsplit=1)[0].strip() for line in text.splitlines()]
    for number, key in enumerate(lines, 1):
        if key and not is_key(key):
            raise SetupError(f"--api-key-file {path}: line {number} is no key: {_what_a_key_is()}")
    keys = tuple(key for key in lines if key)
    if not keys:
        raise SetupError(f"--api-key-file {path} holds no key: write one a line, or leave the option out")
    warn_if_readable(path.expanduser())
    return keys


def warn_if_readable(path: Path) -> None:
    """Say it where other users of this machine can read a file with keys."""
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s holds API keys and other users can read it: chmod 600 %s", path, path)


def _what_a_key_is() -> str:
    return f"1 to {MAX_KEY_CHARS} letters, digits and signs of ASCII, without spaces"
