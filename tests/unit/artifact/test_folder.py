from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gitopsd.artifact.folder import ArtifactMissingError, Folder, Step, StoreError, checked, source_folder
from gitopsd.krm.objects import ObjectKey

SOURCE = ObjectKey("source.toolkit.fluxcd.io", "GitRepository", "ns", "app")
HOME = "gitrepository/ns/app"
NOW = 1_000_000.0


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return root


@pytest.fixture
def folder(root: Path) -> Folder:
    folder = Folder(root)
    folder.open()
    return folder


def store(folder: Folder, name: str, data: bytes = b"data") -> str:
    path = f"{HOME}/{name}"
    folder.write(path, data, digest(data))
    return path


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def aged(folder: Folder, root: Path, *ages: float) -> None:
    for age in ages:
        path = root / store(folder, f"{age:g}.tar.gz")
        os.utime(path, (NOW - age, NOW - age))


def left(folder: Folder, root: Path, keep: str, *, ttl: float = 60, records: int = 2) -> tuple[int, list[str]]:
    count = folder.collect(HOME, keep, too_old=NOW - ttl, records=records)
    return count, [path.name for path in sorted((root / HOME).iterdir())]


def test_s4_5_the_root_must_be_a_directory(tmp_path: Path) -> None:
    """spec/source.md 4.5"""
    (tmp_path / "file").touch()
    for root in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(StoreError, match="not a directory"):
            Folder(root).open()


def test_s4_3_files_and_folders_are_ours_alone(folder: Folder, root: Path) -> None:
    """spec/source.md 4.3"""
    path = root / store(folder, "a.tar.gz")
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    while path.parent != root:
        path = path.parent
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_E12_a_file_is_always_complete(folder: Folder, root: Path) -> None:
    path = root / store(folder, "a", b"0" * 100_000)
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            data = path.read_bytes()
            seen.add(data[:1] if len(set(data)) == 1 and len(data) == 100_000 else b"broken")

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 10):
        store(folder, "a", str(number).encode() * 100_000)
    done.set()
    reader.join()
    assert b"broken" not in seen
    assert files(root) == [f"{HOME}/a"]


