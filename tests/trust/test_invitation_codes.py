"""Codes survive being copied, and what is not one is refused before anything is sent."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import AddressError, InvitationError
from federation.hostport import make_address
from federation.invitation import MAX_CODE_CHARS, PREFIX, Invitation, decode, encode
from federation.pairing_client import check_invitation
from federation.tls import fingerprint
from tests.doubles.paired import identity, roster_of


def is_a_host(host: str) -> bool:
    """Whether a node could announce it, written so."""
    try:
        return make_address(host, 1).host == host
    except AddressError:
        return False


hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str).filter(is_a_host)
invitations = st.builds(
    Invitation,
    swarm=st.binary(min_size=8, max_size=8).map(bytes.hex),
    fingerprint=st.binary(min_size=32, max_size=32),
    secret=st.binary(min_size=16, max_size=16),
    hosts=st.lists(hosts, min_size=1, max_size=4).map(tuple),
    port=st.integers(1, 65535),
)
ONE = Invitation("0123456789abcdef", b"\x07" * 32, b"\x0b" * 16, ("192.168.1.20",), 17616)


@given(invitations)
def test_a_code_is_one_short_word_and_says_it_all(invitation: Invitation) -> None:
    code = encode(invitation)
    assert code.isalnum()
    assert code.islower()
    assert len(code) <= MAX_CODE_CHARS
    assert decode(code) == invitation
    assert decode(f"  {code.upper()[:40]}\r\n {code[40:]}\t") == invitation, "wrapped, in capitals"


def test_a_usual_code_fits_one_line() -> None:
    assert len(encode(ONE)) < 120


@given(invitations, st.data())
def test_a_mistyped_code_is_refused(invitation: Invitation, data: st.DataObject) -> None:
    code = encode(invitation)
    at = data.draw(st.integers(len(PREFIX), len(code) - 1))
    other = data.draw(st.sampled_from([c for c in "abcdefghijklmnopqrstuvwxyz234567" if c != code[at]]))
    typed = code[:at] + other + code[at + 1 :]
    if at == len(code) - 1:  # some of the last character's bits are not used
        with suppress(InvitationError):
            assert decode(typed) == invitation
        return
    with pytest.raises(InvitationError, match="copy it once more"):
        decode(typed)


@given(st.one_of(st.text(max_size=500), st.text(max_size=500).map(PREFIX.__add__), st.binary().map(bytes.hex)))
def test_what_is_no_code_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvitationError):
        decode(text)


def test_a_cut_code_is_refused() -> None:
    code = encode(ONE)
    for length in range(len(code) - 1):
        with pytest.raises(InvitationError):
            decode(code[:length])


def test_the_secret_is_in_no_log() -> None:
    assert "192.168.1.20:17616" in repr(ONE)
    assert repr(ONE.secret) not in repr(ONE)


def test_who_may_take_which_invitation(tmp_path: Path) -> None:
    """A member of another swarm may not, unless it is alone in it; this node's own is not an invitation for it."""
    mine, other = identity(tmp_path, "kitchen"), identity(tmp_path, "study")
    alone, together = roster_of(tmp_path, "kitchen"), roster_of(tmp_path, "kitchen", "study")
    elsewhere = ONE
    check_invitation(elsewhere, mine, None)
    check_invitation(elsewhere, mine, alone)
    check_invitation(Invitation(together.swarm, ONE.fingerprint, ONE.secret, ONE.hosts, ONE.port), mine, together)
    with pytest.raises(InvitationError, match=r"another swarm, with study: .*swarm leave"):
        check_invitation(elsewhere, mine, together)
    check_invitation(elsewhere, mine, together.revoke(other.node_id))
    with pytest.raises(InvitationError, match="this node's own invitation"):
        check_invitation(
            Invitation(alone.swarm, fingerprint(mine.certificate), ONE.secret, ONE.hosts, ONE.port), mine, alone
        )
