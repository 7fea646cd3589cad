"""Tokens of clouds for sources: one door to AWS, Azure, Google Cloud and GitHub Apps.

Theory of operation. Every token is looked up in the cache under everything it depends on: what it is for, as whom, and
the way there. What opens a registry or a repository is made from a first token (keys of AWS, an access token of Azure
or Google), which has an entry of its own, so that many registries share it.

Knows which provider opens what; refuses to know objects, Secrets and conditions.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from urllib.parse import urlsplit

from gitopsd.fetch.cloud import aws, azure, gcp, github
from gitopsd.fetch.cloud.cache import TokenCache
from gitopsd.fetch.cloud.endpoint import Surroundings
from gitopsd.fetch.cloud.github import has_app_data, read_app
from gitopsd.fetch.cloud.identity import (
    AwsKeys,
    Cloud,
    GitCloudAuth,
    Identity,
    Issued,
    NoCredentialsError,
    require_object_identity,
)
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import HttpClient

__all__ = [
    "AwsKeys",
    "Cloud",
    "CloudTokens",
    "GitCloudAuth",
    "Identity",
    "NoCredentialsError",
    "has_app_data",
    "read_app",
    "require_object_identity",
]


class CloudTokens:
    """Gives out tokens, and keeps them while they are fresh. One for the whole daemon."""

    def __init__(
        self,
        web: HttpClient,
        *,
        cache_size: int = 100,
        cache_max_duration: float = 3600.0,
        environment: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`environment` is what clouds' SDKs would read; `now` tells the time in seconds since 1970."""
        around = Surroundings(web, web.direct(), environment or {}, now)
        self._cache = TokenCache(cache_size, cache_max_duration, now)
        self._aws = aws.Aws(around)
        self._azure = azure.Azure(around)
        self._gcp = gcp.Gcp(around)
        self._github = github.GitHubApps(around)

    async def registry(self, provider: Cloud, repository_host: str, identity: Identity) -> tuple[str, str]:
        """User name and password for a registry of the cloud (spec/source.md 11.2). Raises RemoteError."""
        host = repository_host.lower()
        if provider == "gcp":
            gcp.check_registry(host)
            return gcp.REGISTRY_USER, await self._gcp_token(identity)
        issue = {"aws": self._aws_registry, "azure": self._azure_registry}.get(provider)
        if issue is None:
            raise _unknown(provider)
        # A host that is none of the cloud's is told before anything is asked.
        region_or_scope = aws.registry_region(host) if provider == "aws" else azure.registry_scope(host)
        key = (provider, "registry", host, _as_whom(identity))
        return await self._cache.get(key, identity, partial(issue, host, region_or_scope, identity))

    async def _aws_registry(self, host: str, region: str, identity: Identity) -> Issued[tuple[str, str]]:
        return await self._aws.registry(host, await self.bucket_aws(identity, region), identity)

    async def _azure_registry(self, host: str, scope: str, identity: Identity) -> Issued[tuple[str, str]]:
        return await self._azure.registry(host, await self._azure_token(identity, scope), identity)

    async def git(self, provider: Cloud, url: str, identity: Identity) -> GitCloudAuth:
        """Credentials for a Git repository of the cloud (aws: CodeCommit, azure: DevOps). Raises RemoteError."""
        if provider == "azure":
            azure.check_devops(url, identity)
            return GitCloudAuth(bearer=await self._azure_token(identity, azure.DEVOPS_SCOPE))
        if provider != "aws":
            raise _unknown(provider)
        region = aws.codecommit_region(url)

        async def issue() -> Issued[GitCloudAuth]:
            return self._aws.codecommit(url, await self.bucket_aws(identity, region))

        return await self._cache.get(("aws", "git", url, _as_whom(identity)), identity, issue)

    async def github_app(self, data: Mapping[str, bytes], url: str, identity: Identity) -> str:
        """The installation token of a GitHub App; the Git user is `x-access-token`.

        `data` is the Secret's (spec/source.md 11.1), `url` the repository's. Raises ValueError, safe to show, when
        the Secret is not usable, and RemoteError.
        """
        app = read_app(data)
        shown = hashlib.sha256(app.key).hexdigest()
        key = ("github", app.issuer, app.installation, app.owner, app.api, shown, _as_whom(identity), identity.tls)
        try:
            return await self._cache.get(key, identity, partial(self._github.token, app, identity))
        except RemoteError as error:
            raise RemoteError(f"no token for {_shown_host(url)}: {error.message}", rule=error.rule) from error

    async def bucket_aws(self, identity: Identity, region: str = "", sts_endpoint: str = "") -> AwsKeys:
        """Keys for S3, and whatever else they are good for in a region. Raises RemoteError."""
        place = aws.Place(region, sts_endpoint)
        key = ("aws", "keys", place, _as_whom(identity))
        return await self._cache.get(key, identity, partial(self._aws.keys, identity, place))

    async def bucket_token(self, provider: Cloud, identity: Identity) -> str:
        """A bearer token for the storage of gcp or azure.

        Raises RemoteError; its NoCredentialsError says that the daemon has no identity there.
        """
        if provider == "gcp":
            return await self._gcp_token(identity)
        if provider == "azure":
            return await self._azure_token(identity, azure.STORAGE_SCOPE)
        raise _unknown(provider)

    async def azure_managed_identity(self, client_id: str, identity: Identity) -> str:
        """A storage token of the managed identity that a Bucket's Secret names (`clientId`). Raises RemoteError."""
        key = ("azure", "managed", client_id)
        return await self._cache.get(key, identity, partial(self._azure.managed, azure.STORAGE_SCOPE, client_id))

    async def _azure_token(self, identity: Identity, scope: str) -> str:
        key = ("azure", "token", scope, _as_whom(identity))
        return await self._cache.get(key, identity, partial(self._azure.access, identity, scope))

    async def _gcp_token(self, identity: Identity) -> str:
        key = ("gcp", "token", _as_whom(identity))
        return await self._cache.get(key, identity, partial(self._gcp.access, identity))


def _as_whom(identity: Identity) -> Hashable:
    """Who asks, and the way there: all of an identity that an answer depends on."""
    if not identity.service_account:
        return identity.proxy
    annotations = tuple(sorted(identity.annotations.items()))
    return identity.proxy, identity.namespace, identity.service_account, annotations


def _unknown(provider: str) -> RemoteError:
    return RemoteError(f"provider '{printable(provider, 64)}' cannot be used here")


def _shown_host(url: str) -> str:
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    return f"'{printable(host, 256)}'" if host else "the repository"
