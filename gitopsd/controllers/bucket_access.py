"""How a Bucket is reached: its Secrets, its proxy, its certificates, its identity, and the client made of them.

A part of `controllers.bucket`. What the object's own Secrets say wrong is told before anything is connected, as
`AuthenticationFailed`; tokens are asked for when the bucket is, and what fails then is a failure of the bucket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from gitopsd.api.meta import LocalObjectReference, Reason
from gitopsd.api.source import Bucket, BucketSTS
from gitopsd.controllers.source import Services
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import tls_identity
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
from gitopsd.fetch.bucketazure import AzureBucket, AzurePlace
from gitopsd.fetch.bucketclient import BucketClient
from gitopsd.fetch.bucketgcs import GcsBucket
from gitopsd.fetch.buckets3 import S3Bucket, S3Place
from gitopsd.fetch.bucketsigning import SharedKey
from gitopsd.fetch.bucketsts import check_sts_endpoint, ldap_keys
from gitopsd.fetch.cloud.azure import client_certificate_token, client_secret_token
from gitopsd.fetch.cloud.gcp import service_account_token
from gitopsd.fetch.cloud.identity import AwsKeys, Identity, NoCredentialsError, require_object_identity
from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.fetch.http import Access, TlsIdentity
from gitopsd.fetch.proxy import Proxy, proxy_from_secret
from gitopsd.fetch.tls import TLSMaterialError, client_context
from gitopsd.krm.objects import get_in
from gitopsd.tasks import offload

_STORAGE_READ = "https://www.googleapis.com/auth/devstorage.read_only"
_GATE = "ObjectLevelWorkloadIdentity"

Connect = Callable[[], Awaitable[BucketClient]]
Keys = Callable[[], Awaitable[AwsKeys | None]]


class BucketAccess:
    """The way to one Bucket, for one run."""

    def __init__(self, services: Services, source: Bucket) -> None:
        self._services = services
        self._source = source
        self._spec = source.spec
        self._namespace = source.metadata.namespace

    async def prepare(self) -> Connect:
        """Read and check everything that the object names. Raises FetchError (spec/source.md 9.4)."""
        provider = self._spec.provider
        account = self._service_account()
        if self._spec.sts is not None:
            _check_sts(provider, self._spec.sts)
        data = await self._referenced(self._spec.secret_ref, "secret")
        proxy = await self._proxy()
        identity = await self._identity(account, proxy)
        if provider == "gcp":
            return self._gcs(data, identity)
        if provider == "azure":
            return self._azure(data, identity)
        return await self._s3(data, identity)

    # -- what every provider has -----------------------------------------------------------------------------------

    def _service_account(self) -> str:
        """The ServiceAccount whose identity is asked for; only clouds know such."""
        spec, settings = self._spec, self._services.settings
        if spec.provider == "generic" or spec.secret_ref is not None:
            return ""
        name = spec.service_account_name or settings.default_source_service_account
        if name:
            require_object_identity(is_enabled=settings.feature_gates[_GATE])
        return name

    async def _referenced(self, reference: LocalObjectReference | None, what: str) -> Mapping[str, bytes] | None:
        if reference is None:
            return None
        name = f"{self._namespace}/{reference.name}"
        try:
            return (await self._services.secrets.get(self._namespace, reference.name)).data
        except GitopsdError as error:
            raise _unauthenticated(f"failed to get {what} '{name}': {error}") from error

    async def _proxy(self) -> Proxy | None:
        reference = self._spec.proxy_secret_ref
        if reference is None:
            return None
        try:
            return proxy_from_secret((await self._services.secrets.get(self._namespace, reference.name)).data)
        except (GitopsdError, ValueError) as error:
            raise _unauthenticated(f"failed to get proxy URL: {error}") from error

    async def _tls(self, reference: LocalObjectReference | None, what: str) -> TlsIdentity:
        if reference is None:
            return TlsIdentity()
        try:
            secret = await self._services.secrets.get(self._namespace, reference.name)
            identity = tls_identity(secret.data, secret=secret.name)
            # Whether it can be used is its own failure, not that of the first request.
            await offload(client_context, identity.ca, identity.cert, identity.key)
        except (GitopsdError, TLSMaterialError, ValueError) as error:
            raise _unauthenticated(f"failed to get {what}: {error}") from error
        return identity

    async def _identity(self, name: str, proxy: Proxy | None) -> Identity:
        annotations: Mapping[str, str] = {}
        if name:
            try:
                account = await self._services.secrets.service_account(self._namespace, name)
            except GitopsdError as error:
                text = f"failed to get service account '{self._namespace}/{name}': {error}"
                raise _unauthenticated(text) from error
            annotations = get_in(account, "metadata", "annotations", default={})
        return Identity(
            kind="Bucket",
            namespace=self._namespace,
            name=self._source.metadata.name,
            proxy=proxy,
            service_account=name,
            annotations=annotations,
            token=partial(self._token, name) if name else None,
        )

    async def _token(self, name: str, audience: str) -> str:
        """A token of a ServiceAccount; asked for with the bucket, so what fails is the bucket's to tell."""
        try:
            return await self._services.secrets.token(self._namespace, name, audience)
        except GitopsdError as error:
            text = f"failed to get a token of service account '{self._namespace}/{name}': {error}"
            raise RemoteError(text) from error

    @property
    def _secret_name(self) -> str:
        return self._spec.secret_ref.name if self._spec.secret_ref is not None else ""

    # -- S3 --------------------------------------------------------------------------------------------------------

    async def _s3(self, data: Mapping[str, bytes] | None, identity: Identity) -> Connect:
        spec = self._spec
        tls = await self._tls(None if spec.insecure else spec.cert_secret_ref, "TLS config")
        sts_keys = await self._sts(spec.sts, identity) if spec.sts is not None else None
        try:
            static = s3_keys(data, self._secret_name) if data is not None else None
            place = S3Place(spec.endpoint.removesuffix("/"), spec.bucket_name, spec.region, spec.insecure)
        except ValueError as error:
            raise _unauthenticated(str(error)) from error
        cloud = partial(self._services.cloud.bucket_aws, identity, spec.region) if spec.provider == "aws" else None

        async def connect() -> BucketClient:
            keys = static
            if keys is None and (ask := sts_keys or cloud):
                keys = await ask()
            return S3Bucket(self._services.web, place, keys, Access(tls=tls, proxy=identity.proxy))

        return connect

    async def _sts(self, sts: BucketSTS, identity: Identity) -> Keys:
        """Where keys come from if the spec names a token service; checked whether or not it will be asked."""
        data = await self._referenced(sts.secret_ref, "STS secret")
        tls = await self._tls(sts.cert_secret_ref, "STS TLS config")
        if sts.provider == "aws":
            return partial(self._services.cloud.bucket_aws, identity, self._spec.region, sts.endpoint)
        username, password = "", ""
        if data is not None and sts.secret_ref is not None:
            try:
                username, password = ldap_login(data, sts.secret_ref.name)
            except ValueError as error:
                raise _unauthenticated(str(error)) from error
        access = Access(tls=tls, proxy=identity.proxy)
        return partial(ldap_keys, self._services.web, sts.endpoint, username, password, access)

    # -- Google Cloud ----------------------------------------------------------------------------------------------

    def _gcs(self, data: Mapping[str, bytes] | None, identity: Identity) -> Connect:
        web = self._services.web
        try:
            key = gcs_key(data, self._secret_name) if data is not None else None
        except ValueError as error:
            raise _unauthenticated(str(error)) from error

        async def connect() -> BucketClient:
            if key is None:
                token = await self._services.cloud.bucket_token("gcp", identity)
            else:
                try:
                    way = Access(proxy=identity.proxy)
                    token = await service_account_token(web, key, scope=_STORAGE_READ, access=way)
                except ValueError as error:
                    raise self._unusable(error) from error
            return GcsBucket(web, self._spec.bucket_name, Access(f"Bearer {token}", proxy=identity.proxy))

        return connect

    # -- Azure -----------------------------------------------------------------------------------------------------

    def _azure(self, data: Mapping[str, bytes] | None, identity: Identity) -> Connect:
        spec = self._spec
        try:
            place = AzurePlace(spec.endpoint, spec.bucket_name)
            login = azure_login(data, self._secret_name, place.account) if data is not None else None
        except ValueError as error:
            raise _unauthenticated(str(error)) from error
        if isinstance(login, Sas):
            place = AzurePlace(spec.endpoint, spec.bucket_name, login.query)

        async def connect() -> BucketClient:
            token = await self._azure_token(login, identity)
            if token and place.endpoint.lower().startswith("http://"):
                raise RemoteError("a bearer token cannot be sent over HTTP")
            access = Access(f"Bearer {token}" if token else "", proxy=identity.proxy)
            return AzureBucket(self._services.web, place, access, login if isinstance(login, SharedKey) else None)

        return connect

    async def _azure_token(self, login: AzureLogin | None, identity: Identity) -> str:
        """A bearer token, empty where another way is taken, or where nobody here has an identity."""
        cloud = self._services.cloud
        if isinstance(login, SharedKey | Sas):
            return ""
        if isinstance(login, ManagedIdentity):
            return await cloud.azure_managed_identity(login.client, identity)
        if isinstance(login, AzureClient):
            return await self._azure_exchange(login, identity.proxy)
        try:
            return await cloud.bucket_token("azure", identity)
        except NoCredentialsError:
            return ""

    async def _azure_exchange(self, login: AzureClient, proxy: Proxy | None) -> str:
        web, access = self._services.web, Access(proxy=proxy)
        client = {"tenant": login.tenant, "client": login.client, "authority": login.authority}
        try:
            if login.secret:
                return await client_secret_token(web, **client, secret=login.secret, access=access)
            return await client_certificate_token(
                web,
                **client,
                certificate=login.certificate,
                password=login.password,
                send_chain=login.send_chain,
                access=access,
            )
        except ValueError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: ValueError) -> FetchError:
        return _unauthenticated(f"invalid '{self._secret_name}' secret data: {error}")


def _check_sts(provider: str, sts: BucketSTS) -> None:
    """Refuse a token service that the provider does not know. Raises FetchError, which stalls."""
    wanted = {"aws": "aws", "generic": "ldap"}.get(provider)
    problem = ""
    if wanted is None:
        problem = f"STS configuration is not supported for '{provider}' bucket provider"
    elif sts.provider != wanted:
        problem = f"STS provider '{sts.provider}' is not supported for '{provider}' bucket provider"
    if problem:
        raise FetchError(Reason.INVALID_STS_CONFIGURATION, problem, stalls=True)
    try:
        check_sts_endpoint(sts.endpoint)
    except ValueError as error:
        shown = sts.endpoint.partition("?")[0]
        raise FetchError(Reason.URL_INVALID, f"failed to parse STS endpoint '{shown}': {error}", stalls=True) from error


def _unauthenticated(message: str) -> FetchError:
    return FetchError(Reason.AUTHENTICATION_FAILED, message)
