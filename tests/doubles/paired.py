"""Nodes that trust each other, made without the ceremony: keys are made once and kept for the whole run."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

from federation.identity import IDENTITY_FILE, NodeIdentity, load_identity
from federation.roster import Roster, new_roster
from federation.roster_store import save_roster
from federation.tls import make_certificate
from federation.trust import Trust


@cache
def key_of(name: str) -> bytes:
    """A key and certificate, the same for one name."""
    return make_certificate()


def identity(folder: Path, name: str) -> NodeIdentity:
    """The identity of `name` in a data directory of its own."""
    data_dir = folder / name
    data_dir.mkdir(parents=True, exist_ok=True)
    pem = data_dir / IDENTITY_FILE
    if not pem.exists():
        pem.write_bytes(key_of(name))
        pem.chmod(0o600)
    return load_identity(data_dir, name)


def roster_of(folder: Path, *names: str) -> Roster:
    """A swarm of them all."""
    first, *others = (identity(folder, name) for name in names)
    roster = new_roster(first.certificate, first.name)
    for other in others:
        roster = roster.admit(other.certificate, other.name)
    return roster


def open_trust(folder: Path, name: str) -> Trust:
    return Trust.load(identity(folder, name), folder / name)


def paired_trusts(folder: Path, *names: str) -> tuple[Trust, ...]:
    """The trust of each member of a swarm of them all, kept in their data directories."""
    roster = roster_of(folder, *names)
    for name in names:
        save_roster(folder / name, roster)
    return tuple(open_trust(folder, name) for name in names)


def trusting_all(pem: Path | None) -> ssl.SSLContext:
    """A client's context that takes any server, and shows the certificate in `pem`, if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pem is not None:
        context.load_cert_chain(pem)
    return context
