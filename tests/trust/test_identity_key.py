"""A node's key: made once, private, and what its id is proven by."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from federation.errors import CertificateError, IdentityError
from federation.identity import FORMER_IDENTITY_FILE, IDENTITY_FILE, load_identity
from federation.tls import check_certificate, client_context, make_certificate, node_id_of, server_context
from tests.doubles.paired import identity, key_of


def test_the_id_is_the_fingerprint_of_a_certificate_that_stays(tmp_path: Path) -> None:
    first = load_identity(tmp_path / "made" / "on demand", "kitchen")
    again = load_identity(tmp_path / "made" / "on demand", "attic")
    assert first.node_id == again.node_id == node_id_of(first.certificate)
    assert len(first.node_id) == 52
    assert (first.name, again.name) == ("kitchen", "attic")
    assert [path.name for path in (tmp_path / "made" / "on demand").iterdir()] == [IDENTITY_FILE]


def test_nobody_else_may_read_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = load_identity(tmp_path).pem
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    load_identity(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "others could read it" in caplog.text


def test_the_random_id_of_earlier_versions_gives_way(tmp_path: Path) -> None:
    (tmp_path / FORMER_IDENTITY_FILE).write_text('{"id": "bs72vznjafakhwhpeienk45dam"}')
    assert load_identity(tmp_path).node_id != "bs72vznjafakhwhpeienk45dam"
    assert not (tmp_path / FORMER_IDENTITY_FILE).exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\x00\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_corrupt_identity_names_the_file_and_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / IDENTITY_FILE
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=r"node\.pem does not hold .* delete it .* or restore it"):
        load_identity(tmp_path)
    assert path.read_bytes() == content


def test_a_certificate_of_another_key_is_refused(tmp_path: Path) -> None:
    key, certificate = key_of("kitchen").split(b"-----BEGIN CERTIFICATE")[0], key_of("attic").split(b"KEY-----\n")[2]
    (tmp_path / IDENTITY_FILE).write_bytes(key + certificate)
    with pytest.raises(IdentityError, match="does not hold this node's key and certificate"):
        load_identity(tmp_path)


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IdentityError, match="--data-dir"):
        load_identity(tmp_path / "file")
    (tmp_path / "taken" / IDENTITY_FILE).mkdir(parents=True)
    with pytest.raises(IdentityError, match="cannot read"):
        load_identity(tmp_path / "taken")


def test_a_certificate_is_a_leaf_of_p256_valid_for_twenty_years_and_names_no_machine(tmp_path: Path) -> None:
    made = identity(tmp_path, os.uname().nodename)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=made.certificate)
    assert context.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 0}
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    parsed = x509.load_der_x509_certificate(made.certificate)
    key = parsed.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    life = parsed.not_valid_after_utc - parsed.not_valid_before_utc
    assert 7300 <= life.days <= 7305
    assert os.uname().nodename not in parsed.subject.rfc4514_string()


def test_only_a_single_leaf_can_be_pinned(tmp_path: Path) -> None:
    leaf = identity(tmp_path, "kitchen").certificate
    assert check_certificate(leaf) == leaf
    other = identity(tmp_path, "attic").certificate
    for bad in (b"", b"x", leaf[:-1], make_certificate(), leaf + b"x", leaf + other, b"\x30" * 2000):
        with pytest.raises(CertificateError):
            check_certificate(bad)


def test_an_authority_is_refused(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    now = datetime.now(UTC)
    authority = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(CertificateError, match="vouch for others"):
        check_certificate(authority.public_bytes(serialization.Encoding.DER))


def test_contexts_speak_tls_1_3_only_and_resume_nothing(tmp_path: Path) -> None:
    mine, other = identity(tmp_path, "kitchen"), identity(tmp_path, "attic")
    server, client = server_context(mine.pem, [other.certificate]), client_context(mine.pem, [other.certificate])
    for context in (server, client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert server.num_tickets == 0
