"""How a GitRepository gets to its server: Secrets, GitHub Apps, clouds' identities and proxies.

A part of the source controller. Knows `spec/source.md` 5.7 and 11, with the texts of what can fail; refuses to know
what is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from gitopsd.api.meta import Reason
from gitopsd.api.source import GitRepository
from gitopsd.controllers.secrets import Secret
from gitopsd.controllers.source import Services
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import GitAuth, git_auth, refuse_plain_http
from gitopsd.fetch.cloud.github import has_app_data
from gitopsd.fetch.cloud.identity import Identity, require_object_identity
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.gitkeys import fingerprint
from gitopsd.fetch.giturl import parse
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.proxy import Proxy

_APP_USER: Final = "x-access-token"
_NO_APP: Final = "secretRef with github app data must be specified when provider is set to github"
_AUTH_FAILED: Final = "failed to configure authentication options: "
_PROXY_FAILED: Final = "failed to configure proxy options: "
_IDENTITY_GATE: Final = "ObjectLevelWorkloadIdentity"


class Access(NamedTuple):
    """Who an object is towards its server. `account` stands for credentials that are issued anew all the time."""

    auth: GitAuth
    account: str = ""


class GitAccess:
    """Finds out, for one run, who a GitRepository is towards its server. Everything raises FetchError."""

    def __init__(self, services: Services, source: GitRepository) -> None:
        self._services = services
        self._source = source
        self._namespace = source.metadata.namespace

    async def find(self) -> Access:
        """The credentials, checked as far as that goes without asking the server. The caller sets the time limit."""
        url = parse(self._source.spec.url)
        proxy = await self._proxy()
        secret = await self._secret()
        data = secret.data if secret is not None else {}
        auth = git_auth(self._source.spec.url, data, secret=secret.name if secret is not None else "", proxy=proxy)
        access, provider = Access(auth), self._source.spec.provider
        if provider == "github":
            access = await self._github_app(auth, secret)
        elif provider in {"aws", "azure"}:
            access = await self._cloud(auth)
        elif secret is not None and has_app_data(data):
            message = f"secretRef '{secret.name}' has github app data but provider is not set to github"
            raise FetchError(Reason.INVALID_PROVIDER_CONFIGURATION, message)
        if not self._services.settings.insecure_allow_http:
            refuse_plain_http(url, access.auth)
        return access

    # -- Secrets -----------------------------------------------------------------------------------------------

    async def _proxy(self) -> Mapping[str, bytes] | None:
        reference = self._source.spec.proxy_secret_ref
        if reference is None:
            return None
        name = f"{self._namespace}/{reference.name}"
        return (await self._read(reference.name, f"{_PROXY_FAILED}failed to get secret '{name}': ")).data

    async def _secret(self) -> Secret | None:
        reference = self._source.spec.secret_ref
        if reference is None:
            return None
        name = f"{self._namespace}/{reference.name}"
        # The prefix is really doubled upstream, and dashboards match on it.
        return await self._read(reference.name, f"failed to get secret '{name}': failed to get secret '{name}': ")

    async def _read(self, name: str, problem: str) -> Secret:
        try:
            return await self._services.secrets.get(self._namespace, name)
        except GitopsdError as error:
            raise FetchError(Reason.AUTHENTICATION_FAILED, f"{problem}{error}") from error

    # -- providers ---------------------------------------------------------------------------------------------

    async def _github_app(self, auth: GitAuth, secret: Secret | None) -> Access:
        if secret is None:
            raise FetchError(Reason.INVALID_PROVIDER_CONFIGURATION, _NO_APP, stalls=True)
        if not has_app_data(secret.data):
            raise FetchError(Reason.INVALID_PROVIDER_CONFIGURATION, _NO_APP)
        identity = self._identity(auth.proxy, tls=TlsIdentity(auth.ca, auth.client_cert, auth.client_key))
        try:
            token = await self._services.cloud.github_app(secret.data, self._source.spec.url, identity)
        except (GitopsdError, ValueError, TimeoutError) as error:
            raise _unauthenticated(error) from error
        account = f"github {fingerprint(secret.data)}"
        return Access(replace(auth, username=_APP_USER, password=token, bearer=""), account)

    async def _cloud(self, auth: GitAuth) -> Access:
        provider = self._source.spec.provider
        assert provider in {"aws", "azure"}
        try:
            identity = await self._cloud_identity(auth.proxy)
            found = await self._services.cloud.git(
                "aws" if provider == "aws" else "azure", self._source.spec.url, identity
            )
        except FetchError:
            raise  # a gate that is closed says so itself
        except (GitopsdError, ValueError, TimeoutError) as error:
            raise _unauthenticated(error) from error
        account = f"{provider} {self._namespace}/{identity.service_account}" if identity.service_account else provider
        return Access(replace(auth, username=found.username, password=found.password, bearer=found.bearer), account)

    async def _cloud_identity(self, proxy: Proxy | None) -> Identity:
        """The daemon's own identity, or that of the ServiceAccount which the object names."""
        services = self._services
        name = self._source.spec.service_account_name or services.settings.default_source_service_account
        identity = self._identity(proxy)
        if not name:
            return identity
        require_object_identity(is_enabled=services.settings.feature_gates[_IDENTITY_GATE])
        account = await services.secrets.service_account(self._namespace, name)

        async def token(audience: str) -> str:
            return await services.secrets.token(self._namespace, name, audience)

        annotations = (account.get("metadata") or {}).get("annotations") or {}
        return replace(identity, service_account=name, annotations=annotations, token=token)

    def _identity(self, proxy: Proxy | None, tls: TlsIdentity | None = None) -> Identity:
        name = self._source.metadata.name
        return Identity(GitRepository.GVK.kind, self._namespace, name, proxy=proxy, tls=tls or TlsIdentity())


def _unauthenticated(error: Exception) -> FetchError:
    why = str(error) or "no answer in time"
    return FetchError(Reason.AUTHENTICATION_FAILED, f"{_AUTH_FAILED}{why}")
