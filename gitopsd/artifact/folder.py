"""A folder with one file for each artifact: written whole or not at all, checked by digest, collected by age.

Knows files, digests and the layout `<kind>/<namespace>/<name>/<file>`; refuses to know trees, sources' states and the
event loop: everything here blocks and belongs into threads, where calls for different sources may overlap. Invariants:
nothing outside the root is read, written or removed; a name never stands for half a file; files are 0600 and folders
0700; messages name paths below the root only.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from gitopsd.artifact.archive import ArchiveError, hasher
from gitopsd.artifact.shared import SPILL_PREFIX
from gitopsd.artifact.tree import clamp_path, shown
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import ObjectKey

_TEMPORARY: Final = ".tmp-"
_MOST_COLLECTED: Final = 1000
_CHUNK: Final = 1 << 20
_NOTE: Final = ".note"
_LONGEST_NOTE: Final = 1 << 16


class Step(StrEnum):
    """What the storage was doing when it failed."""

    DIRECTORY = "directory"
    WRITE = "write"
    READ = "read"


class StoreError(GitopsdError):
    """The storage could not be read or written; the text names the operation, never our own path."""

    def __init__(self, message: str, step: Step = Step.READ) -> None:
        super().__init__(message)
        self.step = step


class ArtifactMissingError(StoreError):
    """The artifact is not in the storage, or no longer what it was."""


def source_folder(source: ObjectKey) -> str:
    """Where the files of a source are, below the root. Raises StoreError for names that no path may have."""
    return "/".join(checked(part) for part in (source.kind.lower(), source.namespace, source.name))


def checked(name: str) -> str:
    """A name that is one part of a path. The API server sees to that for objects; nothing here relies on it."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name.encode("utf-8", "replace")) > 255:
        raise StoreError(f"'{shown(name)}' cannot be the name of a file", Step.WRITE)
    return name


