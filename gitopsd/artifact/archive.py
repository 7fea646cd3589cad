"""Trees as compressed archives: repeatable on the way out, bounded and escape-proof on the way in.

Knows gzip and tar; refuses to know where archives come from. Equal trees give equal bytes (`spec/source.md` 4.3). What
is read may be anything: names that leave the tree, links, devices, and bombs are refused or skipped as
`spec/kustomize.md` 3.2 says, before they cost more than the bounds allow.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from gitopsd.artifact.tree import DEFAULT_LIMITS, FileTree, TreeError, TreeLimits, shown
from gitopsd.errors import GitopsdError

# No name, no time, unknown system: the bytes depend on nothing but the content.
_GZIP_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF))
_LEVEL = 6
_CHUNK = 1 << 20
# Headers and padding take at most this much beside each entry's content.
_ENTRY_OVERHEAD = 2048


class ArchiveError(GitopsdError):
    """An archive that cannot be read, or may not be; the text names the entry and the rule."""


@dataclass(frozen=True)
class Packed:
    """A compressed archive: its bytes, their digest as `<algorithm>:<hex>`, their number."""

    data: bytes
    digest: str

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return len(self.data)


def pack(tree: FileTree, algorithm: str = "sha256") -> Packed:
    """Compress a tree. Blocking; releases the interpreter while it compresses."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [_GZIP_HEADER]
    checksum, length = 0, 0
    for chunk in tree.chunks():
        checksum = zlib.crc32(chunk, checksum)
        length += len(chunk)
        parts.append(compressor.compress(chunk))
    parts.append(compressor.flush())
    parts.append(checksum.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little"))
    data = b"".join(parts)
    return Packed(data, digest_of(data, algorithm))


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """`<algorithm>:<hex>` of some bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def unpack(data: bytes, *, limits: TreeLimits = DEFAULT_LIMITS) -> FileTree:
    """Read a gzipped tar. Blocking. Symbolic links are skipped. Raises ArchiveError."""
    files: dict[str, bytes] = {}
    executables: list[str] = []
    directories: list[str] = []
    try:
        plain = _inflate(data, limits.content + (limits.files + limits.directories) * _ENTRY_OVERHEAD)
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
            for member, name in _members(archive, limits):
                if member.isdir():
                    directories.append(name)
                    continue
                content = archive.extractfile(member)
                files[name] = content.read() if content is not None else b""
                if member.mode & 0o111:
                    executables.append(name)
        return FileTree.build(files, executables, [name for name in directories if name], limits=limits)
    except (tarfile.TarError, zlib.error, EOFError, TreeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"the archive cannot be read: {str(error)[:256]}") from error


def _inflate(data: bytes, most: int) -> bytes:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    out = bytearray()
    rest = data
    while rest and not inflater.eof:
        out += inflater.decompress(rest, _CHUNK)
        if len(out) > most:
            raise ArchiveError(f"the archive holds more than {most} bytes")
        rest = inflater.unconsumed_tail
    if not inflater.eof:
        raise ArchiveError("the archive ends too early")
    return bytes(out)


def _members(archive: tarfile.TarFile, limits: TreeLimits) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """The files and directories with safe names."""
    for count, member in enumerate(archive):
        if count > limits.files + limits.directories:
            raise ArchiveError(f"the archive holds more than {limits.files + limits.directories} entries")
        if member.issym() or member.islnk():
            continue
        name = member.name
        if not (member.isdir() or member.isfile()):
            raise ArchiveError(f"entry '{shown(name)}' is neither a file nor a directory")
        if "\\" in name or name.startswith("/") or ".." in name.split("/"):
            raise ArchiveError(f"entry '{shown(name)}' has an invalid name")
        yield member, name.removeprefix("./").rstrip("/") if name not in {".", "./"} else ""
