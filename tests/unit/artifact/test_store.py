from __future__ import annotations

import asyncio
import gc
import gzip
import threading
from pathlib import Path
from typing import Any

import pytest

from gitopsd.artifact.archive import ArchiveError
from gitopsd.artifact.store import ArtifactMissingError, ArtifactStore, StoreError
from gitopsd.artifact.tree import FileTree
from gitopsd.krm.objects import ObjectKey
from gitopsd.tasks import offload

SOURCE = ObjectKey("source.toolkit.fluxcd.io", "GitRepository", "ns", "n")
OTHER = SOURCE._replace(name="other")


def tree(text: str = "x") -> FileTree:
    return FileTree.build({"a.yaml": text.encode()})


def make(root: Path, **options: Any) -> ArtifactStore:
    return ArtifactStore(
        root, **{"advertised": "http://localhost:9090", "budget": 1 << 20, "clock": lambda: 1_000_000.25, **options}
    )


@pytest.fixture
async def store(tmp_path: Path) -> ArtifactStore:
    store = make(tmp_path)
    await store.open()
    return store


async def put(store: ArtifactStore, text: str = "x", name: str = "1.tar.gz", source: ObjectKey = SOURCE) -> Any:
    return await store.put(source, f"main@sha1:{text}", name, await offload(tree, text))


