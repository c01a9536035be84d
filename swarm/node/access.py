"""A node's access rules, from its settings, the files with its keys, and the names of this machine.

A line of a key file is a key and, if need be, what it is called and may use; a # after a space begins a comment:

    sk-4f9c...  name=anna  requests_a_minute=60  tokens_a_day=200000

Messages name the file and the line. They repeat neither a key nor a word that could be one.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from federation import wire
from federation.printable_text import printable
from federation.small_files import TextFileError, read_text_file
from federation.trust import Mode
from swarm.errors import SetupError
from swarm.gateway.http.access import (
    MAX_KEY_CHARS,
    AccessRules,
    KeyHolder,
    KeyLimits,
    admin_name,
    allowed_host,
    allowed_origin,
    digest,
    is_key,
    key_name,
    machine_names,
)
from swarm.node.settings import Settings

log = logging.getLogger(__name__)

MAX_KEYS = 1000  # each is compared on every request, a third of a microsecond
MAX_KEY_FILE_BYTES = 2**20
MAX_NAME_CHARS = 64
MAX_REQUESTS_A_MINUTE = 100_000  # the moment of each request of the last minute is kept
MAX_TOKENS_A_DAY = 10**12
ADMIN_OPTION = "--admin-key-file"
NAME, REQUESTS, TOKENS = "name", "requests_a_minute", "tokens_a_day"
_MOST_OF = {REQUESTS: MAX_REQUESTS_A_MINUTE, TOKENS: MAX_TOKENS_A_DAY}
_COMMENT = re.compile(r"(?:^|\s)#")  # a # inside a key is part of it


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key, and what was said of it. `where` it is from, for messages."""

    key: str = field(repr=False)
    where: str
    name: str | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)


