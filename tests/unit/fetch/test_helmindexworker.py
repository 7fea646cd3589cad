"""Reading in a thread and in a process: the same results, within bounds."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from gitopsd.fetch import helmindexworker
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmindexbuild import IndexFormatError
from gitopsd.fetch.helmindexworker import IndexReader

INDEX = "apiVersion: v1\nentries:\n  demo:\n  - name: demo\n    version: 1.0.0\n  - name: demo\n    version: latest\n"


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(params=["thread", "process"])
def reader(request: pytest.FixtureRequest) -> IndexReader:
    return IndexReader(small=1 << 20 if request.param == "thread" else 0)


async def test_an_index_is_built_and_read_again(reader: IndexReader, tmp_path: Path) -> None:
    source, target = tmp_path / "index.yaml", tmp_path / "index.json"
    source.write_text(INDEX)
    built = await reader.build(source, target, 1 << 20)
    assert built.table.versions("demo") == ["1.0.0"]
    assert (built.dropped, len(built.notes)) == (1, 1)
    assert json.loads(target.read_bytes())["entries"]["demo"][0]["version"] == "1.0.0"
    again = await reader.rebuild(target)
    assert again.table.encode() == built.table.encode()


async def test_what_is_no_index_is_told(reader: IndexReader, tmp_path: Path) -> None:
    source = tmp_path / "index.yaml"
    source.write_text("[]")
    with pytest.raises(IndexFormatError, match="the index is not a mapping") as caught:
        await reader.build(source, tmp_path / "index.json", 1 << 20)
    assert caught.value.rule == "shape"


async def test_a_disk_that_fails_is_no_fault_of_the_index(reader: IndexReader, tmp_path: Path) -> None:
    source = tmp_path / "index.yaml"
    source.write_text(INDEX)
    with pytest.raises(RemoteError, match="No such file or directory") as caught:
        await reader.build(source, tmp_path / "none" / "index.json", 1 << 20)
    assert not isinstance(caught.value, IndexFormatError)
    assert str(tmp_path) not in caught.value.message
    with pytest.raises(RemoteError):
        await reader.rebuild(tmp_path / "gone")


async def test_F02_an_index_takes_no_more_memory_than_it_may(tmp_path: Path) -> None:
    source = tmp_path / "index.yaml"
    values = "".join(f"- &a{number} [x, y]\n" for number in range(250_000))
    source.write_text(f"apiVersion: v1\npublicKeys:\n{values}")
    with pytest.raises(IndexFormatError, match="more memory than it may"):
        await IndexReader(small=0, memory=80 << 20).build(source, tmp_path / "index.json", 1 << 30)


async def test_F02_an_index_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = children()
    monkeypatch.setattr(helmindexworker, "_SECONDS", 0.01)
    source = tmp_path / "index.yaml"
    source.write_text(INDEX)
    with pytest.raises(IndexFormatError, match=r"not read within 0\.01s"):
        await IndexReader(small=0).build(source, tmp_path / "index.json", 1 << 20)
    assert children() == before


async def test_who_is_not_waited_for_is_ended(tmp_path: Path) -> None:
    before = children()
    source = tmp_path / "index.yaml"
    source.write_text(INDEX)
    reading = asyncio.ensure_future(IndexReader(small=0).build(source, tmp_path / "index.json", 1 << 20))
    while children() == before:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() == before


async def test_a_process_that_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(helmindexworker, "_PROGRAM", "import sys; sys.stdin.read()")
    source = tmp_path / "index.yaml"
    source.write_text(INDEX)
    with pytest.raises(RemoteError, match="ended unexpectedly"):
        await IndexReader(small=0).build(source, tmp_path / "index.json", 1 << 20)
