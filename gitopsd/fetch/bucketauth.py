"""From a Secret's data to what a bucket is asked with (spec/source.md 11.1).

Knows the keys of each provider and their precedence; refuses to know Kubernetes and networks. Pure. Invariants:
credentials are no part of a `repr`; every ValueError is free of them, and names the Secret (`secret` is its name).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gitopsd.fetch.bucketsigning import SharedKey
from gitopsd.fetch.cloud.identity import AwsKeys

Data = Mapping[str, bytes]


@dataclass(frozen=True)
class AzureClient:
    """An application of Entra ID that proves itself by a secret or by a certificate."""

    tenant: str
    client: str
    secret: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    password: str = field(default="", repr=False)
    send_chain: bool = False
    authority: str = ""


@dataclass(frozen=True)
class ManagedIdentity:
    """An identity that Azure gives to the machine."""

    client: str


@dataclass(frozen=True)
class Sas:
    """A signature that is part of every address."""

    query: str = field(repr=False)


AzureLogin = AzureClient | ManagedIdentity | SharedKey | Sas


def s3_keys(data: Data, secret: str) -> AwsKeys:
    """The keys of generic and aws buckets. Raises ValueError."""
    if "accesskey" not in data or "secretkey" not in data:
        raise ValueError(f"invalid '{secret}' secret data: required fields 'accesskey' and 'secretkey'")
    return AwsKeys(_word(data, "accesskey", secret), _text(data, "secretkey"))


def gcs_key(data: Data, secret: str) -> bytes:
    """The service account's key of gcp buckets. Raises ValueError."""
    if "serviceaccount" not in data:
        raise ValueError(f"invalid '{secret}' secret data: required fields 'serviceaccount'")
    return data["serviceaccount"]


def ldap_login(data: Data, secret: str) -> tuple[str, str]:
    """User name and password for the ldap token service. Raises ValueError."""
    if "username" not in data or "password" not in data:
        fields = "required fields username, password"
        raise ValueError(f"invalid '{secret}' secret data for 'ldap' STS provider: {fields}")
    return _text(data, "username"), _text(data, "password")


def azure_login(data: Data, secret: str, account: str) -> AzureLogin | None:
    """The first way of azure buckets that the data allows; None when it only names an authority.

    `account` is the account of a shared key, empty when the endpoint names none. Raises ValueError.
    """
    tenant, client = _word(data, "tenantId", secret), _word(data, "clientId", secret)
    authority = _word(data, "authorityHost", secret)
    if tenant and client and data.get("clientSecret"):
        return AzureClient(tenant, client, secret=_text(data, "clientSecret"), authority=authority)
    if tenant and client and data.get("clientCertificate"):
        return AzureClient(
            tenant,
            client,
            certificate=data["clientCertificate"],
            password=_text(data, "clientCertificatePassword"),
            send_chain=_text(data, "clientCertificateSendChain") in {"1", "true"},
            authority=authority,
        )
    if client:
        return ManagedIdentity(client)
    other = _azure_key(data, secret, account)
    if other is None and not authority:
        ways = "'clientId', 'accountKey', 'sasKey', or 'tenantId' and 'clientId' with a secret or a certificate"
        raise ValueError(f"invalid '{secret}' secret data: it holds none of {ways}")
    return other


def _azure_key(data: Data, secret: str, account: str) -> SharedKey | Sas | None:
    if data.get("accountKey"):
        if not account:
            raise ValueError(f"invalid '{secret}' secret data: 'accountKey' needs an endpoint that names an account")
        try:
            return SharedKey.read(account, _word(data, "accountKey", secret))
        except ValueError as error:
            raise ValueError(f"invalid '{secret}' secret data: {error}") from None
    if data.get("sasKey"):
        return Sas(_word(data, "sasKey", secret))
    return None


def _text(data: Data, key: str) -> str:
    return data.get(key, b"").decode("utf-8", "surrogateescape")


def _word(data: Data, key: str, secret: str) -> str:
    """A value that goes into a header or an address."""
    text = _text(data, key).strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"invalid '{secret}' secret data: '{key}' holds characters that it cannot have")
    return text
