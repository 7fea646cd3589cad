"""OCI registries (the "distribution" API): tags, manifests, blobs and what refers to them.

Knows the API and who may be told which credentials; refuses to know what artifacts mean.
"""

from __future__ import annotations

from pathlib import Path

from gitopsd.fetch.http import HttpClient
from gitopsd.fetch.registryaddress import Repository, parse_repository
from gitopsd.fetch.registryauth import RegistryAccess
from gitopsd.fetch.registrymanifest import Descriptor, Manifest

__all__ = ["Descriptor", "Manifest", "Registry", "RegistryAccess", "RegistryError", "Repository", "parse_repository"]

from gitopsd.fetch.errors import RemoteError


class RegistryError(RemoteError):
    """The registry answered with an error; `status` is the HTTP status (404: there is no such thing)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Registry:
    """Asks registries. One for the daemon; equal questions at one time are asked once. Everything raises RemoteError.

    Each call takes at most `access.timeout` seconds.
    """

    def __init__(self, web: HttpClient) -> None:
        self._web = web

    async def tags(self, repository: Repository, access: RegistryAccess) -> list[str]:
        """All tags, in the registry's order."""
        raise NotImplementedError

    async def resolve(self, repository: Repository, reference: str, access: RegistryAccess) -> Descriptor:
        """What a tag or digest stands for now, asked without its content where the registry can do that."""
        raise NotImplementedError

    async def manifest(self, repository: Repository, reference: str, access: RegistryAccess) -> Manifest:
        """A manifest or index by tag or digest, checked against its digest."""
        raise NotImplementedError

    async def image(self, repository: Repository, reference: str, access: RegistryAccess) -> Manifest:
        """A manifest by tag or digest; of an index the one for linux/amd64."""
        raise NotImplementedError

    async def blob(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, *, limit: int
    ) -> bytes:
        """A blob of at most `limit` bytes, checked against its digest."""
        raise NotImplementedError

    async def blob_to_file(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, path: Path, *, limit: int
    ) -> None:
        """Write a blob of at most `limit` bytes into a file, which is gone again if the digest is wrong."""
        raise NotImplementedError

    async def referrers(
        self, repository: Repository, digest: str, access: RegistryAccess, artifact_type: str = ""
    ) -> list[Descriptor]:
        """What refers to a manifest: signatures and the like, of one type if wanted."""
        raise NotImplementedError
