"""What was fetched of repositories, kept on disk so that the next fetch brings only what is new.

Theory of operation. Per repository and credentials there is a pile of packs, as they came, and the commits (*tips*) of
which the pile holds all files. A fetch tells the server the tips; what it sends is read on top of the pile and laid on
it. A pile that has grown high or old is written anew, as one pack without deltas that holds what the tips need. In
memory is nothing but names and numbers: a pile is opened when it is needed, by the columns that lie beside its packs.
Piles that were not used for long make room for others; what cannot be kept is not kept, and no fetch fails of it.

Knows files and budgets; refuses to know servers, and whom the objects may be shown to (that is the key's business).
Invariants: what is read back is checked against its hash, and what does not match is forgotten and fetched anew; at
most a quarter of the disk that is free is used; everything blocks, and may be called in any thread.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gitopsd import metrics
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitobjects import Bytes, Columns
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitpile import FileBytes, PackFile, PackWriter, read_columns, write_pack
from gitopsd.fetch.gitspool import PackLimits, Stop
from gitopsd.fetch.gitview import Layers, reachable

KEPT_BYTES = 1 << 30
_MOST_PACKS = 8
_MOST_TIPS = 8
# Updates may outgrow what they update by this much before the pile is written anew.
_SLACK = 1 << 20


class SpoiledError(RemoteError):
    """What was kept of a repository cannot be used any more. It is forgotten; asking again fetches everything."""

    def __init__(self) -> None:
        super().__init__("what was kept of the repository is damaged", rule="kept-objects")


@dataclass
class _Pile:
    """The packs of one repository, and by what was asked for the commits that are whole in them, the latest last."""

    files: tuple[PackFile, ...] = ()
    tips: OrderedDict[str, str] = field(default_factory=OrderedDict)
    # What the lowest pack took; the others are what came since.
    base: int = 0

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


class Kept:
    """A pile that is open for reading. An object that is not there or not what it was is a SpoiledError."""

    def __init__(self, pile: _Pile, packs: list[Pack], opened: list[FileBytes], forget: Callable[[], None]) -> None:
        self._layers = Layers(packs[::-1])
        self._opened = opened
        self._forget = forget
        self._tips = dict(pile.tips)
        self.files = pile.files

    @property
    def haves(self) -> tuple[str, ...]:
        """The commits of which all files are here, the latest first."""
        return tuple(dict.fromkeys(reversed(self._tips.values())))

    @property
    def wants(self) -> tuple[str, ...]:
        """The commits and tags of which everything is here."""
        return tuple(self._tips)

    def holds(self, want: str) -> bool:
        """Whether all of a commit or tag is here."""
        return want in self._tips

    def __contains__(self, wanted: str) -> bool:
        return wanted in self._layers

    def has(self, wanted: bytes) -> bool:
        """Whether the object with this hash (20 bytes) is here."""
        return self._layers.has(wanted)

    def get(self, wanted: bytes) -> tuple[int, bytes]:
        """Kind and content of the object with this hash (20 bytes)."""
        try:
            return self._layers.get(wanted)
        except TimeoutError:
            raise
        except (RemoteError, OSError, IndexError) as error:
            self._forget()
            raise SpoiledError from error

    def close(self) -> None:
        """Close the files."""
        for opened in self._opened:
            opened.close()


class ObjectCache:
    """The piles of all repositories below one folder, which belongs to it alone."""

    def __init__(self, folder: Path, *, budget: int = KEPT_BYTES, limits: PackLimits | None = None) -> None:
        """`budget` bounds the bytes on disk."""
        self._folder = folder
        self._budget = budget
        self._limits = limits or PackLimits()
        self._lock = threading.Lock()
        self._piles: OrderedDict[Hashable, _Pile] = OrderedDict()
        self._is_swept = False

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(pile.size for pile in list(self._piles.values()))

    def sweep(self) -> None:
        """Remove what another process left in the folder; only the first call does anything."""
        with self._lock:
            if self._is_swept:
                return
            self._is_swept = True
            shutil.rmtree(self._folder, ignore_errors=True)

    def open(self, key: Hashable, stop: Stop) -> Kept | None:
        """What is kept under `key`; None when that is nothing."""
        with self._lock:
            found = self._piles.get(key)
            if found is None:
                return None
            self._piles.move_to_end(key)
            pile = replace(found, tips=OrderedDict(found.tips))
        try:
            packs, opened = self._opened(pile, stop)
        except OSError:
            self.forget(key)
            return None
        return Kept(pile, packs, opened, lambda: self.forget(key))

    def _opened(self, pile: _Pile, stop: Stop) -> tuple[list[Pack], list[FileBytes]]:
        # The pack that is laid on the pile has a cache of its own.
        share = self._limits.cached_bytes // 2 // len(pile.files)
        limits = replace(self._limits, cached_bytes=share)
        packs: list[Pack] = []
        opened: list[FileBytes] = []
        try:
            for file in pile.files:
                data = FileBytes(file.path, file.packed)
                opened.append(data)
                outside = Layers(packs[::-1])
                packs.append(Pack(data, limits, stop, outside=outside, columns=read_columns(data, file)))
        except OSError:
            for data in opened:
                data.close()
            raise
        return packs, opened

    def keep(self, key: Hashable, pack: Pack, tip: tuple[str, str], stop: Stop, *, base: Kept | None = None) -> None:
        """Lay `pack` on the pile, or begin a new one: all of `tip` (what was asked for, its commit) is in it now.

        With `base`, the pack needs what is in there. An OSError is no failure: then nothing is kept.
        """
        try:
            file = self._written(pack.data, pack.columns)
            if file is not None:
                self._lay(key, file, tip, base)
                self._tidy(key, stop)
        except TimeoutError:
            return  # while the pile was written anew: it stays as it was
        except (OSError, RemoteError):
            self.forget(key)

    def touch(self, key: Hashable, want: str) -> None:
        """Note that a tip was of use."""
        with self._lock:
            pile = self._piles.get(key)
            if pile is not None and want in pile.tips:
                pile.tips.move_to_end(want)

    def forget(self, key: Hashable) -> None:
        """Remove what is kept under `key`."""
        with self._lock:
            pile = self._piles.pop(key, None)
        _remove(pile.files if pile is not None else ())
        metrics.git_kept.set(self.size)

    def clear(self) -> None:
        """Remove everything."""
        for key in list(self._piles):
            self.forget(key)
        with suppress(OSError):
            self._folder.rmdir()

    def _lay(self, key: Hashable, file: PackFile, tip: tuple[str, str], base: Kept | None) -> None:
        with self._lock:
            pile = self._piles.get(key, _Pile())
            is_founded = base is None or set(base.files) <= set(pile.files)
            if is_founded:
                self._piles[key] = pile
                pile.files += (file,)
                pile.base = pile.base or file.size
                want, commit = tip
                pile.tips[want] = commit
                pile.tips.move_to_end(want)
                while len(pile.tips) > _MOST_TIPS:
                    pile.tips.popitem(last=False)
                self._piles.move_to_end(key)
        if not is_founded:
            _remove((file,))  # somebody wrote the pile anew meanwhile

    def _tidy(self, key: Hashable, stop: Stop) -> None:
        """Write the pile anew when that is worth it, and let the oldest go until all fit their budget."""
        kept = None
        with self._lock:
            pile = self._piles.get(key)
            is_worth_it = pile is not None and (len(pile.files) > _MOST_PACKS or pile.size > 2 * pile.base + _SLACK)
        if is_worth_it:
            kept = self.open(key, stop)
        if kept is not None:
            try:
                self._write_anew(key, kept, stop)
            finally:
                kept.close()
        allowed = self._allowance()
        while self.size > allowed and self._piles:
            self.forget(next(iter(self._piles)))
        metrics.git_kept.set(self.size)

    def _write_anew(self, key: Hashable, kept: Kept, stop: Stop) -> None:
        writer = PackWriter(self._new_path())
        try:
            for name, is_there in reachable(kept, kept.wants, stop):
                if not is_there:
                    raise SpoiledError
                writer.add(name, *kept.get(name))
            file = writer.finish()
        except BaseException:
            writer.abandon()
            raise
        with self._lock:
            pile = self._piles.get(key)
            is_current = pile is not None and pile.files == kept.files
            if pile is not None and is_current:
                pile.files = (file,)
                pile.base = file.size
        _remove(kept.files if is_current else (file,))

    def _written(self, data: Bytes, columns: Columns) -> PackFile | None:
        size = len(data) + 53 * len(columns.kinds)
        if size > self._allowance():
            return None
        return write_pack(self._new_path(), data, columns)

    def _new_path(self) -> Path:
        self.sweep()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The storage path is served over HTTP, but nothing whose name begins with a dot.
        return self._folder / f".{secrets.token_hex(8)}"

    def _allowance(self) -> int:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.statvfs(self._folder)
        return min(self._budget, (found.f_bavail * found.f_frsize + self.size) // 4)


def _remove(files: tuple[PackFile, ...]) -> None:
    for file in files:
        with suppress(OSError):
            file.path.unlink(missing_ok=True)
