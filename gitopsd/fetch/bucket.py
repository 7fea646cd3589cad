"""Buckets: what is in them now, and the tree of it.

Theory of operation. `look` asks whether the bucket is there, reads the rules at its root and all pages of its listing;
the index it returns has a revision before anything is downloaded. `fetch` brings the tree of an index: only what the
tree before does not have already is downloaded. Should the bucket change meanwhile, the listing is read once more and
the download begun again, with what has come so far; the second time it is an error, so that an artifact is always of
one listing.

Knows the sequence, the time limits and the words for what fails (spec/source.md 9.2 to 9.4); refuses to know Kubernetes
and, behind `BucketClient`, the protocols.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gitopsd import metrics
from gitopsd.api.meta import Reason
from gitopsd.artifact.ignore import IGNORE_FILE, MAX_TEXT
from gitopsd.artifact.tree import DEFAULT_LIMITS, FileTree, TreeError, TreeLimits
from gitopsd.fetch.bucketclient import BucketClient, BucketError
from gitopsd.fetch.bucketdownload import Before, DownloadBounds, OutdatedError, download
from gitopsd.fetch.bucketlisting import BucketIndex, read_index
from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.fetch.tls import TLSMaterialError


@dataclass(frozen=True)
class BucketRequest:
    """What to read, and how. `timeout` (seconds) holds for looking, and once more for fetching.

    `connect` gets the credentials and gives the bucket; it is part of looking.
    """

    bucket: str
    connect: Callable[[], Awaitable[BucketClient]] = field(repr=False)
    prefix: str = ""
    ignore: str | None = None
    timeout: float = 60.0
    limits: TreeLimits = DEFAULT_LIMITS
    bounds: DownloadBounds = field(default_factory=DownloadBounds)


@dataclass(frozen=True)
class Look:
    """What a bucket holds at one moment, and the connection that saw it."""

    index: BucketIndex
    client: BucketClient = field(repr=False)


async def look(request: BucketRequest) -> Look:
    """See what the bucket holds. Raises FetchError with the texts of spec/source.md 9.4."""
    bucket = request.bucket
    step = f"failed to confirm existence of '{bucket}' bucket"
    try:
        async with asyncio.timeout(request.timeout):
            async with _told(step):
                client = await request.connect()
                is_there = await client.exists()
            if not is_there:
                raise FetchError(Reason.BUCKET_OPERATION_FAILED, f"bucket '{bucket}' not found")
            step = f"failed to get Etag for '{IGNORE_FILE}' object"
            async with _told(step):
                rules = await _rules(client)
            step = f"indexation of objects from bucket '{bucket}' failed"
            async with _told(step):
                index = await read_index(client, request.prefix, rules, request.ignore, request.limits)
    except TimeoutError:
        raise _late(step, request.timeout) from None
    return Look(index, client)


async def fetch(request: BucketRequest, seen: Look, before: Sequence[Before] = ()) -> tuple[BucketIndex, FileTree]:
    """Bring the tree of what was seen, or of what took its place meanwhile. Raises FetchError."""
    step = f"fetch from bucket '{request.bucket}' failed"
    try:
        async with asyncio.timeout(request.timeout), _told(step):
            try:
                return seen.index, await _download(request, seen.client, seen.index, before)
            except OutdatedError as error:
                salvaged = () if error.salvaged is None else (error.salvaged,)
            rules = await _rules(seen.client)
            index = await read_index(seen.client, request.prefix, rules, request.ignore, request.limits)
            return index, await _download(request, seen.client, index, (*salvaged, *before))
    except TimeoutError:
        raise _late(step, request.timeout) from None


async def _download(
    request: BucketRequest, client: BucketClient, index: BucketIndex, before: Sequence[Before]
) -> FileTree:
    return await download(client, index, before, limits=request.limits, bounds=request.bounds)


async def _rules(client: BucketClient) -> bytes | None:
    """The rules at the bucket's root, whatever the prefix; None when there are none."""
    try:
        async with client.get(IGNORE_FILE) as answer:
            return b"".join([piece async for piece in answer.pieces(MAX_TEXT, IGNORE_FILE, as_sent=True)])
    except BucketError as error:
        if error.status == 404:
            return None
        raise


@asynccontextmanager
async def _told(step: str) -> AsyncIterator[None]:
    """Put what fails into the words of its step, and count what was refused."""
    try:
        yield
    except TLSMaterialError as error:
        raise FetchError(Reason.AUTHENTICATION_FAILED, f"failed to get TLS config: {error}") from error
    except RemoteError as error:
        if error.rule:
            metrics.refused_inputs.labels("bucket", error.rule).inc()
        raise FetchError(Reason.BUCKET_OPERATION_FAILED, f"{step}: {error.message}") from error
    except TreeError as error:
        metrics.refused_inputs.labels("bucket", "tree").inc()
        raise FetchError(Reason.BUCKET_OPERATION_FAILED, f"{step}: {error}") from error


def _late(step: str, timeout: float) -> FetchError:
    return FetchError(Reason.BUCKET_OPERATION_FAILED, f"{step}: no answer within {timeout:g}s")
