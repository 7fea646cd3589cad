"""Google Cloud: access tokens, which open its registries and its storage.

Theory of operation. The daemon is the account of the file that `GOOGLE_APPLICATION_CREDENTIALS` names, or else the one
the metadata server speaks for. An object's own identity is its ServiceAccount's token, exchanged at Google's STS: for
the workload identity provider of the annotation, or else for the pool of the GKE cluster we run in; with a second
annotation the result is exchanged once more for a token of a Google service account.

Knows these endpoints and their forms; refuses to know caches and objects. Invariants: metadata never goes through a
proxy; an address out of a tenant's key file is asked over https only.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from gitopsd.fetch.cloud import jwt
from gitopsd.fetch.cloud.answers import (
    is_safe,
    read_file,
    read_token_file,
    seconds,
    seconds_until,
    token_in,
)
from gitopsd.fetch.cloud.endpoint import (
    LOCAL_PATIENCE,
    Request,
    Surroundings,
    ask,
    ask_machine,
    form,
    towards,
)
from gitopsd.fetch.cloud.identity import Identity, Issued
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import ANYBODY, Access, HttpClient
from gitopsd.tasks import offload

PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ACCOUNT_ANNOTATION = "iam.gke.io/gcp-service-account"
PROVIDER_ANNOTATION = "gcp.auth.fluxcd.io/workload-identity-provider"
REGISTRY_USER = "oauth2accesstoken"

_SCOPES = (PLATFORM_SCOPE, "https://www.googleapis.com/auth/userinfo.email")
_METADATA = "169.254.169.254"
_STS = "https://sts.googleapis.com"
_IAM = "https://iamcredentials.googleapis.com"
_REGISTRY = re.compile(r"(?:[a-z0-9-]+\.)*gcr\.io|[a-z0-9-]+-docker\.pkg\.dev")
_ACCOUNT = re.compile(r"[a-zA-Z0-9-]{1,100}@[a-zA-Z0-9-]{1,100}\.iam\.gserviceaccount\.com")
_PROVIDER = re.compile(
    r"projects/[0-9]{1,30}/locations/global/workloadIdentityPools/[a-zA-Z0-9._-]{1,100}/providers/[a-zA-Z0-9._-]{1,100}"
)
_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a type
_JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_WHAT_STS = "Google STS"


def check_registry(host: str) -> None:
    """Raise RemoteError for a host that is no registry of Google."""
    if _REGISTRY.fullmatch(host) is None:
        raise RemoteError(f"invalid GCP registry: '{printable(host, 256)}'")


class Gcp:
    """The provider `gcp`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._cluster: tuple[str, str] | None = None

    async def access(self, identity: Identity) -> Issued[str]:
        """An access token, as the object's identity or else the daemon's. Raises RemoteError."""
        if identity.service_account:
            return await self._of_account(identity)
        if path := self._around.variable("GOOGLE_APPLICATION_CREDENTIALS"):
            return await self._of_file(path, identity)
        query = urlencode({"scopes": ",".join(_SCOPES)}, safe=",")
        request = self._metadata(f"instance/service-accounts/default/token?{query}")
        reply = await ask_machine(self._around.local, request, "Google Cloud")
        fields = reply.fields()
        return Issued(token_in(fields, "access_token", reply.what), seconds(fields.get("expires_in")))

    def _metadata(self, path: str) -> Request:
        host = self._around.variable("GCE_METADATA_HOST") or _METADATA
        url = f"http://{host}/computeMetadata/v1/{path}"
        flavor = {"Metadata-Flavor": "Google"}
        return Request("Google metadata server", url, "GET", flavor, patience=LOCAL_PATIENCE)

    # -- an object's identity

    async def _of_account(self, identity: Identity) -> Issued[str]:
        account = _annotation(identity, ACCOUNT_ANNOTATION, _ACCOUNT)
        provider = _annotation(identity, PROVIDER_ANNOTATION, _PROVIDER)
        if identity.token is None:
            raise RemoteError("there is no token for the ServiceAccount")
        if provider:
            audience = pool = f"//iam.googleapis.com/{provider}"
        else:
            pool, audience = await self._gke()
        subject = await identity.token(pool)
        access = towards(identity)
        sts = self._override("STS", _STS)
        issued = await self._exchange(f"{sts}/v1/token", audience, _JWT_TYPE, subject, access)
        if not account:
            return issued
        iam = self._override("IAMCREDENTIALS", _IAM)
        url = f"{iam}/v1/projects/-/serviceAccounts/{quote(account, safe='@')}:generateAccessToken"
        return await self._impersonate(url, issued.value, access)

    def _override(self, service: str, default: str) -> str:
        return (self._around.variable(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service}") or default).rstrip("/")

    async def _gke(self) -> tuple[str, str]:
        """The workload identity pool of our cluster, and the audience that its tokens are exchanged for."""
        if self._cluster is None:
            names = ("project/project-id", "instance/attributes/cluster-location", "instance/attributes/cluster-name")
            project, location, cluster = [
                (await ask(self._around.local, self._metadata(name))).text() for name in names
            ]
            pool = f"{project}.svc.id.goog"
            path = f"projects/{project}/locations/{location}/clusters/{cluster}"
            self._cluster = pool, f"identitynamespace:{pool}:https://container.googleapis.com/v1/{path}"
        return self._cluster

    async def _exchange(self, url: str, audience: str, kind: str, subject: str, access: Access) -> Issued[str]:
        values = {
            "grant_type": _EXCHANGE,
            "audience": audience,
            "scope": " ".join(_SCOPES),
            "requested_token_type": _ACCESS_TOKEN,
            "subject_token_type": kind,
            "subject_token": subject,
        }
        reply = await ask(self._around.web, form(_WHAT_STS, url, values, access=access, secrets=(subject,)))
        fields = reply.fields()
        return Issued(token_in(fields, "access_token", _WHAT_STS), seconds(fields.get("expires_in")))

    async def _impersonate(self, url: str, token: str, access: Access) -> Issued[str]:
        what = "Google IAM credentials"
        headers = {"Content-Type": "application/json"}
        body = orjson.dumps({"scope": list(_SCOPES), "lifetime": "3600s"})
        access = Access(authorization=f"Bearer {token}", tls=access.tls, proxy=access.proxy)
        reply = await ask(self._around.web, Request(what, url, "POST", headers, body, access))
        fields = reply.fields()
        return Issued(
            token_in(fields, "accessToken", what), seconds_until(fields.get("expireTime"), self._around.now())
        )

    # -- the daemon's identity out of a file

    async def _of_file(self, path: str, identity: Identity) -> Issued[str]:
        what = "GOOGLE_APPLICATION_CREDENTIALS"
        fields = _object(await read_file(path, what), what)
        access = towards(identity)
        try:
            if fields.get("type") == "external_account":
                return await self._external(fields, access)
            return await _account_token(
                self._around.web, fields, " ".join(_SCOPES), access, self._around.now, trusted=True
            )
        except ValueError as error:
            raise RemoteError(f"{what}: {error}") from None

    async def _external(self, fields: Mapping[str, Any], access: Access) -> Issued[str]:
        """Workload identity federation, with a token that the kubelet keeps in a file."""
        source = fields.get("credential_source")
        path = source.get("file") if isinstance(source, dict) else None
        url, audience = fields.get("token_url"), fields.get("audience")
        if not (isinstance(path, str) and isinstance(url, str) and isinstance(audience, str)):
            raise RemoteError("GOOGLE_APPLICATION_CREDENTIALS: only external accounts with a token file are known")
        subject = await read_token_file(path, _WHAT_STS)
        issued = await self._exchange(url, audience, str(fields.get("subject_token_type", _JWT_TYPE)), subject, access)
        impersonation = fields.get("service_account_impersonation_url")
        return await self._impersonate(impersonation, issued.value, access) if impersonation else issued


async def service_account_token(
    web: HttpClient, key: bytes, *, scope: str = PLATFORM_SCOPE, access: Access = ANYBODY
) -> str:
    """Exchange a service account's key (its JSON file) for a bearer token.

    Raises RemoteError, and ValueError, safe to show, for a key that cannot be used.
    """
    try:
        fields = orjson.loads(key)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError("the service account's key is no JSON object")  # noqa: TRY004 - it is the value that is wrong
    return (await _account_token(web, fields, scope, access, time.time)).value


async def _account_token(
    web: HttpClient,
    fields: Mapping[str, Any],
    scope: str,
    access: Access,
    now: Callable[[], float],
    *,
    trusted: bool = False,
) -> Issued[str]:
    if fields.get("type") != "service_account":
        raise ValueError("only keys of type 'service_account' can be used")
    email, pem, url = fields.get("client_email"), fields.get("private_key"), fields.get("token_uri") or _TOKEN_URI
    if not (isinstance(email, str) and isinstance(pem, str) and isinstance(url, str)):
        raise ValueError("the service account's key has no 'client_email' or no 'private_key'")  # noqa: TRY004 - as above
    if not trusted and not is_safe(url):
        raise ValueError("'token_uri' of the service account's key is no https URL")
    moment = int(now())
    claims = {"iss": email, "scope": scope, "aud": url, "iat": moment, "exp": moment + 3600}
    header = {"kid": str(fields.get("private_key_id", ""))}
    assertion = await offload(lambda: jwt.signed(jwt.rsa_key(pem.encode()), claims, header))
    what = "Google token endpoint"
    values = {"grant_type": _JWT_BEARER, "assertion": assertion}
    reply = await ask(web, form(what, url, values, access=access, secrets=(assertion,)))
    found = reply.fields()
    return Issued(token_in(found, "access_token", what), seconds(found.get("expires_in")))


def _annotation(identity: Identity, name: str, pattern: re.Pattern[str]) -> str:
    value = identity.annotations.get(name, "")
    if value and pattern.fullmatch(value) is None:
        account = f"{identity.namespace}/{identity.service_account}"
        raise RemoteError(f"ServiceAccount '{account}': invalid annotation '{name}': '{printable(value, 256)}'")
    return value


def _object(raw: bytes, what: str) -> Mapping[str, Any]:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise RemoteError(f"{what}: the answer is no JSON object")
    return found