def test_C12_a_disk_that_fails_leaves_nothing_and_keeps_the_old_file(
    folder: Folder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(folder, "a", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device \(gitrepository/ns/app/a\)") as refused:
        store(folder, "a", b"new")
    assert refused.value.step is Step.WRITE
    assert str(root) not in str(refused.value)
    assert folder.read(path, digest(b"old")) == b"old"
    assert files(root) == [path]


def test_C12_a_file_in_the_way_of_a_folder_is_told_by_its_step(folder: Folder, root: Path) -> None:
    (root / "gitrepository").touch()
    with pytest.raises(StoreError) as refused:
        store(folder, "a")
    assert refused.value.step is Step.DIRECTORY


def test_what_a_dead_process_left_is_swept_at_the_start(folder: Folder, root: Path) -> None:
    kept = store(folder, "a")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for owner in (dead.pid, os.getpid(), "odd", 1 << 70):
        (root / HOME / f".tmp-{owner}-x").touch()
        (root / f".tree-{owner}-x").touch()
    alive = root / HOME / f".tmp-{os.getppid()}-x"
    alive.touch()
    Folder(root).open()
    assert files(root) == sorted([kept, str(alive.relative_to(root))])


def test_C13_a_file_that_was_altered_is_found_out_and_removed(folder: Folder, root: Path) -> None:
    path = store(folder, "a")
    assert folder.verify(path, digest(b"data"))
    before = (root / path).stat()
    (root / path).write_bytes(b"DATA")
    os.utime(root / path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    assert not folder.verify(path, digest(b"data"))
    assert files(root) == []
    assert not folder.verify(path, digest(b"data"))


def test_C13_altered_bytes_are_never_handed_out(folder: Folder, root: Path) -> None:
    path = store(folder, "a")
    (root / path).write_bytes(b"DATA")
    with pytest.raises(ArtifactMissingError):
        folder.read(path, digest(b"data"))
    assert files(root) == [path]  # it may be the right file of a newer artifact; its source decides


def test_a_file_that_nobody_touched_is_not_hashed_again(
    folder: Folder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(folder, "a")
    other = Folder(root)
    assert other.verify(path, digest(b"data"))
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was read again"))
    assert other.verify(path, digest(b"data"))
    assert folder.verify(path, digest(b"data"))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_E07_every_digest_of_the_contract_is_understood(folder: Folder, algorithm: str) -> None:
    path = store(folder, "a")
    assert Folder(folder._root).verify(path, digest(b"data", algorithm))
    assert folder.read(path, digest(b"data", algorithm)) == b"data"


def test_E07_a_bare_digest_is_by_sha256(folder: Folder) -> None:
    """spec/kustomize.md 3.2"""
    path = store(folder, "a")
    assert folder.read(path, hashlib.sha256(b"data").hexdigest()) == b"data"


@pytest.mark.parametrize(
    "wrong", ["", ":", "sha256:", "md5:8d777f385d3dfec8815d20f7496026dc", "SHA256:x", "sha256:" + "A" * 64]
)
def test_E07_other_digests_are_refused(folder: Folder, wrong: str) -> None:
    path = store(folder, "a")
    with pytest.raises(ArtifactMissingError):
        folder.read(path, wrong)
    assert not Folder(folder._root).verify(path, wrong)


def test_E07_an_upper_case_digest_is_refused(folder: Folder) -> None:
    path = store(folder, "a")
    with pytest.raises(ArtifactMissingError):
        folder.read(path, digest(b"data").upper())
    with pytest.raises(ArtifactMissingError):
        folder.read(path, "sha256:" + hashlib.sha256(b"data").hexdigest().upper())


def test_s17_12_the_newest_records_stay(folder: Folder, root: Path) -> None:
    """spec/source.md 17, vector 12"""
    aged(folder, root, 10, 20, 30, 40)
    assert left(folder, root, "10.tar.gz") == (2, ["10.tar.gz", "20.tar.gz"])


def test_s17_13_what_is_too_old_goes_first(folder: Folder, root: Path) -> None:
    """spec/source.md 17, vector 13"""
    aged(folder, root, 10, 20, 70, 80)
    assert left(folder, root, "10.tar.gz") == (2, ["10.tar.gz", "20.tar.gz"])


def test_s17_14_the_current_file_stays_when_all_are_too_old(folder: Folder, root: Path) -> None:
    """spec/source.md 17, vector 14"""
    aged(folder, root, 70, 80, 90, 100)
    assert left(folder, root, "100.tar.gz") == (3, ["100.tar.gz"])


def test_s4_6_links_locks_and_what_is_being_written_are_not_collected(folder: Folder, root: Path) -> None:
    """spec/source.md 4.6"""
    aged(folder, root, 10, 70)
    folder.link(f"{HOME}/10.tar.gz", "latest.tar.gz")
    for name in ("10.tar.gz.lock", "70.tar.gz.lock", ".tmp-1-x"):
        (root / HOME / name).touch()
        os.utime(root / HOME / name, (0, 0))
    assert left(folder, root, "10.tar.gz") == (1, [".tmp-1-x", "10.tar.gz", "10.tar.gz.lock", "latest.tar.gz"])


def test_collecting_where_nothing_is_finds_nothing(folder: Folder) -> None:
    assert folder.collect(HOME, "", too_old=NOW, records=2) == 0


def test_E13_a_file_that_is_collected_stays_readable_for_those_who_read_it(folder: Folder, root: Path) -> None:
    path = store(folder, "a")
    with (root / path).open("rb") as reader:
        assert folder.collect(HOME, "", too_old=time.time() + 60, records=2) == 1
        assert reader.read() == b"data"
    assert files(root) == []


def test_dropping_removes_the_folder_of_the_source_only(folder: Folder, root: Path) -> None:
    path = store(folder, "a")
    store(folder, "b")
    folder.link(path, "latest.tar.gz")
    folder.write("gitrepository/ns/app2/a", b"x", digest(b"x"))
    assert folder.drop(HOME) == 2
    assert files(root) == ["gitrepository/ns/app2/a"]
    assert folder.drop(HOME) == 0
    assert folder.verify("gitrepository/ns/app2/a", digest(b"x"))
    assert not folder.verify(path, digest(b"data"))


def test_s4_5_a_link_points_to_the_newest_file(folder: Folder, root: Path) -> None:
    """spec/source.md 4.5"""
    for name in ("a", "b"):
        folder.link(store(folder, name, name.encode()), "latest.tar.gz")
        assert (root / HOME / "latest.tar.gz").read_bytes() == name.encode()
    assert (root / HOME / "latest.tar.gz").readlink() == Path("b")
    assert files(root) == [f"{HOME}/a", f"{HOME}/b", f"{HOME}/latest.tar.gz"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/a", "a\0b", ".hidden", "x" * 256])
def test_C14_names_that_no_path_may_have_are_refused(name: str, folder: Folder) -> None:
    with pytest.raises(StoreError, match="cannot be the name"):
        checked(name)
    for source in (SOURCE._replace(name=name), SOURCE._replace(namespace=name), SOURCE._replace(kind=name)):
        with pytest.raises(StoreError):
            source_folder(source)
    with pytest.raises(StoreError):
        folder.link(f"{HOME}/a", name)


def test_C14_sources_with_long_and_equal_names_have_folders_of_their_own() -> None:
    long = SOURCE._replace(name="n" * 253, namespace="m" * 253)
    assert source_folder(long) == f"gitrepository/{'m' * 253}/{'n' * 253}"
    assert source_folder(SOURCE) != source_folder(SOURCE._replace(kind="Bucket"))


def test_E10_only_what_is_below_the_root_is_served(folder: Folder, root: Path) -> None:
    path = store(folder, "sha256:aa.tar.gz")
    (root.parent / "secret").write_text("x")
    (root / "out").symlink_to(root.parent / "secret")
    (root / "loop").symlink_to("loop")
    (root / HOME / ".tmp-1-x").touch()
    for good in (path, f"/{path}", f"/x/../{path}", f"//{path}"):
        assert folder.resolve(good) == root.resolve() / path
    assert folder.resolve("") == root.resolve()
    assert folder.resolve(HOME) == root.resolve() / HOME
    for bad in (
        "../secret",
        "/../../etc/passwd",
        "out",
        "loop",
        "a\0",
        "x" * (1 << 20),
        f"{HOME}/.tmp-1-x",
        "\ud800",
        "missing",
    ):
        assert folder.resolve(bad) is None, bad


def test_an_artifact_that_is_a_link_out_of_the_root_is_not_read(folder: Folder, root: Path) -> None:
    (root.parent / "secret").write_bytes(b"x")
    (root / "out").symlink_to(root.parent / "secret")
    for path in ("out", "../secret", "a\0b"):
        assert not folder.verify(path, digest(b"x"))
        with pytest.raises(ArtifactMissingError):
            folder.read(path, digest(b"x"))
    assert (root.parent / "secret").exists()
