"""Azure: tokens of Microsoft Entra ID, and what they open: container registries, DevOps and storage.

Theory of operation. The daemon is the first of: a client secret, a client certificate, a federated token (workload
identity), a managed identity. An object's own identity is a federated token: that of its ServiceAccount, for the client
and tenant of the annotations. A token is for one scope; a registry's own refresh token is exchanged for one of them.

Knows these endpoints and their forms; refuses to know caches and objects. Invariants: what proves an identity goes to
the authority only, over https unless the environment says otherwise; metadata never goes through a proxy.
"""

from __future__ import annotations

import base64
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from gitopsd.fetch.cloud import jwt
from gitopsd.fetch.cloud.answers import is_safe, read_file, read_token_file, seconds, seconds_until, token_in
from gitopsd.fetch.cloud.endpoint import (
    LOCAL_PATIENCE,
    Reply,
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

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

AUDIENCE = "api://AzureADTokenExchange"
CLIENT_ANNOTATION = "azure.workload.identity/client-id"
TENANT_ANNOTATION = "azure.workload.identity/tenant-id"
STORAGE_SCOPE = "https://storage.azure.com/.default"
DEVOPS_SCOPE = "499b84ac-1321-427f-aa17-267ca6975798/.default"
REGISTRY_USER = "00000000-0000-0000-0000-000000000000"

_WHAT = "Azure token endpoint"
_AUTHORITY = "https://login.microsoftonline.com/"
_METADATA = "http://169.254.169.254"
_REGISTRY = re.compile(r"(?:[a-z0-9-]+\.)+azurecr\.(?:io|cn|de|us)")
_DEVOPS = re.compile(r"(?:[a-z0-9-]+\.)*(?:dev\.azure\.com|visualstudio\.com)")
_TENANT = re.compile(r"[0-9A-Za-z.-]{1,128}")
_ASSERTION_LIFETIME = 600
_REGISTRY_LIFETIME = 3 * 3600.0
_RESOURCE_MANAGERS = {".azurecr.cn": "management.chinacloudapi.cn", ".azurecr.us": "management.usgovcloudapi.net"}
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def registry_scope(host: str) -> str:
    """The scope that opens a registry. Raises RemoteError for a host that is no registry of Azure."""
    if _REGISTRY.fullmatch(host) is None:
        raise RemoteError(f"invalid Azure registry: '{printable(host, 256)}'")
    manager = next((name for end, name in _RESOURCE_MANAGERS.items() if host.endswith(end)), "management.azure.com")
    return f"https://{manager}/.default"


def check_devops(url: str, identity: Identity) -> None:
    """Refuse to hand the daemon's own token to anybody but Azure DevOps. Raises RemoteError.

    An object that brings its own identity may take it where it wants.
    """
    if identity.service_account:
        return
    parts = urlsplit(url)
    if parts.scheme != "https" or _DEVOPS.fullmatch(parts.hostname or "") is None:
        shown = printable(f"{parts.scheme}://{parts.hostname}", 256)
        raise RemoteError(
            f"the daemon's Azure identity is not shown to '{shown}', which is not Azure DevOps over https; "
            "use spec.serviceAccountName"
        )


class Azure:
    """The provider `azure`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def access(self, identity: Identity, scope: str) -> Issued[str]:
        """A bearer token for `scope`, as the object's identity or else the daemon's. Raises RemoteError."""
        if identity.service_account:
            return await self._of_account(identity, scope)
        variable = self._around.variable
        tenant, client = variable("AZURE_TENANT_ID"), variable("AZURE_CLIENT_ID")
        client_access = towards(identity)
        if tenant and client and variable("AZURE_CLIENT_SECRET"):
            proof = {"client_secret": variable("AZURE_CLIENT_SECRET")}
            return await self._token(tenant, client, proof, scope, client_access)
        if tenant and client and variable("AZURE_CLIENT_CERTIFICATE_PATH"):
            return await self._of_certificate(tenant, client, scope, client_access)
        if tenant and client and variable("AZURE_FEDERATED_TOKEN_FILE"):
            token = await read_token_file(variable("AZURE_FEDERATED_TOKEN_FILE"), "Azure workload identity")
            return await self._token(tenant, client, _assertion(token), scope, client_access)
        return await self.managed(scope, client)

    async def _of_account(self, identity: Identity, scope: str) -> Issued[str]:
        values = {name: identity.annotations.get(name, "") for name in (TENANT_ANNOTATION, CLIENT_ANNOTATION)}
        for name, value in values.items():
            if not value:
                account = f"{identity.namespace}/{identity.service_account}"
                raise RemoteError(f"ServiceAccount '{account}' has no annotation '{name}'")
        if identity.token is None:
            raise RemoteError("there is no token for the ServiceAccount")
        proof = _assertion(await identity.token(AUDIENCE))
        tenant, client = values.values()
        return await self._token(tenant, client, proof, scope, towards(identity))

    async def _of_certificate(self, tenant: str, client: str, scope: str, access: Access) -> Issued[str]:
        variable = self._around.variable
        pem = await read_file(variable("AZURE_CLIENT_CERTIFICATE_PATH"), "Azure client certificate")
        address = _token_url(variable("AZURE_AUTHORITY_HOST"), tenant, trusted=True)
        send_chain = variable("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN").lower() in {"1", "true"}
        password = variable("AZURE_CLIENT_CERTIFICATE_PASSWORD")
        try:
            proof = await offload(
                _certificate_assertion, pem, password, client, address, self._around.now, send_chain=send_chain
            )
        except ValueError as error:
            raise RemoteError(f"{_WHAT}: {error}") from None
        return await self._token(tenant, client, _assertion(proof), scope, access)

    async def _token(
        self, tenant: str, client: str, proof: Mapping[str, str], scope: str, access: Access
    ) -> Issued[str]:
        address = _token_url(self._around.variable("AZURE_AUTHORITY_HOST"), tenant, trusted=True)
        return await _client_token(self._around.web, address, client, proof, scope, access)

    async def managed(self, scope: str, client: str = "") -> Issued[str]:
        """A token of the machine's identity, or of the one that `client` names. Raises RemoteError."""
        what = "Azure managed identity"
        values = {"resource": scope.removesuffix("/.default")} | ({"client_id": client} if client else {})
        header = self._around.variable("IDENTITY_HEADER")
        if header and (endpoint := self._around.variable("IDENTITY_ENDPOINT")):
            url = f"{endpoint}?{urlencode({'api-version': '2019-08-01', **values})}"
            headers = {"X-IDENTITY-HEADER": header}
        else:
            base = (self._around.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST") or _METADATA).rstrip("/")
            url = f"{base}/metadata/identity/oauth2/token?{urlencode({'api-version': '2018-02-01', **values})}"
            headers = {"Metadata": "true"}
        request = Request(what, url, "GET", headers, secrets=(header,), patience=LOCAL_PATIENCE)
        return _issued(await ask_machine(self._around.local, request, "Azure"))

    async def registry(self, host: str, token: str, identity: Identity) -> Issued[tuple[str, str]]:
        """Exchange a token for user name and password of a registry. Raises RemoteError."""
        what = "Azure container registry"
        registry_scope(host)
        values = {"grant_type": "access_token", "service": host, "access_token": token}
        request = form(what, f"https://{host}/oauth2/exchange", values, access=towards(identity), secrets=(token,))
        reply = await ask(self._around.web, request)
        refresh = token_in(reply.fields(), "refresh_token", what)
        ends = jwt.expiry(refresh)
        lifetime = _REGISTRY_LIFETIME if ends is None else seconds_until(ends, self._around.now())
        return Issued((REGISTRY_USER, refresh), lifetime)


async def client_secret_token(
    web: HttpClient,
    *,
    tenant: str,
    client: str,
    secret: str,
    authority: str = "",
    scope: str = STORAGE_SCOPE,
    access: Access = ANYBODY,
) -> str:
    """Exchange a client's secret for a bearer token; `authority` is a Secret's `authorityHost`.

    Raises RemoteError, and ValueError for values that cannot be used.
    """
    address = _token_url(authority, tenant)
    return (await _client_token(web, address, client, {"client_secret": secret}, scope, access)).value


async def client_certificate_token(
    web: HttpClient,
    *,
    tenant: str,
    client: str,
    certificate: bytes,
    password: str = "",
    send_chain: bool = False,
    authority: str = "",
    scope: str = STORAGE_SCOPE,
    access: Access = ANYBODY,
) -> str:
    """Exchange a client's certificate (PEM or PKCS#12, with its key) for a bearer token.

    Raises RemoteError, and ValueError for values that cannot be used.
    """
    address = _token_url(authority, tenant)
    proof = await offload(
        _certificate_assertion, certificate, password, client, address, time.time, send_chain=send_chain
    )
    return (await _client_token(web, address, client, _assertion(proof), scope, access)).value


async def _client_token(
    web: HttpClient, address: str, client: str, proof: Mapping[str, str], scope: str, access: Access
) -> Issued[str]:
    values = {"grant_type": "client_credentials", "client_id": client, "scope": scope, **proof}
    secrets = tuple(value for name, value in proof.items() if name != "client_assertion_type")
    return _issued(await ask(web, form(_WHAT, address, values, access=access, secrets=secrets)))


def _issued(reply: Reply) -> Issued[str]:
    found = reply.fields()
    return Issued(token_in(found, "access_token", reply.what), seconds(found.get("expires_in")))


def _assertion(token: str) -> dict[str, str]:
    return {"client_assertion_type": _JWT_BEARER, "client_assertion": token}


def _token_url(authority: str, tenant: str, *, trusted: bool = False) -> str:
    """Where a tenant's tokens are given out. Raises ValueError (RemoteError where `trusted`: it is our own setup)."""
    problem = ""
    if _TENANT.fullmatch(tenant) is None:
        problem = f"invalid Azure tenant: '{printable(tenant, 128)}'"
    elif authority and not trusted and not is_safe(authority):
        problem = "the authority host of Azure is no https URL"
    if problem:
        raise RemoteError(problem) if trusted else ValueError(problem)
    return f"{(authority or _AUTHORITY).rstrip('/')}/{tenant}/oauth2/v2.0/token"


def _certificate_assertion(
    material: bytes, password: str, client: str, address: str, now: Callable[[], float], *, send_chain: bool
) -> str:
    """What proves that we hold a certificate's key. Blocking. Raises ValueError, safe to show."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    key, certificates = _open(material, password)
    moment = int(now())
    header: dict[str, object] = {
        "alg": "PS256",
        "x5t#S256": jwt.encoded(certificates[0].fingerprint(hashes.SHA256())),
    }
    if send_chain:
        header["x5c"] = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in certificates]
    claims = {
        "aud": address,
        "iss": client,
        "sub": client,
        "jti": str(uuid.uuid4()),
        "nbf": moment,
        "exp": moment + _ASSERTION_LIFETIME,
    }
    return jwt.signed(key, claims, header)


def _open(material: bytes, password: str) -> tuple[RSAPrivateKey, list[Certificate]]:
    """A key, and its certificate before those that signed it. Raises ValueError, safe to show."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12

    secret = password.encode() or None
    try:
        if b"-----BEGIN " in material:
            key = load_pem_private_key(material, secret)
            certificates = x509.load_pem_x509_certificates(material)
        else:
            bundle = pkcs12.load_pkcs12(material, secret)
            key = bundle.key  # type: ignore[assignment]  # which kind of key it is, is asked below
            certificates = [one.certificate for one in (bundle.cert, *bundle.additional_certs) if one is not None]
    except (ValueError, TypeError):
        raise ValueError("the client certificate, or its password, cannot be used") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("the client certificate has no RSA key")  # noqa: TRY004 - it is the value that is wrong
    own = key.public_key()
    certificates.sort(key=lambda one: one.public_key() != own)
    if not certificates or certificates[0].public_key() != own:
        raise ValueError("the client certificate does not belong to its key")
    return key, certificates
