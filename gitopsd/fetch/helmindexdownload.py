"""Downloading an index: bounded while it comes, into a file, hashed on the way; not again when it has not changed.

Knows requests and validators (ETag, Last-Modified); refuses to know what an index is and how it is stored.
Invariants: of a download that did not end well no file is left; validators are only sent to the address they came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, Final

from gitopsd.artifact.archive import hasher
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Access, HttpClient
from gitopsd.tasks import offload

_PIECE: Final = 1 << 20
_BUSY: Final = frozenset((429, 503))
_SECONDS = re.compile(r"\d{1,9}")
_LONGEST_VALIDATOR: Final = 1024


class BusyError(RemoteError):
    """The server asks to be left alone for `again_in` seconds."""

    def __init__(self, message: str, again_in: float) -> None:
        super().__init__(message)
        self.again_in = again_in


@dataclass(frozen=True)
class Validators:
    """By what a server tells that a file is still the one it gave out, and the address where it did."""

    url: str = ""
    etag: str = ""
    modified: str = ""

    @property
    def is_useful(self) -> bool:
        """Whether there is anything to ask by."""
        return bool(self.etag or self.modified)

    def headers(self, url: str) -> dict[str, str]:
        """The headers of a request that wants the file at `url` only if it is another one by now."""
        if url != self.url:
            return {}
        wanted = {"If-None-Match": self.etag, "If-Modified-Since": self.modified}
        return {name: value for name, value in wanted.items() if value}


@dataclass(frozen=True)
class Downloaded:
    """A file that has come. `digests` are `<algorithm>:<hex>` by algorithm."""

    path: Path
    size: int
    digests: Mapping[str, str]
    validators: Validators


async def download(
    web: HttpClient,
    url: str,
    path: Path,
    *,
    access: Access,
    limit: int,
    algorithms: Iterable[str] = ("sha256",),
    known: Validators | None = None,
) -> Downloaded | None:
    """Put what is at `url` into `path`; None when it is still what `known` stands for.

    The caller sets the time limit. Raises RemoteError, with rule `size` beyond `limit` bytes, and TLSMaterialError.
    """
    headers = known.headers(url) if known is not None else {}
    async with web.request("GET", url, access=access, headers=headers) as answer:
        if answer.status == 304 and headers:
            return None
        _check_status(answer.status, answer.headers.get("Retry-After", ""))
        validators = Validators(
            url, _validator(answer.headers.get("ETag")), _validator(answer.headers.get("Last-Modified"))
        )
        sink = _Sink(path, algorithms)
        try:
            await offload(sink.open)
            async for piece in answer.pieces(limit, "index"):
                await sink.feed(piece)
            await offload(sink.close)
        except BaseException as error:
            await offload(sink.discard)
            if isinstance(error, OSError):
                raise RemoteError(f"the index cannot be written: {error.strerror}") from None
            raise
    return Downloaded(path, sink.size, sink.digests, validators)


def _validator(value: str | None) -> str:
    return value if value is not None and value.isprintable() and len(value) <= _LONGEST_VALIDATOR else ""


def _check_status(status: int, retry_after: str) -> None:
    if status == 200:
        return
    meaning = {401: "authentication required", 403: "authorization failed", 404: "not found", 429: "too many requests"}
    message = f"{meaning.get(status, 'unexpected answer')}: the server answered {status}"
    delay = _delay(retry_after) if status in _BUSY else 0.0
    if delay > 0:
        raise BusyError(message, delay)
    raise RemoteError(message)


def _delay(retry_after: str) -> float:
    """Seconds that a `Retry-After` asks for, as a number or as a date; 0 when it says nothing."""
    text = printable(retry_after, 64)
    if _SECONDS.fullmatch(text) is not None:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class _Sink:
    """A file that is written in large pieces, in threads."""

    def __init__(self, path: Path, algorithms: Iterable[str]) -> None:
        self._path = path
        self._hashers = {algorithm: hasher(algorithm) for algorithm in algorithms}
        self._file: IO[bytes] | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self.size = 0

    @property
    def digests(self) -> dict[str, str]:
        return {algorithm: f"{algorithm}:{found.hexdigest()}" for algorithm, found in self._hashers.items()}

    def open(self) -> None:
        self._file = self._path.open("xb")

    async def feed(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held >= _PIECE:
            await offload(self._write)

    def _write(self) -> None:
        pieces, self._pieces, self._held = self._pieces, [], 0
        for piece in pieces:
            for one in self._hashers.values():
                one.update(piece)
            self.size += len(piece)
        self._opened.writelines(pieces)

    @property
    def _opened(self) -> Any:
        assert self._file is not None
        return self._file

    def close(self) -> None:
        self._write()
        self._opened.close()

    def discard(self) -> None:
        """Leave nothing."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
