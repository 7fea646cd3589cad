"""How an OCIRepository gets into its registry: pull secrets, clouds' tokens, certificates and proxies.

A part of the source controller. Knows `spec/source.md` 6.3 and 11, with the texts of what can fail; refuses to know
what is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from gitopsd.api.meta import ConditionType, Reason
from gitopsd.api.source import OCIRepository
from gitopsd.controllers.secrets import Secret
from gitopsd.controllers.source import Services, SourceError
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import tls_identity
from gitopsd.fetch.cloud.identity import Identity, require_object_identity
from gitopsd.fetch.cloud.tokens import Cloud
from gitopsd.fetch.dockerconfig import credentials
from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.proxy import Proxy, proxy_from_secret
from gitopsd.fetch.registry import RegistryAccess, Repository, parse_repository
from gitopsd.fetch.tls import TLSMaterialError, client_context
from gitopsd.krm.objects import Obj, get_in
from gitopsd.kube.errors import NotFoundError
from gitopsd.tasks import offload


class OCIAccess:
    """Finds out, for one run, who an OCIRepository is towards its registry. Everything raises SourceError."""

    def __init__(self, services: Services, source: OCIRepository, obj: Obj) -> None:
        """`obj` is what events are told about."""
        self._services = services
        self._obj = obj
        self._source = source
        self._namespace = source.metadata.namespace

    async def find(self) -> tuple[Repository, RegistryAccess]:
        """The repository, and how to get into it. The caller sets the time limit."""
        spec = self._source.spec
        secrets = await self._pull_secrets()
        proxy = await self._proxy()
        repository = self._repository()
        is_of_cloud = not secrets and spec.provider != "generic"
        if is_of_cloud:
            username, password = await self._cloud(repository, proxy)
            token = ""
        else:
            username, password, token = await self._static(secrets, repository)
        # What a cloud gives out is shown to nobody who does not prove to be its registry.
        insecure = spec.insecure and not is_of_cloud
        access = RegistryAccess(
            username=username,
            password=password,
            token=token,
            tls=await self._tls(insecure=insecure),
            proxy=proxy,
            plain_http=insecure,
            timeout=spec.timeout_seconds,
        )
        return repository, access

    def _repository(self) -> Repository:
        url = self._source.spec.url
        try:
            return parse_repository(url)
        except ValueError as error:
            message = f"URL validation failed for '{url}': {error}"
            raise SourceError(ConditionType.FETCH_FAILED, Reason.URL_INVALID, message, stalls=True) from error

    # -- credentials -------------------------------------------------------------------------------------------

    async def _pull_secrets(self) -> list[Secret]:
        """The Secret of the spec and those of the ServiceAccount; of whatever type (`spec/source.md` 11.1)."""
        spec = self._source.spec
        try:
            found = [] if spec.secret_ref is None else [await self._referenced(spec.secret_ref.name)]
            if spec.service_account_name:
                names = await self._image_pull_secrets(spec.service_account_name)
                found += [await self._secret(name) for name in names]
        except GitopsdError as error:
            raise _unauthenticated("failed to get credential", error) from error
        return found

    async def _referenced(self, name: str) -> Secret:
        """The Secret of the spec; that it is missing is told by an event of its own, too."""
        try:
            return await self._secret(name)
        except RemoteError as error:
            if isinstance(error.__cause__, NotFoundError):
                text = f"auth secret '{name}' not found"
                self._services.event(self._obj, "Trace", Reason.AUTHENTICATION_FAILED, text)
            raise

    async def _image_pull_secrets(self, name: str) -> list[str]:
        try:
            account = await self._services.secrets.service_account(self._namespace, name)
        except NotFoundError as error:
            raise RemoteError(f"serviceaccount '{self._namespace}/{name}' not found") from error
        rows = get_in(account, "imagePullSecrets", default=[])
        return [str(row["name"]) for row in rows if row.get("name")]

    async def _secret(self, name: str) -> Secret:
        try:
            return await self._services.secrets.get(self._namespace, name)
        except GitopsdError as error:
            raise RemoteError(f"failed to get secret '{self._namespace}/{name}': {error}") from error

    async def _static(self, secrets: list[Secret], repository: Repository) -> tuple[str, str, str]:
        try:
            return await offload(credentials, [(secret.type, secret.data) for secret in secrets], repository)
        except ValueError as error:
            raise _unauthenticated("failed to get credential", error) from error

    async def _cloud(self, repository: Repository, proxy: Proxy | None) -> tuple[str, str]:
        provider = self._source.spec.provider
        try:
            identity = await self._identity(proxy)
            return await self._services.cloud.registry(cast("Cloud", provider), repository.host, identity)
        except FetchError as error:
            # Only Stalled tells of a gate that is closed.
            raise SourceError(None, error.reason, error.message, stalls=error.stalls) from error
        except (GitopsdError, TimeoutError) as error:
            raise _unauthenticated(f"failed to get credential from {provider}", error) from error

    async def _identity(self, proxy: Proxy | None) -> Identity:
        """The daemon's own identity, or that of the ServiceAccount which the object names."""
        services, metadata = self._services, self._source.metadata
        name = self._source.spec.service_account_name or services.settings.default_source_service_account
        annotations: Mapping[str, str] = {}
        if name:
            require_object_identity(is_enabled=services.settings.feature_gates["ObjectLevelWorkloadIdentity"])
            account = await services.secrets.service_account(self._namespace, name)
            annotations = get_in(account, "metadata", "annotations", default={})

        async def token(audience: str) -> str:
            return await services.secrets.token(self._namespace, name, audience)

        return Identity(
            kind="OCIRepository",
            namespace=self._namespace,
            name=metadata.name,
            proxy=proxy,
            service_account=name,
            annotations=annotations,
            token=token if name else None,
        )

    # -- the way -----------------------------------------------------------------------------------------------

    async def _proxy(self) -> Proxy | None:
        reference = self._source.spec.proxy_secret_ref
        if reference is None:
            return None
        try:
            return proxy_from_secret((await self._secret(reference.name)).data)
        except (GitopsdError, ValueError) as error:
            raise _unauthenticated("failed to get proxy address", error) from error

    async def _tls(self, *, insecure: bool) -> TlsIdentity:
        spec = self._source.spec
        if spec.cert_secret_ref is None:
            return TlsIdentity(insecure=insecure)
        try:
            secret = await self._secret(spec.cert_secret_ref.name)
            identity = tls_identity(secret.data, secret=secret.name)
            # Whether it can be used is to be told as its own failure, not as that of the first request.
            await offload(client_context, identity.ca, identity.cert, identity.key)
        except (GitopsdError, TLSMaterialError, ValueError) as error:
            raise _unauthenticated(f"failed to generate transport for '{spec.url}'", error) from error
        return identity


def _unauthenticated(what: str, error: Exception) -> SourceError:
    return SourceError(ConditionType.FETCH_FAILED, Reason.AUTHENTICATION_FAILED, f"{what}: {error}")
