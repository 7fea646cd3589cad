"""Git's signed objects taken apart: the bytes that a signature covers, and the signature.

Knows where commits (a header) and tags (the end of the message) carry signatures; refuses to know keys. Pure.
Invariant: the bytes are split once and never written anew, so nothing that a parser overlooks can slip in between what
is verified and what is used; anything ambiguous is refused (spec/hostile-inputs.md D03).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from gitopsd.errors import GitopsdError

_SIGNATURE_LINE: Final = re.compile(
    rb"^-----BEGIN (?:PGP SIGNATURE|PGP MESSAGE|SSH SIGNATURE|SIGNED MESSAGE)-----", re.MULTILINE
)
_HEADERS: Final = (b"gpgsig", b"gpgsig-sha256")
# What no commit or tag of people is larger than. The libraries let no other thread run while they hash.
_LARGEST: Final = 16 << 20


class SignatureError(GitopsdError):
    """A commit or tag is not signed, or not by a key that is trusted; the text says which."""


@dataclass(frozen=True)
class Signed:
    """An object taken apart: the bytes that its signature covers, and the signature (empty without one)."""

    payload: bytes
    signature: bytes


def split_commit(raw: bytes) -> Signed:
    """Take the signature out of a commit's header. Raises SignatureError when there is more than one."""
    _check_size(raw)
    payload, found = _without_headers(raw)
    return Signed(payload, found.get(b"gpgsig", b""))


def split_tag(raw: bytes) -> Signed:
    """Take the signature off the end of a tag's message. Raises SignatureError as `split_commit` does."""
    _check_size(raw)
    body = raw.find(b"\n\n")
    start = -1
    if body >= 0:
        for found in _SIGNATURE_LINE.finditer(raw, body + 1):
            start = found.start()
    if start < 0:
        return Signed(raw, b"")
    payload, _ = _without_headers(raw[:start])
    return Signed(payload, raw[start:])


def _check_size(raw: bytes) -> None:
    if len(raw) > _LARGEST:
        raise SignatureError(f"it is larger than {_LARGEST} bytes")


def _without_headers(raw: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The object without its signature headers, byte for byte, and their values."""
    end = raw.find(b"\n\n") + 1
    kept: list[bytes] = []
    found: dict[bytes, list[bytes]] = {}
    taking: list[bytes] | None = None
    for line in raw[:end].split(b"\n")[:-1]:
        if not line.startswith(b" "):
            name, _, value = line.partition(b" ")
            if name in found:
                raise SignatureError("it has more than one signature header")
            taking = found.setdefault(name, [value]) if name in _HEADERS else None
        elif taking is not None:
            taking.append(line[1:])
        if taking is None:
            kept.append(line + b"\n")
    return b"".join(kept) + raw[end:], {name: b"\n".join(lines) + b"\n" for name, lines in found.items()}


def is_signed_tag(raw: bytes) -> bool:
    """Whether a tag object (empty for a lightweight tag) carries a signature of any kind."""
    return bool(raw) and bool(split_tag(raw).signature)


def tag_hash(raw: bytes) -> str:
    """The hash of a tag object."""
    return hashlib.sha1(b"tag %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()
