"""OCI registries (the "distribution" API): tags, manifests, blobs and what refers to them.

Theory of operation. `registrydoor` gets a request to the registry, with what the registry wants to see. Content is
found by digest: a tag is resolved once, and everything after that is asked for by digest, so that a tag which moves
meanwhile mixes nothing. Equal questions at one time, by the same credentials, are asked once.

Knows the API; refuses to know what artifacts mean. Invariants: every manifest and blob that leaves has the digest it
was asked by; everything read is bounded (spec/hostile-inputs.md F14); every call ends within `access.timeout`.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import quote

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.flights import Flights
from gitopsd.fetch.http import Answer, HttpClient
from gitopsd.fetch.registryaddress import Repository, check_reference, is_digest, parse_repository
from gitopsd.fetch.registryanswers import RegistryError, masked, refusal
from gitopsd.fetch.registryauth import RegistryAccess
from gitopsd.fetch.registrydoor import Doors
from gitopsd.fetch.registrylists import next_page, read_index, read_tags
from gitopsd.fetch.registrymanifest import (
    ACCEPT,
    IMAGES,
    INDEXES,
    MANIFEST_LIMIT,
    Descriptor,
    Manifest,
    digest_of,
    parse_manifest,
)
from gitopsd.fetch.tls import TLSMaterialError
from gitopsd.tasks import offload

__all__ = ["Descriptor", "Manifest", "Registry", "RegistryAccess", "RegistryError", "Repository", "parse_repository"]

T = TypeVar("T")

MOST_TAGS: Final = 100_000
MOST_REFERRERS: Final = 10_000
# The decoder lets no other thread run meanwhile: about 50 ms for this.
_PAGE_LIMIT: Final = 8 << 20
_MOST_PAGES: Final = 1000
_TAGS_A_PAGE: Final = 1000
_DEEPEST_INDEX: Final = 3
_PLATFORM: Final = "linux/amd64"
_PIECE: Final = 1 << 20
# Bytes that are hashed or decoded in a few milliseconds.
_QUICK: Final = 256 << 10
# Without an answer to these, asking in another way would only ask the same again.
_FINAL: Final = frozenset((401, 403, 429))
_NO_REFERRERS: Final = frozenset((400, 404, 405, 406, 501))


class Registry:
    """Asks registries. One for the daemon. Everything raises RemoteError, RegistryError for a registry's refusal."""

    def __init__(self, web: HttpClient) -> None:
        self._doors = Doors(web)
        self._flights: Flights[Any] = Flights()

    # -- tags ----------------------------------------------------------------------------------------------------------

    async def tags(self, repository: Repository, access: RegistryAccess) -> list[str]:
        """All tags, in the registry's order."""
        return list(await self._shared("tags", repository, "", access, partial(self._tags, repository, access)))

    async def _tags(self, repository: Repository, access: RegistryAccess) -> list[str]:
        found: list[str] = []
        async for page in self._pages(repository, f"/v2/{repository.path}/tags/list?n={_TAGS_A_PAGE}", access):
            found += await _decoded(read_tags, page)
            if len(found) > MOST_TAGS:
                raise RemoteError(f"the repository has more than {MOST_TAGS} tags", rule="tags")
        return list(await offload(dict.fromkeys, found))

    async def _pages(self, repository: Repository, path: str, access: RegistryAccess) -> AsyncIterator[bytes]:
        """The bodies of a list's pages, each naming the next."""
        asked: set[str] = set()
        while path:
            if path in asked or len(asked) >= _MOST_PAGES:
                raise RemoteError("the registry's list does not end", rule="pages")
            asked.add(path)
            async with self._ask("GET", repository, path, access) as answer:
                if answer.status != 200:
                    raise await refusal(answer, f"GET {repository.host}{path.partition('?')[0]}")
                body = await answer.read(_PAGE_LIMIT, "list")
                path = next_page(answer)
            yield body

    # -- manifests -----------------------------------------------------------------------------------------------------

    async def resolve(self, repository: Repository, reference: str, access: RegistryAccess) -> Descriptor:
        """What a tag or digest stands for now, asked without its content where the registry can do that."""
        work = partial(self._resolve, repository, reference, access)
        return await self._shared("resolve", repository, reference, access, work)

    async def _resolve(self, repository: Repository, reference: str, access: RegistryAccess) -> Descriptor:
        path = _manifest_path(repository, reference)
        async with self._ask("HEAD", repository, path, access, {"Accept": ACCEPT}) as answer:
            found = _described(answer, reference)
            if answer.status in _FINAL:
                raise await refusal(answer, f"HEAD {repository.host}{path}")
        # Not every registry answers a HEAD, and what is wrong is only told to a GET.
        return found or (await self._manifest(repository, reference, access)).descriptor

    async def manifest(self, repository: Repository, reference: str, access: RegistryAccess) -> Manifest:
        """A manifest or index by tag or digest, checked against its digest."""
        work = partial(self._manifest, repository, reference, access)
        return await self._shared("manifest", repository, reference, access, work)

    async def _manifest(self, repository: Repository, reference: str, access: RegistryAccess) -> Manifest:
        path = _manifest_path(repository, reference)
        async with self._ask("GET", repository, path, access, {"Accept": ACCEPT}) as answer:
            if answer.status != 200:
                raise await refusal(answer, f"GET {repository.host}{path}")
            raw = await answer.read(MANIFEST_LIMIT, "manifest")
            kind, announced = answer.headers.get("Content-Type", ""), answer.headers.get("Docker-Content-Digest", "")
        wanted = next((digest for digest in (reference, announced) if is_digest(digest)), "") or digest_of(raw)
        return await _decoded(lambda content: parse_manifest(content, kind, wanted), raw)

    async def image(self, repository: Repository, reference: str, access: RegistryAccess) -> Manifest:
        """A manifest by tag or digest; of an index the one for linux/amd64, or for no platform in particular."""
        found = await self.manifest(repository, reference, access)
        for _ in range(_DEEPEST_INDEX):
            if not found.is_index:
                return found
            fitting = (entry for entry in found.manifests if entry.platform in {"", _PLATFORM})
            entry = next(fitting, None)
            if entry is None:
                where = repository.reference(found.descriptor.digest)
                raise RemoteError(f"no child with platform {_PLATFORM} in index {where}")
            found = await self.manifest(repository, entry.digest, access)
        raise RemoteError(f"the index leads to more than {_DEEPEST_INDEX} further ones", rule="index-depth")

    # -- blobs ---------------------------------------------------------------------------------------------------------

    async def blob(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, *, limit: int
    ) -> bytes:
        """A blob of at most `limit` bytes, checked against its digest."""
        _check_wanted(descriptor, limit)
        work = partial(self._blob, repository, descriptor, access)
        return await self._shared("blob", repository, (descriptor.digest, descriptor.size), access, work)

    async def _blob(self, repository: Repository, descriptor: Descriptor, access: RegistryAccess) -> bytes:
        async with self._open_blob(repository, descriptor, access) as answer:
            content = await answer.read(descriptor.size, "blob")
        found = await _decoded(lambda raw: digest_of(raw, descriptor.digest), content)
        _check_digest(found, len(content), descriptor)
        return content

    async def blob_to_file(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, path: Path, *, limit: int
    ) -> None:
        """Write a blob of at most `limit` bytes into a file, which is gone again if anything goes wrong."""
        _check_wanted(descriptor, limit)
        async with _bounded(repository.host, access):
            try:
                file = cast("BinaryIO", await offload(path.open, "wb"))
                try:
                    await self._pour(repository, descriptor, access, file)
                finally:
                    await offload(file.close)
            except BaseException:
                with suppress(OSError):
                    await offload(path.unlink, missing_ok=True)
                raise

    async def _pour(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess, file: BinaryIO
    ) -> None:
        digest = hashlib.new(descriptor.digest.partition(":")[0])
        size, waiting, amount = 0, list[bytes](), 0

        def write(pieces: list[bytes]) -> None:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)

        async with self._open_blob(repository, descriptor, access) as answer:
            async for piece in answer.pieces(descriptor.size, "blob"):
                waiting.append(piece)
                amount += len(piece)
                if amount >= _PIECE:
                    await offload(write, waiting)
                    size, waiting, amount = size + amount, [], 0
        await offload(write, waiting)
        _check_digest(f"{digest.name}:{digest.hexdigest()}", size + amount, descriptor)

    @asynccontextmanager
    async def _open_blob(
        self, repository: Repository, descriptor: Descriptor, access: RegistryAccess
    ) -> AsyncIterator[Answer]:
        path = f"/v2/{repository.path}/blobs/{descriptor.digest}"
        async with self._ask("GET", repository, path, access) as answer:
            if answer.status != 200:
                raise await refusal(answer, f"GET {repository.host}{path}")
            yield answer

    # -- referrers -----------------------------------------------------------------------------------------------------

    async def referrers(
        self, repository: Repository, digest: str, access: RegistryAccess, artifact_type: str = ""
    ) -> list[Descriptor]:
        """What refers to a manifest: signatures and the like, of one type if wanted.

        A registry without that part of the API is asked for the tag under which clients keep such a list.
        """
        work = partial(self._referrers, repository, digest, access, artifact_type)
        found = await self._shared("referrers", repository, (digest, artifact_type), access, work)
        return [entry for entry in found if not artifact_type or entry.artifact_type == artifact_type]

    async def _referrers(
        self, repository: Repository, digest: str, access: RegistryAccess, artifact_type: str
    ) -> list[Descriptor]:
        if not is_digest(digest):
            raise RemoteError(f"'{printable(digest, 160)}' is not a digest")
        path = f"/v2/{repository.path}/referrers/{digest}"
        if artifact_type:
            path += f"?artifactType={quote(artifact_type, safe='')}"
        found: list[Descriptor] = []
        try:
            async for page in self._pages(repository, path, access):
                index = await _decoded(read_index, page)
                if index is None:
                    return await self._tagged_referrers(repository, digest, access)
                found += index.manifests
                if len(found) > MOST_REFERRERS:
                    raise RemoteError(f"more than {MOST_REFERRERS} artifacts refer to {digest}", rule="referrers")
        except RegistryError as error:
            if error.status not in _NO_REFERRERS:
                raise
            return await self._tagged_referrers(repository, digest, access)
        return found

    async def _tagged_referrers(self, repository: Repository, digest: str, access: RegistryAccess) -> list[Descriptor]:
        try:
            manifest = await self._manifest(repository, digest.replace(":", "-")[:128], access)
        except RegistryError as error:
            if error.status == 404:
                return []
            raise
        return list(manifest.manifests)

    # -- all of them ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        repository: Repository,
        path: str,
        access: RegistryAccess,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        try:
            async with self._doors.request(method, repository, path, access, headers) as answer:
                yield answer
        except TLSMaterialError as error:
            raise RemoteError(str(error)) from error
        except RemoteError as error:
            self._doors.failed(repository.host, access, error)
            masked(error, access.secrets)
            raise

    async def _shared(
        self,
        call: str,
        repository: Repository,
        detail: Hashable,
        access: RegistryAccess,
        work: Callable[[], Awaitable[T]],
    ) -> T:
        """The result of `work` or of an equal call under way. What went wrong reaches everybody who waits."""

        async def bounded() -> T | RemoteError:
            try:
                async with _bounded(repository.host, access):
                    return await work()
            except RemoteError as error:
                return masked(error, access.secrets)

        found: T | RemoteError = await self._flights.share((call, repository, detail, access), bounded)
        if isinstance(found, RemoteError):
            raise copy.copy(found) from found
        return found


