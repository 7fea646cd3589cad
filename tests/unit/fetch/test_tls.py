from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from gitopsd.fetch.tls import TLSMaterialError, client_context
from tests.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


def test_verification_is_always_on(authority):
    for context in (client_context(), client_context(authority.pem)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_an_authority_is_added_to_those_of_the_system(authority):
    system = client_context().cert_store_stats()["x509"]
    assert client_context(authority.pem).cert_store_stats()["x509"] == system + 1
    client_context(b"# comment\n" + authority.pem + authority.pem)


@pytest.mark.parametrize(
    "ca", [b"nonsense", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----"]
)
def test_A19_an_authority_that_is_not_pem_is_refused(ca):
    with pytest.raises(TLSMaterialError, match=r"'ca.crt' holds no PEM certificate"):
        client_context(ca)


def test_A19_a_key_must_belong_to_its_certificate(authority):
    cert, key = (path.read_bytes() for path in authority.client("one"))
    other = authority.client("two")[1].read_bytes()
    client_context(authority.pem, cert, key)
    with pytest.raises(TLSMaterialError, match=r"'tls.key' does not belong to 'tls.crt'"):
        client_context(authority.pem, cert, other)
    with pytest.raises(TLSMaterialError, match="set together"):
        client_context(b"", cert)
    for broken in ((b"x", key), (cert, b"x")):
        with pytest.raises(TLSMaterialError, match="not a usable PEM"):
            client_context(b"", *broken)


def test_A19_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(authority):
    cert, key = (path.read_bytes() for path in authority.client("three"))
    private = serialization.load_pem_private_key(key, None)
    locked = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )
    with pytest.raises(TLSMaterialError, match="not a usable PEM"):
        client_context(b"", cert, locked)
