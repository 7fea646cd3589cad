"""What a bucket is to those who read it: does it exist, which objects has it, what is in one of them.

Knows the words that all protocols share, and how requests to a storage are sent, retried and put into words when they
fail; refuses to know any protocol (`buckets3`, `bucketgcs`, `bucketazure`).
Invariants: the storage's own error code stays in every message; no message holds the query of a URL or a credential
(spec/hostile-inputs.md I06, I07).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gitopsd.fetch.auth import mask
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Access, Answer, HttpClient

MOST_PAGE_BYTES = 32 << 20
_MOST_FAULT_BYTES = 64 << 10
# Pauses before the second and the third try, in seconds; the storage was busy, or the connection broke.
_PAUSES = (0.2, 0.8)
_PASSING = frozenset((429, 500, 502, 503, 504))


class Entry(NamedTuple):
    """One object of a listing.

    `etag` is what the revision is made from, `version` what a download insists on, `size` is -1 where it is not told.
    `md5` is the digest of the content where the storage tells it, else empty.
    """

    key: str
    etag: str
    size: int = -1
    version: str = ""
    md5: bytes = b""


class Page(NamedTuple):
    """A part of a listing, and the token of the next part; empty after the last."""

    entries: list[Entry]
    token: str = ""


class BucketError(RemoteError):
    """The storage refused. `status` is that of HTTP, `code` its own word for what is wrong.

    `region` is where it says that the bucket is, if it does.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", region: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.region = region


class ObjectMovedError(BucketError):
    """The object is not what the listing said: it is gone, or another one took its place."""


class BucketClient(Protocol):
    """Reads one bucket. Every method may raise RemoteError; the caller sets the time limit."""

    async def exists(self) -> bool:
        """Whether the bucket is there."""

    async def page(self, prefix: str, token: str) -> Page:
        """A page of the objects whose keys begin with `prefix`; `token` is empty for the first."""

    def get(self, key: str, version: str = "", offset: int = 0) -> AbstractAsyncContextManager[Answer]:
        """Open an object from `offset` on: status 200 from its beginning, 206 from the offset.

        With a `version` it must be that one. Raises ObjectMovedError when it is gone or another one.
        """


class Fault(NamedTuple):
    """How a storage says what is wrong."""

    code: str
    message: str
    region: str = ""


@dataclass(frozen=True)
class Exchange:
    """Requests to one storage.

    `sign` gives the headers that prove who asks, for a method, a URL and the other headers. `read_fault` reads the body
    of a refusal, and raises ValueError for one that it cannot read.
    """

    web: HttpClient
    access: Access
    sign: Callable[[str, str, Mapping[str, str]], Mapping[str, str]]
    read_fault: Callable[[bytes], Fault]
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @asynccontextmanager
    async def answer(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Answer]:
        """Ask, and again where the storage was only busy or the connection broke; any status is an answer."""
        async with AsyncExitStack() as stack:
            answer = await self._first_good(stack, method, url, dict(headers or {}))
            yield answer

    async def _first_good(self, stack: AsyncExitStack, method: str, url: str, headers: dict[str, str]) -> Answer:
        for pause in (*_PAUSES, None):
            signed = headers | dict(self.sign(method, url, headers))
            try:
                answer = await stack.enter_async_context(
                    self.web.request(method, url, access=self.access, headers=signed, follow=False)
                )
            except RemoteError as error:
                if pause is None or error.rule:
                    raise self._masked(error) from error
            else:
                if pause is None or answer.status not in _PASSING:
                    return answer
            await stack.aclose()
            await asyncio.sleep(pause)  # no event tells when a storage is less busy
        raise AssertionError("the last try returns or raises")

    def _masked(self, error: RemoteError) -> RemoteError:
        return RemoteError(mask(without_queries(error.message), self.secrets), rule=error.rule)

    async def document(self, url: str, what: str, headers: Mapping[str, str] | None = None) -> bytes:
        """The body of an answer with status 200. Raises BucketError for any other."""
        async with self.answer("GET", url, headers) as answer:
            if answer.status == 200:
                return await answer.read(MOST_PAGE_BYTES, what)
            raise await self.failure(answer)

    async def failure(self, answer: Answer) -> BucketError:
        """The error that an answer means."""
        try:
            fault = self.read_fault(await answer.read(_MOST_FAULT_BYTES))
        except (RemoteError, ValueError):
            fault = Fault("", "")
        code = printable(fault.code, 128) or printable(answer.headers.get("x-ms-error-code", ""), 128)
        text = ": ".join(part for part in (code, printable(without_queries(fault.message))) if part)
        text = f"{text} (status {answer.status})" if text else f"the storage answered {answer.status}"
        kind = ObjectMovedError if answer.status in {404, 412} else BucketError
        region = answer.headers.get("x-amz-bucket-region", "") or fault.region
        return kind(mask(text, self.secrets), status=answer.status, code=code, region=region)


def read_size(text: str) -> int:
    """A size as a storage writes it; -1 for anything else."""
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else -1


def without_queries(text: str) -> str:
    """Cut the query off whatever looks like an address: it may be signed, or hold a token."""
    if "?" not in text:
        return text
    return " ".join(_without_query(word) for word in text.split(" "))


def _without_query(word: str) -> str:
    address, mark, query = word.partition("?")
    if not mark or ("/" not in address and "=" not in query):
        return word
    # What closes the quotation or the sentence around the address is no part of its query.
    return address + query[len(query.rstrip("'\"<>)]}.,:;")) :]
