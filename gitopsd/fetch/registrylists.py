"""Lists of registries: their pages, and how one leads to the next.

Knows the forms of tag lists and of indexes that list referrers; refuses to know how a page is asked for. Pure.
Invariant: a list never leads to another server.
"""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import msgspec

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Answer, origin_of
from gitopsd.fetch.registryaddress import is_tag
from gitopsd.fetch.registrymanifest import OCI_INDEX, Manifest, digest_of, parse_manifest

_LINK = re.compile(r"<([^<>]*)>([^<>,]*)")
_NEXT = re.compile(r'\brel\s*=\s*"?next\b')


class _TagList(msgspec.Struct):
    tags: list[str] | None = None


def read_tags(body: bytes) -> list[str]:
    """The tags on a page; names that no tag can have are left out. Raises RemoteError."""
    try:
        found = msgspec.json.decode(body, type=_TagList)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RemoteError(f"the registry's list cannot be read: {printable(str(error), 256)}") from None
    return [tag for tag in found.tags or [] if is_tag(tag)]


def read_index(body: bytes) -> Manifest | None:
    """The index on a page of referrers; None for a body that is something else."""
    try:
        return parse_manifest(body, OCI_INDEX, digest_of(body))
    except RemoteError:
        return None


def next_page(answer: Answer) -> str:
    """Path and query of the next page, empty at the end (RFC 8288, `rel="next"`)."""
    for header in answer.headers.getall("Link", ()):
        for target, parameters in _LINK.findall(header):
            if _NEXT.search(parameters):
                return _same_origin(answer.url, target)
    return ""


def _same_origin(current: str, target: str) -> str:
    try:
        url = urljoin(current, target)
        if origin_of(url) != origin_of(current):
            raise RemoteError("the registry's list goes on at another server", rule="pages")
    except ValueError:
        raise RemoteError("the registry's list goes on at an address that cannot be used", rule="pages") from None
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
