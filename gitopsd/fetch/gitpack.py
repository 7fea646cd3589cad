"""A pack as it came from a stranger: every object checked against its own hash before anybody sees it.

Theory of operation. `Pack` walks the bytes once: it inflates each object within the bound that its header declares, and
notes where it is. Then it resolves the deltas from their bases outwards, so that a cycle or a missing base is what is
left over. An object is filed under the hash of the content that was really there: nothing can be asked for under a
wrong name. Contents are kept in a cache of bounded size, and made again when they fell out of it.

A thin pack has deltas against objects that are `outside` of it: contents that are known under their own hash already.
A pack that was read once can be opened again by its `Columns`, without walking it: then every object that is asked for
is checked against its hash again, because a disk has held it meanwhile.

Knows packs, zlib and deltas; refuses to know the network and what commits and trees mean. Blocking: belongs into a
thread, where `Stop` ends it early.
Invariants: no allocation follows a number that the pack merely claims; no recursion.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable

from dulwich.errors import ApplyDeltaError  # noqa: TID251 - one of the modules behind fetch.git
from dulwich.pack import apply_delta  # noqa: TID251

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitobjects import KINDS, Bytes, Columns, Objects
from gitopsd.fetch.gitspool import HEADER_SIZE, PackLimits, Stop, read_header

_OFFSET_DELTA, _HASH_DELTA = 6, 7
_HASH_SIZE = 20
_HEADERS = {kind: name.encode() + b" " for kind, name in KINDS.items()}
_PIECE = 1 << 20
_NO_BASE = -1
_OUTSIDE = -2
# What a kept object takes besides its content.
_CACHE_COST = 128


class Pack:
    """The objects of one pack, by hash. Reads everything when made: blocking. Raises RemoteError for any flaw.

    A delta against an object that is neither in the pack nor in `outside` is a flaw.
    """

    def __init__(
        self,
        data: Bytes,
        limits: PackLimits,
        stop: Stop,
        *,
        outside: Objects | None = None,
        columns: Columns | None = None,
    ) -> None:
        """With its `columns`, the pack is one that was read before."""
        self._data = data
        self._limits = limits
        self._stop = stop
        self._outside = outside
        self._inflated = 0
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0
        self._largest_kept = limits.cached_bytes // 4
        self._is_known = columns is not None
        # Objects by number, in the order of the pack. Columns of plain numbers and not one object each: half a million
        # objects would keep the garbage collector, and with it the event loop, busy for half a second.
        columns = columns or Columns(bytearray(), array("Q"), array("Q"), array("q"), {})
        self._kinds, self._starts, self._sizes = columns.kinds, columns.starts, columns.sizes
        self._bases, self._numbers = columns.bases, columns.numbers
        self._offsets = array("Q")
        self._depths = bytearray()
        if not self._is_known:
            self._read()

    @property
    def columns(self) -> Columns:
        """What it takes to open the pack again."""
        return Columns(self._kinds, self._starts, self._sizes, self._bases, self._numbers)

    @property
    def data(self) -> Bytes:
        """The pack as it came."""
        return self._data

    @property
    def stands_alone(self) -> bool:
        """Whether no delta needs an object from outside."""
        return _OUTSIDE not in self._bases

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, wanted: str) -> bool:
        return bytes.fromhex(wanted) in self._numbers

    def has(self, wanted: bytes) -> bool:
        """Whether the object with this hash (20 bytes) is in the pack."""
        return wanted in self._numbers

    def get(self, wanted: bytes) -> tuple[int, bytes]:
        """Kind and content of the object with this hash (20 bytes). Raises RemoteError when it did not come."""
        number = self._numbers.get(wanted)
        if number is None:
            raise RemoteError(f"object {wanted.hex()} is not in the pack", rule="missing-object")
        kind, content = self._kinds[number], self._content(number)
        if self._is_known:
            hashed = _hash_of(kind, len(content))
            hashed.update(content)
            if hashed.digest() != wanted:
                raise RemoteError(f"object {wanted.hex()} is not what it was", rule="hash")
        return kind, content

    def _read(self) -> None:
        """Find out where every object is, then resolve the deltas."""
        count = read_header(self._data, self._limits)
        self._check_trailer()
        offset = HEADER_SIZE
        try:
            for number in range(count):
                offset = self._read_object(number, offset)
        except IndexError:
            raise RemoteError("the pack ends within an object", rule="pack") from None
        if offset != len(self._data) - _HASH_SIZE:
            raise RemoteError("the pack holds more than the objects it announces", rule="pack")
        self._resolve()

    def _check_trailer(self) -> None:
        hashed = hashlib.sha1(usedforsecurity=False)
        end = len(self._data) - _HASH_SIZE
        for start in range(0, max(end, 0), _PIECE):
            self._stop.check()
            hashed.update(self._data[start : min(start + _PIECE, end)])
        if end < HEADER_SIZE or hashed.digest() != self._data[end:]:
            raise RemoteError("the pack does not match its checksum", rule="pack-checksum")

    def _read_object(self, number: int, offset: int) -> int:
        """Read the object at `offset`; returns where the next one begins."""
        kind, size, start = self._object_header(offset)
        if size > self._limits.object_bytes:
            raise RemoteError(f"an object is larger than {self._limits.object_bytes} bytes", rule="object-size")
        base = _NO_BASE
        if kind == _OFFSET_DELTA:
            distance, start = self._distance(start)
            base = self._number_at(offset - distance)
        elif kind == _HASH_DELTA:
            start += _HASH_SIZE
        elif kind not in KINDS:
            raise RemoteError(f"an object has the unknown type {kind}", rule="object-type")
        self._offsets.append(offset)
        self._kinds.append(kind)
        self._starts.append(start)
        self._sizes.append(size)
        self._bases.append(base)
        self._depths.append(0)
        if kind in KINDS:
            return self._read_whole(number, kind, start, size)
        return self._inflate(start, size, lambda piece: None)

    def _read_whole(self, number: int, kind: int, start: int, size: int) -> int:
        hashed = _hash_of(kind, size)
        if size > self._largest_kept:
            end = self._inflate(start, size, hashed.update)
            self._file(number, hashed.digest(), None)
            return end
        content, end = self._inflated_bytes(start, size)
        hashed.update(content)
        self._file(number, hashed.digest(), content)
        return end

    def _number_at(self, offset: int) -> int:
        """Which of the objects so far begins at `offset`."""
        number = bisect_left(self._offsets, offset) if offset > 0 else len(self._offsets)
        if number == len(self._offsets) or self._offsets[number] != offset:
            raise RemoteError("a delta names no object before it", rule="delta")
        return number

    def _object_header(self, offset: int) -> tuple[int, int, int]:
        byte = self._data[offset]
        kind, size, shift = (byte >> 4) & 7, byte & 15, 4
        while byte & 0x80:
            if shift > 60:
                raise RemoteError("an object's size is out of range", rule="object-size")
            offset += 1
            byte = self._data[offset]
            size |= (byte & 0x7F) << shift
            shift += 7
        return kind, size, offset + 1

    def _distance(self, start: int) -> tuple[int, int]:
        byte = self._data[start]
        distance = byte & 0x7F
        read = 1
        while byte & 0x80:
            if read > 8:
                raise RemoteError("a delta's offset is out of range", rule="delta")
            byte = self._data[start + read]
            distance = ((distance + 1) << 7) | (byte & 0x7F)
            read += 1
        return distance, start + read

    def _inflated_bytes(self, start: int, size: int) -> tuple[bytes, int]:
        """The content at `start` and where it ends in the pack."""
        if size > _PIECE:
            whole = io.BytesIO()  # gives its buffer away without a copy
            end = self._inflate(start, size, whole.write)
            return whole.getvalue(), end
        parts: list[bytes] = []
        end = self._inflate(start, size, parts.append)
        return parts[0] if len(parts) == 1 else b"".join(parts), end

    def _inflate(self, start: int, size: int, take: Callable[[bytes], object]) -> int:
        """Give the content at `start`, which must be exactly `size` long, to `take`; returns where it ends."""
        self._count(size)
        inflater = zlib.decompressobj()
        end = len(self._data) - _HASH_SIZE
        # Enough for what does not compress; a window keeps zlib from copying the rest of the pack each time.
        window = min(size + (size >> 9) + 64, _PIECE)
        left = size + 1
        ended = False
        try:
            while not ended:
                self._stop.check()
                piece = self._data[start : min(start + window, end)]
                if not piece:
                    raise RemoteError("the pack ends within an object", rule="pack")
                part = inflater.decompress(piece, min(left, _PIECE))
                # At the end, zlib may leave what follows in both of its remainders.
                ended = inflater.eof
                rest = inflater.unused_data if ended else inflater.unconsumed_tail
                start += len(piece) - len(rest)
                left -= len(part)
                if not left:
                    raise RemoteError("an object is larger than it declares", rule="object-size")
                take(part)
        except zlib.error:
            raise RemoteError("an object cannot be inflated", rule="zlib") from None
        if left != 1:
            raise RemoteError("an object is smaller than it declares", rule="object-size")
        return start

    def _count(self, size: int) -> None:
        self._inflated += size
        if self._inflated > self._limits.inflated_bytes:
            raise RemoteError(f"the pack inflates to more than {self._limits.inflated_bytes} bytes", rule="pack-bomb")

    def _resolve(self) -> None:
        """Resolve deltas whose base is known, again and again; each round gets at least one step along every chain."""
        pending = [number for number, kind in enumerate(self._kinds) if kind not in KINDS]
        for _ in range(self._limits.chain + 1):
            left: list[int] = []
            for number in pending:
                base = self._base_of(number)
                if base == _NO_BASE:
                    left.append(number)
                else:
                    self._resolve_one(number, base)
            if not left or len(left) == len(pending):
                pending = left
                break
            pending = left
        if pending:
            raise RemoteError(f"{len(pending)} deltas have no base in the pack", rule="delta")

    def _base_of(self, number: int) -> int:
        """The resolved object that a delta is against, or _OUTSIDE; _NO_BASE while there is none."""
        base = self._bases[number]
        if base == _NO_BASE:
            wanted = self._base_hash(number)
            found = self._numbers.get(wanted, _NO_BASE)
            is_outside = found == _NO_BASE and self._outside is not None and self._outside.has(wanted)
            return _OUTSIDE if is_outside else found
        return base if self._kinds[base] in KINDS else _NO_BASE

    def _base_hash(self, number: int) -> bytes:
        start = self._starts[number]
        return self._data[start - _HASH_SIZE : start]

    def _from_outside(self, number: int) -> tuple[int, bytes]:
        """Kind and content of the object outside of the pack that a delta is against."""
        if self._outside is None:
            raise RemoteError("a delta has no base in the pack", rule="delta")
        return self._outside.get(self._base_hash(number))

    def _resolve_one(self, number: int, base: int) -> None:
        depth = 0 if base == _OUTSIDE else self._depths[base]
        if depth >= self._limits.chain:
            raise RemoteError(f"a chain of deltas is longer than {self._limits.chain}", rule="delta-chain")
        kind, before = self._from_outside(number) if base == _OUTSIDE else (self._kinds[base], self._content(base))
        content = self._patched(before, number)
        hashed = _hash_of(kind, len(content))
        hashed.update(content)
        self._kinds[number] = kind
        self._bases[number] = base
        self._depths[number] = depth + 1
        self._file(number, hashed.digest(), content)

    def _patched(self, base: bytes, number: int) -> bytes:
        delta, _ = self._inflated_bytes(self._starts[number], self._sizes[number])
        base_size, at = _delta_size(delta, 0)
        result_size, _ = _delta_size(delta, at)
        if base_size != len(base):
            raise RemoteError("a delta was made for another base", rule="delta")
        if result_size > self._limits.object_bytes:
            raise RemoteError(f"an object is larger than {self._limits.object_bytes} bytes", rule="object-size")
        self._count(result_size)
        try:
            result = b"".join(apply_delta(base, delta))
        except (ApplyDeltaError, ValueError, IndexError, OverflowError):
            raise RemoteError("a delta cannot be applied", rule="delta") from None
        if len(result) != result_size:
            raise RemoteError("a delta does not make what it declares", rule="delta")
        return result

    def _file(self, number: int, found: bytes, content: bytes | None) -> None:
        """File an object under its hash; `content` is kept while there is room."""
        known = self._numbers.setdefault(found, number)
        if content is not None:
            self._keep(number, content)
        if known == number:
            return
        if self._kinds[known] != self._kinds[number] or self._content(known) != self._content(number):
            raise RemoteError(f"two different objects have the hash {found.hex()}", rule="hash-collision")

    def _keep(self, number: int, content: bytes) -> None:
        if len(content) > self._largest_kept or number in self._cache:
            return
        self._cache[number] = content
        self._cached += len(content) + _CACHE_COST
        while self._cached > self._limits.cached_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped) + _CACHE_COST

    def _content(self, number: int) -> bytes:
        """The content of a resolved object, from the cache or made again along its chain."""
        chain: list[int] = []
        content = self._cache.get(number)
        while content is None:
            base = self._bases[number]
            if base < 0:
                content = self._root(number, base)
                self._keep(number, content)
                break
            chain.append(number)
            number = base
            content = self._cache.get(number)
        for delta in reversed(chain):
            content = self._patched(content, delta)
            self._keep(delta, content)
        return content

    def _root(self, number: int, base: int) -> bytes:
        """The content of an object that no other one in the pack is needed for."""
        if base == _OUTSIDE:
            return self._patched(self._from_outside(number)[1], number)
        return self._inflated_bytes(self._starts[number], self._sizes[number])[0]


def _hash_of(kind: int, size: int) -> hashlib._Hash:
    return hashlib.sha1(b"%s%d\0" % (_HEADERS[kind], size), usedforsecurity=False)


def _delta_size(delta: bytes, at: int) -> tuple[int, int]:
    size = shift = 0
    while at < len(delta) and shift <= 63:
        byte = delta[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return size, at
    raise RemoteError("a delta's size is out of range", rule="delta")