@asynccontextmanager
async def _bounded(host: str, access: RegistryAccess) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(access.timeout):
            yield
    except TimeoutError:
        raise RemoteError(f"no complete answer from {host} within {access.timeout:g}s") from None


async def _decoded(read: Callable[[bytes], T], body: bytes) -> T:
    """What `read` makes of a body, in a thread when that takes longer than a moment."""
    return read(body) if len(body) <= _QUICK else await offload(read, body)


def _manifest_path(repository: Repository, reference: str) -> str:
    try:
        check_reference(reference)
    except ValueError as error:
        raise RemoteError(str(error)) from None
    return f"/v2/{repository.path}/manifests/{reference}"


def _described(answer: Answer, reference: str) -> Descriptor | None:
    """What the answer to a HEAD says, if it says everything."""
    digest = answer.headers.get("Docker-Content-Digest", "")
    size = answer.headers.get("Content-Length", "")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    complete = answer.status == 200 and is_digest(digest) and size.isdecimal() and media_type in IMAGES | INDEXES
    if not complete or (is_digest(reference) and digest != reference):
        return None
    return Descriptor(media_type, digest, int(size))


def _check_wanted(descriptor: Descriptor, limit: int) -> None:
    if not is_digest(descriptor.digest):
        raise RemoteError(f"'{printable(descriptor.digest, 160)}' is not a digest", rule="digest")
    if descriptor.size > limit:
        raise RemoteError(f"the blob is larger than {limit} bytes", rule="size")


def _check_digest(found: str, size: int, descriptor: Descriptor) -> None:
    if found != descriptor.digest or size != descriptor.size:
        raise RemoteError(f"the blob does not have the digest {descriptor.digest}", rule="digest")