def read_access(settings: Settings, node_name: str) -> AccessRules:
    """The rules. Blocks for files. Raises SetupError for keys and names that could never be matched."""
    for number, key in enumerate(settings.api_key, 1):
        if not is_key(key):
            raise SetupError(f"--api-key number {number} is not a key: {_what_a_key_is()}")
    keys = once_each(given_keys(settings))
    admin_keys = once_each(given_admin_keys(settings))
    if len(keys) + len(admin_keys) > MAX_KEYS:
        raise SetupError(f"there are {len(keys) + len(admin_keys)} keys; a node takes at most {MAX_KEYS}")
    clients = {given.key for given in keys}
    for number, given in enumerate(admin_keys, 1):
        if given.key in clients:
            raise SetupError(
                f"key number {number} of --admin-key-file {settings.admin_key_file} is a client's key, too: "
                "give those who manage this node a key of their own"
            )
    refuse_names_given_twice((*keys, *admin_keys))
    if settings.open_federation and not settings.federated:
        raise SetupError("--open-federation opens nothing without a federation: add --federation, or leave it out")
    if settings.config and settings.api_key:
        warn_if_readable(settings.config)
    return AccessRules(
        hosts=machine_names(socket.gethostname(), node_name) | {allowed_host(name) for name in settings.allow_host},
        origins=frozenset(allowed_origin(origin) for origin in settings.allow_origin),
        key_digests=tuple(digest(given.key) for given in keys),
        admin_digests=tuple(digest(given.key) for given in admin_keys),
        key_holders=holders(keys, key_name),
        admin_holders=holders(admin_keys, admin_name),
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


def given_keys(settings: Settings) -> tuple[GivenKey, ...]:
    """Those given themselves, then those in the file. Raises SetupError as `read_key_file` does."""
    typed = [GivenKey(key, f"--api-key number {number}") for number, key in enumerate(settings.api_key, 1)]
    return (*typed, *(read_key_file(settings.api_key_file) if settings.api_key_file else ()))


def given_admin_keys(settings: Settings) -> tuple[GivenKey, ...]:
    """Those in their file; there is no other way to give them. Raises SetupError as `read_key_file` does."""
    return read_key_file(settings.admin_key_file, ADMIN_OPTION) if settings.admin_key_file else ()


def once_each(keys: Iterable[GivenKey]) -> tuple[GivenKey, ...]:
    """`keys` without those given again. Raises SetupError where they were given with another name or other limits."""
    kept: dict[str, GivenKey] = {}
    for given in keys:
        before = kept.setdefault(given.key, given)
        if (before.name, before.limits) != (given.name, given.limits):
            raise SetupError(
                f"{given.where} has the key of {before.where}, with another name or other limits: leave out one of them"
            )
    return tuple(kept.values())


def refuse_names_given_twice(keys: Iterable[GivenKey]) -> None:
    """Raises SetupError where two keys are called alike: what they use could not be told apart."""
    named: dict[str, GivenKey] = {}
    for given in keys:
        if given.name is not None and (before := named.setdefault(given.name, given)) is not given:
            raise SetupError(f"{given.where}: name={given.name} is that of {before.where}: give each key its own")


def holders(keys: Sequence[GivenKey], name_of: Callable[[int], str]) -> tuple[KeyHolder, ...]:
    """Who the keys were given to; one without a name is called by its place."""
    return tuple(KeyHolder(given.name or name_of(place), given.limits) for place, given in enumerate(keys, 1))


def read_key_file(path: Path, option: str = "--api-key-file") -> tuple[GivenKey, ...]:
    """The keys in a file, one a line. Raises SetupError for a file without any: the node would stand open.

    And for a line that is not a key with its options.
    """
    try:
        text = read_text_file(path, option, MAX_KEY_FILE_BYTES)
    except TextFileError as error:
        raise SetupError(str(error)) from error
    lines = [_COMMENT.split(line, maxsplit=1)[0].split() for line in text.splitlines()]
    takes = (NAME,) if option == ADMIN_OPTION else (NAME, REQUESTS, TOKENS)
    keys = tuple(_key_of(words, f"{option} {path}: line {n}", takes) for n, words in enumerate(lines, 1) if words)
    if not keys:
        raise SetupError(f"{option} {path} holds no key: write one a line, or leave the option out")
    warn_if_readable(path.expanduser())
    return keys


def _key_of(words: Sequence[str], where: str, takes: Sequence[str]) -> GivenKey:
    """The key of a line, and its options. Raises SetupError; the message has no word that could be part of a key."""
    key, *options = words
    if not is_key(key) or any("=" not in word for word in options):
        raise SetupError(f"{where} is not a key: {_what_a_key_is()}, then options such as name=anna")
    given = GivenKey(key, where)
    said: set[str] = set()
    for place, word in enumerate(options, 1):
        option, _, value = word.partition("=")
        if option in _MOST_OF and option not in takes:
            raise SetupError(f"{where}: an admin key has no limits: take {option} away")
        if option not in takes:
            known = ", ".join(f"{one}={'NAME' if one == NAME else 'NUMBER'}" for one in takes)
            raise SetupError(f"{where}: its option {place} is none: there is {known}")
        if option in said:
            raise SetupError(f"{where} has {option}= twice: leave out one of them")
        said.add(option)
        given = _with_name(given, value) if option == NAME else _with_limit(given, option, value)
    return given


def _with_name(given: GivenKey, name: str) -> GivenKey:
    if not 1 <= len(name) <= MAX_NAME_CHARS or printable(name) != name:
        raise SetupError(f"{given.where}: name= takes 1 to {MAX_NAME_CHARS} characters that show, without spaces")
    return replace(given, name=name)


def _with_limit(given: GivenKey, option: str, value: str) -> GivenKey:
    most = _MOST_OF[option]
    number = int(value) if value.isascii() and value.isdigit() and len(value) <= len(str(most)) else 0
    if not 1 <= number <= most:
        raise SetupError(
            f"{given.where}: {option}={printable(value[:MAX_NAME_CHARS])} is no whole number from 1 to {most}; "
            "to shut a key out, take its line away"
        )
    return replace(given, limits=replace(given.limits, **{option: number}))


def warn_if_readable(path: Path) -> None:
    """Say it where other users of this machine can read a file with keys."""
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s holds API keys and other users can read it: chmod 600 %s", path, path)


def _what_a_key_is() -> str:
    return f"1 to {MAX_KEY_CHARS} letters, digits and signs of ASCII, without spaces"
