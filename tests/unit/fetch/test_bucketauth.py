"""Which keys of a Secret make which credentials (spec/source.md 11.1, the rows about buckets)."""

from __future__ import annotations

import base64

import pytest

from gitopsd.fetch.bucketauth import (
    AzureClient,
    AzureLogin,
    ManagedIdentity,
    Sas,
    azure_login,
    gcs_key,
    ldap_login,
    s3_keys,
)
from gitopsd.fetch.bucketsigning import SharedKey

KEY = base64.b64encode(b"key")


def test_s11_1_generic_and_aws_need_both_keys() -> None:
    keys = s3_keys({"accesskey": b"id\n", "secretkey": b"secret"}, "creds")
    assert (keys.access_key, keys.secret_key, keys.session_token) == ("id", "secret", "")
    assert "secret'" not in repr(keys)


@pytest.mark.parametrize("data", [{}, {"accesskey": b"a"}, {"secretkey": b"b"}, {"accessKey": b"a", "secretKey": b"b"}])
def test_I08_keys_that_are_missing_are_named(data: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"^invalid 'creds' secret data: required fields 'accesskey' and 'secretkey'$"):
        s3_keys(data, "creds")


def test_an_access_key_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^invalid 'creds' secret data: 'accesskey' holds characters that it cannot have$"
    ):
        s3_keys({"accesskey": b"a\nb", "secretkey": b"c"}, "creds")


def test_s11_1_gcp_needs_the_service_account() -> None:
    assert gcs_key({"serviceaccount": b"{}"}, "creds") == b"{}"
    with pytest.raises(ValueError, match=r"^invalid 'creds' secret data: required fields 'serviceaccount'$"):
        gcs_key({"serviceAccount": b"{}"}, "creds")


def test_s11_1_ldap_needs_a_user_and_a_password() -> None:
    assert ldap_login({"username": b"u", "password": "pä".encode()}, "creds") == ("u", "pä")
    for data in ({"username": b"u"}, {"password": b"p"}):
        with pytest.raises(ValueError, match=r"^invalid 'creds' secret data for 'ldap' STS provider: required fields"):
            ldap_login(data, "creds")


_BASE = {"tenantId": b"t", "clientId": b"c"}


@pytest.mark.parametrize(
    ("data", "login"),
    [
        (
            _BASE | {"clientSecret": b"s", "clientCertificate": b"x", "accountKey": KEY},
            AzureClient("t", "c", secret="s"),
        ),
        (
            _BASE | {"clientSecret": b"s", "authorityHost": b"https://login.example.com"},
            AzureClient("t", "c", secret="s", authority="https://login.example.com"),
        ),
        (_BASE | {"clientCertificate": b"pem", "accountKey": KEY}, AzureClient("t", "c", certificate=b"pem")),
        (
            _BASE | {"clientCertificate": b"p", "clientCertificatePassword": b"pw", "clientCertificateSendChain": b"1"},
            AzureClient("t", "c", certificate=b"p", password="pw", send_chain=True),
        ),
        (
            _BASE | {"clientCertificate": b"p", "clientCertificateSendChain": b"true"},
            AzureClient("t", "c", certificate=b"p", send_chain=True),
        ),
        (
            _BASE | {"clientCertificate": b"p", "clientCertificateSendChain": b"yes"},
            AzureClient("t", "c", certificate=b"p"),
        ),
        (_BASE | {"accountKey": KEY}, ManagedIdentity("c")),
        ({"clientId": b"c", "accountKey": KEY, "sasKey": b"sig=1"}, ManagedIdentity("c")),
        ({"tenantId": b"t", "accountKey": KEY, "sasKey": b"sig=1"}, SharedKey("account", b"key")),
        ({"sasKey": b"?sv=1&sig=x\n"}, Sas("?sv=1&sig=x")),
        ({"authorityHost": b"https://login.example.com"}, None),
    ],
    ids=[
        "secret-first",
        "authority",
        "certificate",
        "certificate-with-password",
        "chain-true",
        "chain-other",
        "tenant-and-client-alone",
        "client",
        "account-key",
        "sas",
        "only-authority",
    ],
)
def test_s11_1_azure_takes_the_first_way_that_the_secret_allows(
    data: dict[str, bytes], login: AzureLogin | None
) -> None:
    assert azure_login(data, "creds", "account") == login
    assert all(word not in repr(login) for word in ("sig=", "b'key'", "'s'", "'pw'"))


@pytest.mark.parametrize(
    "data", [{}, {"tenantId": b"t"}, {"clientSecret": b"s"}, {"tenantId": b"t", "clientSecret": b"s"}]
)
def test_I08_an_azure_secret_without_any_way_is_refused(data: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"^invalid 'creds' secret data: it holds none of 'clientId', "):
        azure_login(data, "creds", "account")


def test_s11_1_a_shared_key_needs_an_account_in_the_endpoint() -> None:
    with pytest.raises(ValueError, match=r"^invalid 'creds' secret data: 'accountKey' needs an endpoint"):
        azure_login({"accountKey": KEY}, "creds", "")
    with pytest.raises(ValueError, match=r"^invalid 'creds' secret data: 'accountKey' is not base64$"):
        azure_login({"accountKey": b"###"}, "creds", "account")
