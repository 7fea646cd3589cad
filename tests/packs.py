"""Packs made by hand, well-formed or not, for tests of those who read them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

COMMIT, TREE, BLOB, TAG, OFFSET_DELTA, HASH_DELTA = 1, 2, 3, 4, 6, 7
_NAMES = {COMMIT: "commit", TREE: "tree", BLOB: "blob", TAG: "tag"}
WHO = b"A U Thor <author@example.com> 1767225600 +0000"


def object_hash(kind: int, content: bytes) -> str:
    """The hash under which git knows an object."""
    return hashlib.sha1(f"{_NAMES[kind]} {len(content)}\0".encode() + content).hexdigest()


def object_header(kind: int, size: int) -> bytes:
    """Type and size as they stand before an object in a pack."""
    byte, size = (kind << 4) | (size & 15), size >> 4
    out = bytearray()
    while size:
        out.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    out.append(byte)
    return bytes(out)


def distance(value: int) -> bytes:
    """The offset of a delta's base."""
    out = [value & 0x7F]
    value >>= 7
    while value:
        value -= 1
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    return bytes(reversed(out))


def varint(value: int) -> bytes:
    """A size as deltas write it."""
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def insert(data: bytes) -> bytes:
    """Delta instructions that add `data`."""
    return b"".join(bytes([len(data[i : i + 127])]) + data[i : i + 127] for i in range(0, len(data), 127))


def copy(offset: int, size: int) -> bytes:
    """A delta instruction that copies from the base."""
    return b"\xff" + offset.to_bytes(4, "little") + size.to_bytes(3, "little")


def delta(base_size: int, result_size: int, *instructions: bytes) -> bytes:
    """A delta."""
    return varint(base_size) + varint(result_size) + b"".join(instructions)


@dataclass(frozen=True)
class Item:
    """One object of a pack. `size` and `raw` (instead of compressed `content`) may lie."""

    kind: int
    content: bytes
    base: bytes = b""
    size: int | None = None
    raw: bytes | None = None

    def encode(self) -> bytes:
        size = len(self.content) if self.size is None else self.size
        compressed = zlib.compress(self.content, 1) if self.raw is None else self.raw
        return object_header(self.kind, size) + self.base + compressed


def pack(items: Iterable[Item], *, count: int | None = None, trailer: bytes | None = None) -> bytes:
    """A pack of `items`, with a right checksum unless `trailer` says otherwise."""
    encoded = [item.encode() for item in items]
    body = b"PACK" + (2).to_bytes(4, "big") + (len(encoded) if count is None else count).to_bytes(4, "big")
    body += b"".join(encoded)
    return body + (hashlib.sha1(body).digest() if trailer is None else trailer)


def commit(tree: str, *, parents: Iterable[str] = (), message: bytes = b"message\n") -> bytes:
    """The content of a commit."""
    lines = [b"tree " + tree.encode(), *(b"parent " + parent.encode() for parent in parents)]
    return b"\n".join([*lines, b"author " + WHO, b"committer " + WHO, b"", message])


def tree(*entries: tuple[bytes, bytes, str]) -> bytes:
    """The content of a tree, entries (mode, name, hash) exactly as given."""
    return b"".join(mode + b" " + name + b"\0" + bytes.fromhex(found) for mode, name, found in entries)