class Folder:
    """The files of all artifacts. Every method blocks and raises StoreError when the disk fails."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: dict[str, tuple[str, _Stamp]] = {}

    def open(self) -> None:
        """Check that the root is a directory, and sweep what dead processes left half-written."""
        if not self._root.is_dir():
            raise StoreError(f"the storage path {self._root} does not exist or is not a directory")
        try:
            for prefix in (_TEMPORARY, SPILL_PREFIX):
                for path in self._root.rglob(f"{prefix}*"):
                    if not _is_in_work(path.name.removeprefix(prefix)):
                        path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"the storage cannot be used: {error}") from error

    def write(self, path: str, data: bytes, digest: str) -> None:
        """Make `path` stand for `data`, at once and for good."""
        target = self._root / path
        temporary = _temporary_beside(target)
        try:
            self._make_folder(target.parent)
        except OSError as error:
            raise _failure(error, path, Step.DIRECTORY) from error
        try:
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(descriptor)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            self._verified[path] = (digest, _stamp(target))
        except OSError as error:
            raise _failure(error, path, Step.WRITE) from error

    def spool(self) -> Path:
        """A name below the root for a file that is being made; swept when its process has died."""
        return _temporary_beside(self._root / "spool")

    def adopt(self, path: str, spooled: Path, algorithm: str) -> tuple[str, int]:
        """Make `path` stand for a finished spool file, at once and for good; returns its digest and size."""
        target = self._root / path
        try:
            self._make_folder(target.parent)
        except OSError as error:
            raise _failure(error, path, Step.DIRECTORY) from error
        try:
            found = hasher(algorithm)
            with spooled.open("rb") as file:
                for chunk in iter(lambda: file.read(_CHUNK), b""):
                    found.update(chunk)
                os.fsync(file.fileno())
            spooled.chmod(0o600)
            spooled.replace(target)
            stamp = _stamp(target)
        except OSError as error:
            raise _failure(error, path, Step.WRITE) from error
        digest = f"{algorithm}:{found.hexdigest()}"
        self._verified[path] = (digest, stamp)
        return digest, stamp[2]

    def _make_folder(self, folder: Path) -> None:
        """Make each level on its own: of several made at once only the last would get the mode."""
        below = folder.relative_to(self._root)
        for level in [*reversed(below.parents), below]:
            (self._root / level).mkdir(mode=0o700, exist_ok=True)

    def link(self, path: str, name: str) -> None:
        """Let `name` beside `path` stand for it."""
        target = self._root / path
        temporary = _temporary_beside(target)
        try:
            temporary.symlink_to(target.name)
            temporary.replace(target.with_name(checked(name)))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _failure(error, path, Step.WRITE) from error

    def verify(self, path: str, digest: str) -> bool:
        """Tell whether the file is there with its digest, and remove it when it has another.

        A file that has not been touched since it was verified is not hashed again.
        """
        target = self._inside(path)
        try:
            if target is None or not target.is_file():
                return False
            before = _stamp(target)
            if self._verified.get(path) == (digest, before):
                return True
            with target.open("rb") as file:
                if not _has_digest(iter(lambda: file.read(_CHUNK), b""), digest):
                    target.unlink(missing_ok=True)
                    return False
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _failure(error, path, Step.READ) from error
        self._verified[path] = (digest, before)
        return True

    def read(self, path: str, digest: str) -> bytes:
        """The bytes of a file, checked as they were read. Raises ArtifactMissingError."""
        target = self._inside(path)
        try:
            data = target.read_bytes() if target is not None else b""
        except OSError as error:
            raise ArtifactMissingError(f"artifact '{shown(path)}' is not in the storage") from error
        if target is None or not _has_digest((data,), digest):
            raise ArtifactMissingError(f"artifact '{shown(path)}' is not in the storage with its digest")
        return data

    def collect(self, folder: str, keep: str, *, too_old: float, records: int) -> int:
        """Remove the files of a source that were written before `too_old`, then the oldest beyond `records`.

        `keep` is the name of the current file, or empty; it counts as one of the records. Links, locks and what is
        being written are left alone. Returns how many went. spec/source.md 4.6
        """
        found: list[tuple[float, Path]] = []
        try:
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    if _is_superseded(entry, keep):
                        found.append((entry.stat().st_mtime, Path(entry.path)))
                    if len(found) >= _MOST_COLLECTED:
                        break
            gone = _surplus(sorted(found), too_old, records - bool(keep))
            for path in gone:
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
                self._verified.pop(f"{folder}/{path.name}", None)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _failure(error, folder, Step.WRITE) from error
        return len(gone)

    def drop(self, folder: str) -> int:
        """Remove everything of a source; returns how many files there were."""
        for path in list(self._verified):
            if path.startswith(f"{folder}/"):
                self._verified.pop(path, None)
        target = self._root / folder
        try:
            count = sum(1 for path in target.iterdir() if path.is_file() and not path.is_symlink())
            shutil.rmtree(target)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _failure(error, folder, Step.WRITE) from error
        return count

    def note(self, folder: str, text: bytes) -> None:
        """Keep a few words beside the files of a source, for whoever comes after a restart; they are never served."""
        target = self._root / folder / _NOTE
        temporary = _temporary_beside(target)
        try:
            self._make_folder(target.parent)
            try:
                temporary.write_bytes(text)
                temporary.chmod(0o600)
                temporary.replace(target)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise _failure(error, folder, Step.WRITE) from error

    def noted(self, folder: str) -> bytes:
        """What `note` kept; empty without it."""
        try:
            with (self._root / folder / _NOTE).open("rb") as file:
                return file.read(_LONGEST_NOTE)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _failure(error, folder, Step.READ) from error

    def resolve(self, request_path: str) -> Path | None:
        """The file or folder that a request means; None when there is none, or when it is none of the artifacts."""
        found = self._inside(request_path)
        with suppress(OSError, ValueError):
            if found is not None and found.exists():
                parts = found.relative_to(self._root.resolve()).parts
                return None if any(part.startswith(".") for part in parts) else found
        return None

    def _inside(self, path: str) -> Path | None:
        with suppress(OSError, ValueError, RuntimeError):
            root = self._root.resolve()
            found = (root / clamp_path(path)).resolve()
            if found.is_relative_to(root):
                return found
        return None


_Stamp = tuple[int, int, int, int, int]


def _stamp(target: Path) -> _Stamp:
    """What changes when somebody touches a file. The time of the content can be set back, that of the node cannot."""
    found = target.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _has_digest(chunks: Any, digest: str) -> bool:
    """Whether the bytes have a digest; one without algorithm is by sha256 (spec/kustomize.md 3.2)."""
    algorithm, _, wanted = digest.rpartition(":")
    try:
        found = hasher(algorithm or "sha256")
    except ArchiveError:
        return False
    for chunk in chunks:
        found.update(chunk)
    return bool(found.hexdigest() == wanted)


def _temporary_beside(target: Path) -> Path:
    return target.with_name(f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}")


def _is_in_work(rest: str) -> bool:
    """Whether the process whose number begins `rest` is another one that still lives."""
    number, _, _ = rest.partition("-")
    if not number.isdecimal() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _failure(error: OSError, path: str, step: Step) -> StoreError:
    return StoreError(f"{error.strerror or 'the storage failed'} ({shown(path)})", step)


def _is_superseded(entry: os.DirEntry[str], keep: str) -> bool:
    if entry.name == keep or entry.name.startswith(".") or entry.name.endswith(".lock"):
        return False
    return entry.is_file(follow_symlinks=False)


def _surplus(oldest_first: list[tuple[float, Path]], too_old: float, keep: int) -> list[Path]:
    """Everything that is too old, then the oldest of the rest until only `keep` are left."""
    gone = [path for modified, path in oldest_first if modified < too_old]
    rest = [path for modified, path in oldest_first if modified >= too_old]
    return [*gone, *rest[: max(len(rest) - keep, 0)]]
