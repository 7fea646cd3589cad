"""One object of a bucket, read to its end: resumed where the connection broke, checked against what the listing says.

Theory of operation. An object has the size and the version of its entry, or it has moved. Where the storage tells the
digest of the content, too, that is compared. S3's etag need not be one (encryption and parts make others), and nothing
tells which it is: so an object whose digest is another is downloaded once more. Twice the same bytes, and the etag was
no digest, which is remembered for the run; other bytes, and the network or the storage corrupts them.

Knows entries and bytes; refuses to know protocols and trees.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from gitopsd import metrics
from gitopsd.artifact.tree import shown
from gitopsd.fetch.bucketclient import BucketClient, BucketError, Entry, ObjectMovedError
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import Answer
from gitopsd.tasks import offload

_BATCH_BYTES = 4 << 20
_PAUSES = (0.2, 0.8)


class ObjectError(RemoteError):
    """An object could not be downloaded. `moved` says that the listing is out of date."""

    def __init__(self, key: str, error: RemoteError) -> None:
        super().__init__(f"failed to get '{shown(key)}' object: {error.message}", rule=error.rule)
        self.moved = isinstance(error, ObjectMovedError)


class Objects:
    """Downloads objects of one bucket, for one run. `unknown` bounds (bytes) those whose size nobody told."""

    def __init__(self, client: BucketClient, *, unknown: int) -> None:
        self._client = client
        self._unknown = unknown
        self._checks_digests = True

    async def content(self, entry: Entry) -> bytes:
        """The whole of a small object. Raises ObjectError."""
        content = await self._whole(entry)
        if self._is_as_told(entry, _md5(content)):
            return content
        again = await self._whole(entry)
        if _md5(again) != entry.md5:
            self._confirm(entry, is_equal=again == content)
        return again

    async def _whole(self, entry: Entry) -> bytes:
        most = entry.size if entry.size >= 0 else self._unknown
        return b"".join([piece async for piece in object_pieces(self._client, entry, most)])

    async def stream(self, entry: Entry, take: Callable[[bytes], None]) -> None:
        """Hand an object out in pieces of some megabytes; `take` runs in a thread. Raises ObjectError.

        What was handed out counts only when this returns.
        """
        digest = await self._copy(entry, take)
        if not self._is_as_told(entry, digest):
            self._confirm(entry, is_equal=await self._copy(entry, lambda _: None) == digest)

    async def _copy(self, entry: Entry, take: Callable[[bytes], None]) -> bytes:
        found = _Batches(take)
        async with aclosing(object_pieces(self._client, entry, entry.size)) as arriving:
            async for piece in arriving:
                if found.add(piece):
                    await offload(found.flush)
        return await offload(found.finish)

    def _is_as_told(self, entry: Entry, digest: bytes) -> bool:
        if not entry.md5 or not self._checks_digests or digest == entry.md5:
            return True
        metrics.refused_inputs.labels("bucket", "digest").inc()
        return False

    def _confirm(self, entry: Entry, *, is_equal: bool) -> None:
        """Judge an object whose second download does not have the digest either."""
        if not is_equal:
            text = "its content does not have the digest that the listing tells, and is another each time"
            raise ObjectError(entry.key, RemoteError(text, rule="digest"))
        self._checks_digests = False


class _Batches:
    """Collects pieces, and hands them out in a thread; keeps their digest."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._pieces: list[bytes] = []
        self._held = 0
        self._digest: Any = hashlib.md5(usedforsecurity=False)

    def add(self, piece: bytes) -> bool:
        """Add a piece; True when it is time to flush."""
        self._pieces.append(piece)
        self._held += len(piece)
        return self._held >= _BATCH_BYTES

    def flush(self) -> None:
        data = b"".join(self._pieces)
        self._pieces, self._held = [], 0
        self._digest.update(data)
        self._take(data)

    def finish(self) -> bytes:
        self.flush()
        digest: bytes = self._digest.digest()
        return digest


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


async def object_pieces(client: BucketClient, entry: Entry, limit: int) -> AsyncGenerator[bytes, None]:
    """The content of an object; a connection that breaks is made again from where it stopped. Raises ObjectError."""
    offset = 0
    for pause in (*_PAUSES, None):
        try:
            async with (
                client.get(entry.key, entry.version, offset) as answer,
                aclosing(_from(answer, offset, entry, limit)) as pieces,
            ):
                async for piece in pieces:
                    offset += len(piece)
                    yield piece
            if entry.size >= 0 and offset != entry.size:
                raise ObjectMovedError(f"it has {offset} bytes, the listing says {entry.size}")
        except RemoteError as error:
            if pause is None or error.rule or isinstance(error, BucketError) or (offset and not entry.version):
                raise ObjectError(entry.key, error) from error
        else:
            return
        await asyncio.sleep(pause)  # no event tells when a storage is less busy


async def _from(answer: Answer, offset: int, entry: Entry, limit: int) -> AsyncGenerator[bytes, None]:
    """The pieces of an answer, which may begin at `offset`, or ignore that it was asked to."""
    skip = 0 if answer.status == 206 else offset
    announced = answer.headers.get("Content-Length", "")
    if entry.size >= 0 and announced.isdigit() and int(announced) != entry.size - offset + skip:
        raise ObjectMovedError(f"it has {int(announced) + offset - skip} bytes, the listing says {entry.size}")
    most = limit if entry.size < 0 else entry.size
    async for piece in answer.pieces(most - offset + skip, "object", as_sent=True):
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:]
        skip = 0
