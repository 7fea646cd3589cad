"""The Helm repositories that a HelmChart needs: its own, and those of its chart's dependencies.

A part of the source controller. Knows which HelmRepository lends its credentials to which address (`spec/source.md`
8.3) and the registries' row of 11.1; refuses to know charts. Invariant: only HelmRepositories of the chart's own
namespace lend anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gitopsd.api.meta import Artifact, ConditionType, Reason
from gitopsd.api.resource import DecodeError
from gitopsd.api.source import HelmRepository
from gitopsd.controllers.helmrepository_access import basic_auth, repository_access
from gitopsd.controllers.secrets import Secret
from gitopsd.controllers.source import Services, SourceError
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import tls_identity
from gitopsd.fetch.cloud.identity import Identity
from gitopsd.fetch.dockerconfig import JSON_TYPE, credentials
from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.fetch.helmcharts import IndexCharts, RegistryCharts
from gitopsd.fetch.helmindex import HelmIndex
from gitopsd.fetch.helmindexdownload import download
from gitopsd.fetch.helmindexurls import index_url
from gitopsd.fetch.http import Access, TlsIdentity
from gitopsd.fetch.registry import RegistryAccess, Repository, parse_repository
from gitopsd.fetch.tls import TLSMaterialError
from gitopsd.helm.dependencies import first_at
from gitopsd.krm.objects import get_in
from gitopsd.tasks import offload

ANONYMOUS_TIMEOUT: Final = 60.0
_ANYBODY: Final = Access()


class ChartRepositories:
    """The repositories of one run, each opened once. An asynchronous context: what was downloaded goes at its end."""

    def __init__(self, services: Services, namespace: str) -> None:
        self._services = services
        self._namespace = namespace
        self._opened: dict[str, IndexCharts | RegistryCharts] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._spooled: list[Path] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for path in self._spooled:
            await self._services.store.give_up(path)

    async def of(self, source: HelmRepository, name: str, artifact: Artifact | None) -> IndexCharts | RegistryCharts:
        """The charts of a HelmRepository, `name` being the one that is wanted.

        Without `artifact` its index is downloaded. Raises SourceError for credentials and addresses that cannot be
        used, RemoteError for an index.
        """
        if source.spec.is_oci:
            return await self._registry(source, name)
        access = await repository_access(source, self._services.secrets)
        index = await self._index(source, artifact, access)
        return self._charts(source.spec.url, index, access, source.spec.timeout_seconds, source.spec.pass_credentials)

    async def at(self, url: str, name: str) -> IndexCharts | RegistryCharts:
        """The charts at a normalised address, by the credentials of the HelmRepository that has it, if one does.

        Raises as `of` does.
        """
        async with self._locks.setdefault(url, asyncio.Lock()):
            if url not in self._opened:
                self._opened[url] = await self._open(url, name)
            return self._opened[url]

    async def _open(self, url: str, name: str) -> IndexCharts | RegistryCharts:
        lender = self._lender(url)
        if lender is not None:
            return await self.of(lender, name, lender.status.artifact)
        if url.startswith("oci://"):
            access = RegistryAccess(timeout=ANONYMOUS_TIMEOUT)
            return RegistryCharts(self._services.registry, url, access, limit=self._limit)
        index = await self._downloaded(url, _ANYBODY, ANONYMOUS_TIMEOUT)
        return self._charts(url, index, _ANYBODY, ANONYMOUS_TIMEOUT)

    def _lender(self, url: str) -> HelmRepository | None:
        """The HelmRepository of the namespace with that address."""
        found = {
            get_in(obj, "metadata", "name"): obj
            for obj in self._services.listers["HelmRepository"].list(namespace=self._namespace)
        }
        name = first_at(url, [(name, str(get_in(obj, "spec", "url"))) for name, obj in found.items()])
        if not name:
            return None
        try:
            return HelmRepository.from_object(found[name])
        except DecodeError:
            return None

    # -- repositories with an index ------------------------------------------------------------------------------------

    @property
    def _limit(self) -> int:
        return self._services.settings.helm_chart_max_size

    def _charts(
        self, url: str, index: HelmIndex, access: Access, timeout: float, pass_credentials: bool = False
    ) -> IndexCharts:
        return IndexCharts(
            self._services.web,
            index,
            url,
            access,
            pass_credentials=pass_credentials,
            timeout=timeout,
            limit=self._limit,
            registry=self._services.registry,
        )

    async def _index(self, source: HelmRepository, artifact: Artifact | None, access: Access) -> HelmIndex:
        """The index as it is stored; a repository that has none yet is asked."""
        path = await offload(self._services.store.path, artifact) if artifact is not None else None
        if artifact is None or path is None:
            return await self._downloaded(source.spec.url, access, source.spec.timeout_seconds)
        metadata = source.metadata
        return await self._services.indexes.open(path, artifact.path, namespace=metadata.namespace, name=metadata.name)

    async def _downloaded(self, url: str, access: Access, timeout: float) -> HelmIndex:
        services = self._services
        limit = services.settings.helm_index_max_size
        source, target = services.store.spool(), services.store.spool()
        self._spooled += [source, target]
        try:
            async with asyncio.timeout(timeout):
                await download(services.web, index_url(url), source, access=access, limit=limit)
        except (TLSMaterialError, ValueError) as error:
            raise RemoteError(str(error)) from error
        except TimeoutError:
            raise RemoteError(f"no complete answer within {timeout:g}s") from None
        built = await services.indexes.reader.build(source, target, limit)
        return HelmIndex(target, built.table)

    # -- registries ----------------------------------------------------------------------------------------------------

    async def _registry(self, source: HelmRepository, name: str) -> RegistryCharts:
        url = source.spec.url.rstrip("/")
        try:
            repository = parse_repository(f"{url}/{name}")
        except ValueError as error:
            message = f"invalid Helm repository URL: {error}"
            raise SourceError(ConditionType.FETCH_FAILED, Reason.URL_INVALID, message, stalls=True) from error
        access = await self._registry_access(source, repository)
        return RegistryCharts(self._services.registry, url, access, limit=self._limit)

    async def _registry_access(self, source: HelmRepository, repository: Repository) -> RegistryAccess:
        spec = source.spec
        tls = await self._tls(source)
        username, password, token = await self._login(source, repository)
        return RegistryAccess(
            username=username,
            password=password,
            token=token,
            tls=tls,
            # What a cloud gives out is shown to nobody who does not prove to be its registry.
            plain_http=spec.insecure and (spec.secret_ref is not None or spec.provider == "generic"),
            timeout=spec.timeout_seconds,
        )

    async def _login(self, source: HelmRepository, repository: Repository) -> tuple[str, str, str]:
        """User name, password and token: of the Secret, else of the cloud."""
        spec = source.spec
        if spec.secret_ref is not None:
            secret = await self._secret(spec.secret_ref.name, "authentication secret")
            try:
                return await offload(_login_of, secret, repository)
            except ValueError as error:
                message = f"failed to configure Helm client with secret data: {error}"
                raise _unauthenticated(message) from error
        if spec.provider == "generic":
            return "", "", ""
        metadata = source.metadata
        identity = Identity(kind="HelmRepository", namespace=metadata.namespace, name=metadata.name)
        try:
            async with asyncio.timeout(spec.timeout_seconds):
                return *await self._services.cloud.registry(spec.provider, repository.host, identity), ""
        except FetchError as error:
            raise SourceError(ConditionType.FETCH_FAILED, error.reason, error.message, stalls=error.stalls) from error
        except (GitopsdError, TimeoutError) as error:
            text = str(error) or f"no complete answer within {spec.timeout_seconds:g}s"
            raise _unauthenticated(f"failed to get credential from '{spec.provider}': {text}") from error

    async def _tls(self, source: HelmRepository) -> TlsIdentity:
        reference = source.spec.cert_secret_ref
        if reference is None:
            return TlsIdentity()
        secret = await self._secret(reference.name, "TLS authentication secret")
        try:
            return tls_identity(secret.data, secret=secret.name)
        except ValueError as error:
            raise _unauthenticated(f"failed to construct Helm client's TLS config: {error}") from error

    async def _secret(self, name: str, what: str) -> Secret:
        try:
            return await self._services.secrets.get(self._namespace, name)
        except GitopsdError as error:
            raise _unauthenticated(f"failed to get {what} '{self._namespace}/{name}': {error}") from error


def _login_of(secret: Secret, repository: Repository) -> tuple[str, str, str]:
    if secret.type == JSON_TYPE:
        data: Mapping[str, bytes] = secret.data
        found = credentials([(secret.type, data)], repository)
        if not any(found):
            name = secret.name.rpartition("/")[2]
            raise ValueError(f"no auth config for '{repository.host}' in the docker-registry Secret '{name}'")
        return found
    pair = basic_auth(secret)
    if pair is None:
        raise ValueError(f"secret '{secret.name}': required fields 'username' and 'password' are missing")
    return pair.username, pair.password, ""


def _unauthenticated(message: str) -> SourceError:
    return SourceError(ConditionType.FETCH_FAILED, Reason.AUTHENTICATION_FAILED, message)