class Disk:
    """Counts, and if asked holds up, what is read from disk."""

    def __init__(self, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        self.gate = threading.Event()
        self.gate.set()
        real = store._folder.read

        def read(path: str, digest: str) -> bytes:
            self.reads += 1
            self.gate.wait(10)
            return real(path, digest)

        monkeypatch.setattr(store._folder, "read", read)


async def test_s17_15_an_artifact_tells_where_and_what_it_is(store: ArtifactStore, tmp_path: Path) -> None:
    """spec/source.md 4.1; 17, vector 15"""
    artifact = await put(store)
    stored = tmp_path / artifact.path
    assert artifact.path == "gitrepository/ns/n/1.tar.gz"
    assert artifact.url == "http://localhost:9090/gitrepository/ns/n/1.tar.gz"
    assert artifact.revision == "main@sha1:x"
    assert artifact.last_update_time == "1970-01-12T13:46:40Z"
    assert artifact.size == stored.stat().st_size
    assert artifact.digest.startswith("sha256:")
    assert gzip.decompress(stored.read_bytes()) == (await offload(tree)).tar()
    assert store.latest(SOURCE) == artifact


@pytest.mark.parametrize(
    ("advertised", "url"),
    [
        ("localhost:9090", "http://localhost:9090/a"),
        (
            "source-controller.flux-system.svc.cluster.local.",
            "http://source-controller.flux-system.svc.cluster.local./a",
        ),
        ("http://x/", "http://x/a"),
        ("https://x/y", "https://x/y/a"),
    ],
)
def test_s4_5_the_advertised_address_is_a_host_or_a_prefix(tmp_path: Path, advertised: str, url: str) -> None:
    """spec/source.md 4.5"""
    assert make(tmp_path, advertised=advertised).url("a") == url


async def test_the_digest_algorithm_is_that_of_the_flag(tmp_path: Path) -> None:
    store = make(tmp_path, digest_algorithm="sha512")
    await store.open()
    assert (await put(store)).digest.startswith("sha512:")
    with pytest.raises(StoreError, match="unknown digest algorithm"):
        await make(tmp_path, digest_algorithm="md5").open()


async def test_bytes_are_stored_as_they_are(store: ArtifactStore) -> None:
    artifact = await store.put_bytes(SOURCE, "1.2.3", "chart-1.2.3.tgz", b"not even gzip", metadata={"a": "b"})
    assert await store.content(artifact) == b"not even gzip"
    assert (artifact.size, artifact.metadata) == (13, {"a": "b"})
    with pytest.raises(ArchiveError):
        await store.files(artifact)


async def test_a_link_stands_for_the_newest_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = await put(store)
    assert await store.link(SOURCE, artifact) == "http://localhost:9090/gitrepository/ns/n/latest.tar.gz"
    assert await offload(store.resolve, "gitrepository/ns/n/latest.tar.gz") == tmp_path / artifact.path


async def test_files_come_from_memory(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(store, monkeypatch)
    mine = await offload(tree, "y")
    artifact = await store.put(SOURCE, "r", "1", mine)
    assert await store.files(artifact) is mine
    assert disk.reads == 0


async def test_beyond_the_budget_files_come_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (await offload(tree)).size
    store = make(tmp_path, budget=2 * size)
    disk = Disk(store, monkeypatch)
    artifacts = [await put(store, str(one), source=SOURCE._replace(name=f"n{one}")) for one in range(3)]
    gc.collect()
    assert (await store.files(artifacts[1]))["a.yaml"] == b"1"
    assert (await store.files(artifacts[2]))["a.yaml"] == b"2"
    assert disk.reads == 0
    assert (await store.files(artifacts[0]))["a.yaml"] == b"0"
    assert disk.reads == 1
    gc.collect()
    await store.files(artifacts[1])  # that which was used longest ago had to go
    assert disk.reads == 2
    await store.files(artifacts[0])
    assert disk.reads == 2


async def test_a_tree_in_use_is_not_read_a_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path, budget=0)
    disk = Disk(store, monkeypatch)
    artifact = await put(store)
    gc.collect()
    held = await store.files(artifact)
    assert await store.files(artifact) is held
    assert disk.reads == 1
    del held
    await asyncio.sleep(0)  # the loop itself still holds the answer it woke us with
    gc.collect()
    await store.files(artifact)
    assert disk.reads == 2


async def test_several_who_ask_at_once_have_it_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(make(tmp_path))
    store = make(tmp_path)
    artifact = await put(make(tmp_path))
    disk = Disk(store, monkeypatch)
    found = await asyncio.gather(*(store.files(artifact) for _ in range(10)))
    assert disk.reads == 1
    assert all(one is found[0] for one in found)


async def test_one_who_gives_up_does_not_take_the_others_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = await put(make(tmp_path))
    store = make(tmp_path)
    disk = Disk(store, monkeypatch)
    disk.gate.clear()
    first = asyncio.ensure_future(store.files(artifact))
    second = asyncio.ensure_future(store.files(artifact))
    while not disk.reads:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    disk.gate.set()
    assert (await second)["a.yaml"] == b"x"


async def test_what_fails_for_one_fails_for_all_and_is_tried_again(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = await put(store)
    fresh = make(tmp_path)
    stored = tmp_path / artifact.path
    data = stored.read_bytes()
    stored.unlink()
    for outcome in await asyncio.gather(*(fresh.files(artifact) for _ in range(3)), return_exceptions=True):
        assert isinstance(outcome, ArtifactMissingError)
        assert str(outcome) == "artifact 'gitrepository/ns/n/1.tar.gz' is not in the storage"
    stored.write_bytes(data)
    assert await fresh.files(artifact) == await offload(tree)


async def test_C13_a_file_of_other_bytes_is_missing_for_consumers(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = await put(store)
    newer = await put(make(tmp_path), "newer")  # the same path with other content
    fresh = make(tmp_path)
    with pytest.raises(ArtifactMissingError):
        await fresh.files(artifact)
    assert (await fresh.files(newer))["a.yaml"] == b"newer"
    assert await store.files(artifact) == await offload(tree)  # who has it in memory may go on with it


async def test_after_a_restart_the_same_artifact_is_served(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = await put(store)
    again = make(tmp_path)
    await again.open()
    assert await again.restore(SOURCE, artifact)
    assert again.latest(SOURCE) == again.announced(SOURCE) == artifact
    assert again.announcements.empty()
    assert await again.files(artifact) == await offload(tree)
    (tmp_path / artifact.path).write_bytes(b"other")
    assert not await make(tmp_path).restore(SOURCE, artifact)


async def test_an_artifact_of_another_source_does_not_verify(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = await put(store)
    assert not await store.verify(OTHER, artifact)
    assert store.latest(OTHER) is None
    assert (tmp_path / artifact.path).exists()
    assert await store.verify(SOURCE, artifact)


async def test_an_artifact_is_announced_once_its_status_is_written(store: ArtifactStore) -> None:
    store.announce(SOURCE)
    assert store.announcements.empty()
    artifact = await put(store)
    assert store.announced(SOURCE) is None
    store.announce(SOURCE)
    assert store.announced(SOURCE) == artifact
    assert await store.announcements.get() == SOURCE
    store.announce(SOURCE)  # nothing new
    assert store.announcements.empty()


async def test_a_source_waits_to_be_announced_once_only(store: ArtifactStore) -> None:
    for number in range(3):
        await put(store, str(number), str(number))
        store.announce(SOURCE)
    await put(store, source=OTHER)
    store.announce(OTHER)
    assert store.announcements.qsize() == 2
    assert [store.announcements.get_nowait(), store.announcements.get_nowait()] == [SOURCE, OTHER]
    assert store.announcements.empty()


async def test_s4_6_collecting_leaves_the_current_file(store: ArtifactStore, tmp_path: Path) -> None:
    """spec/source.md 4.6"""
    current = None
    for number in range(4):
        current = await put(store, str(number), str(number))
    store._clock = lambda: 4e9  # long after all of them were written
    assert await store.collect(SOURCE, current) == 3
    assert [path.name for path in (tmp_path / "gitrepository/ns/n").iterdir()] == ["3"]
    assert await store.collect(OTHER, None) == 0


async def test_collecting_never_fails_a_run(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "gitrepository").touch()
    assert await store.collect(SOURCE, None) == 0


async def test_a_source_that_is_gone_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = await put(store)
    store.announce(SOURCE)
    assert await store.drop(SOURCE) == 1
    gc.collect()
    assert (store.latest(SOURCE), store.announced(SOURCE)) == (None, None)
    assert not (tmp_path / "gitrepository/ns/n").exists()
    with pytest.raises(ArtifactMissingError):
        await store.files(artifact)
    assert await store.drop(SOURCE) == 0


async def test_puts_and_reads_may_overlap(store: ArtifactStore) -> None:
    artifacts = [await put(store, str(number), str(number)) for number in range(5)]
    sources = [SOURCE._replace(name=f"n{number}") for number in range(5)]
    work = [put(store, f"new{number}", "x", source) for number, source in enumerate(sources)]
    found = await asyncio.gather(*work, *(store.files(artifact) for artifact in artifacts))
    assert [one["a.yaml"] for one in found[5:]] == [b"0", b"1", b"2", b"3", b"4"]
    assert [(await store.files(one))["a.yaml"] for one in found[:5]] == [b"new0", b"new1", b"new2", b"new3", b"new4"]


async def test_T52_what_was_superseded_keeps_no_file_open(store: ArtifactStore) -> None:
    """A source that changes every second must not use up the descriptors in a night."""
    for number in range(50):
        await put(store, f"r{number}", f"{number}.tar.gz")
    assert len(store._kept) == 1
    artifact = store.latest(SOURCE)
    assert artifact is not None
    assert (await store.files(artifact))["a.yaml"] == b"r49"


async def test_T52_trees_in_memory_use_a_part_of_the_descriptors_only(store: ArtifactStore) -> None:
    store._most = 3
    found = [await put(store, f"r{number}", source=SOURCE._replace(name=f"n{number}")) for number in range(9)]
    assert len(store._kept) == 3
    for number, artifact in enumerate(found):
        assert (await store.files(artifact))["a.yaml"] == f"r{number}".encode()
