"""Keys for S3 from a security token service that knows people by LDAP.

Knows the request AssumeRoleWithLDAPIdentity; refuses to know buckets. Amazon's own service is `fetch.cloud`'s business.
Invariants: what the service answers is bounded and holds no document type (spec/hostile-inputs.md I09); the password
is in no message.
"""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from gitopsd.fetch.auth import mask
from gitopsd.fetch.bucketclient import BucketError, without_queries
from gitopsd.fetch.bucketxml import read_xml
from gitopsd.fetch.cloud.identity import AwsKeys
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Access, HttpClient

_MOST_BYTES = 1 << 20
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def ldap_keys(web: HttpClient, endpoint: str, username: str, password: str, access: Access) -> AwsKeys:
    """Exchange an LDAP login for keys. The caller sets the time limit. Raises RemoteError."""
    form = {
        "Action": "AssumeRoleWithLDAPIdentity",
        "Version": "2011-06-15",
        "LDAPUsername": username,
        "LDAPPassword": password,
    }
    secrets = (password, *access.secrets)
    body = urlencode(form, errors="surrogateescape").encode()
    try:
        async with web.request("POST", endpoint, access=access, headers=_FORM, body=body, follow=False) as answer:
            data = await answer.read(_MOST_BYTES, "token service's answer")
            status = answer.status
        if status != 200:
            raise _refusal(status, data, secrets)
        return _keys(data)
    except BucketError:
        raise
    except RemoteError as error:
        text = mask(without_queries(error.message), secrets)
        raise RemoteError(f"failed to get keys from the STS endpoint: {text}", rule=error.rule) from error


def _refusal(status: int, data: bytes, secrets: tuple[str, ...]) -> BucketError:
    try:
        records = read_xml(data, "Error").records
    except RemoteError:
        records = []
    error = records[0] if records else {}
    code, message = printable(error.get("Code", ""), 128), printable(without_queries(error.get("Message", "")))
    text = ": ".join(part for part in (code, message) if part) or "no reason given"
    text = mask(text, secrets)
    return BucketError(f"the STS endpoint refused (status {status}): {text}", status=status, code=code)


def _keys(data: bytes) -> AwsKeys:
    records = read_xml(data, "Credentials").records
    found = records[0] if records else {}
    keys = AwsKeys(found.get("AccessKeyId", ""), found.get("SecretAccessKey", ""), found.get("SessionToken", ""))
    if not keys.access_key or not keys.secret_key:
        raise RemoteError("its answer holds no keys")
    if not all(part.isascii() and part.isprintable() for part in (keys.access_key, keys.session_token)):
        raise RemoteError("its answer holds keys that cannot be used")
    return keys


def check_sts_endpoint(endpoint: str) -> None:
    """Raise ValueError, safe to show, for an address that cannot be taken apart."""
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError:
        raise ValueError("it is no URL") from None
    if not parts.hostname:
        raise ValueError("it names no host")
    if not endpoint.isprintable() or any(map(str.isspace, endpoint)):
        raise ValueError("it holds characters that a URL does not have")
