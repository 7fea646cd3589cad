"""Tokens of clouds for sources: one door to AWS, Azure, Google Cloud and GitHub Apps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from gitopsd.fetch.cloud.identity import (
    AwsKeys,
    Cloud,
    GitCloudAuth,
    Identity,
    NoCredentialsError,
    require_object_identity,
)
from gitopsd.fetch.http import HttpClient

__all__ = [
    "AwsKeys",
    "Cloud",
    "CloudTokens",
    "GitCloudAuth",
    "Identity",
    "NoCredentialsError",
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

    async def registry(self, provider: Cloud, repository_host: str, identity: Identity) -> tuple[str, str]:
        """User name and password for a registry of the cloud. Raises RemoteError."""
        raise NotImplementedError

    async def git(self, provider: Cloud, url: str, identity: Identity) -> GitCloudAuth:
        """Credentials for a Git repository of the cloud (aws: CodeCommit, azure: DevOps). Raises RemoteError."""
        raise NotImplementedError

    async def github_app(self, data: Mapping[str, bytes], url: str, identity: Identity) -> str:
        """The installation token of a GitHub App; the Git user is `x-access-token`.

        `data` is the Secret's (spec/source.md 11.1). Raises ValueError, safe to show, when it is not usable, and
        RemoteError.
        """
        raise NotImplementedError

    async def bucket_aws(self, identity: Identity, region: str = "", sts_endpoint: str = "") -> AwsKeys:
        """Keys for S3. Raises RemoteError."""
        raise NotImplementedError

    async def bucket_token(self, provider: Cloud, identity: Identity) -> str:
        """A bearer token for the storage of gcp or azure.

        Raises RemoteError; its NoCredentialsError says that the daemon has no identity there.
        """
        raise NotImplementedError

    async def azure_managed_identity(self, client_id: str, identity: Identity) -> str:
        """A storage token of the managed identity that a Bucket's Secret names by its `clientId`. Raises RemoteError."""
        raise NotImplementedError
