from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gitopsd.fetch import gitspool
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitspool import PackBuffer, PackLimits, Stop
from gitopsd.tasks import offload
from tests.packs import BLOB, Item, object_hash, pack


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def fed(data: bytes, limits: PackLimits, spool: Path | None = None, piece: int = 1000) -> PackBuffer:
    buffer = PackBuffer(limits, spool)
    for start in range(0, len(data), piece):
        await buffer.feed(data[start : start + piece])
    return buffer


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_a_small_pack_stays_in_memory(tmp_path, piece):
    data = pack([Item(BLOB, os.urandom(3000))])
    buffer = await fed(data, PackLimits(), tmp_path, piece)
    assert buffer.content() == data
    assert not list(tmp_path.iterdir())


async def test_A05_a_large_pack_waits_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(gitspool, "_SPILL_AT", 10_000)
    before, blob = descriptors(), os.urandom(50_000)
    buffer = await fed(pack([Item(BLOB, blob)]), PackLimits(), tmp_path)
    content = await offload(buffer.content)
    found = Pack(content, PackLimits(), Stop(time.monotonic() + 10))
    assert found.get(bytes.fromhex(object_hash(BLOB, blob))) == (BLOB, blob)
    assert not list(tmp_path.iterdir())
    buffer.close()
    assert descriptors() == before


@pytest.mark.parametrize("size", [101, 5000])
async def test_the_size_of_a_pack_is_bounded(size):
    data = pack([])
    assert (await fed(data + bytes(100 - len(data)), PackLimits(bytes=100))).size == 100
    with pytest.raises(RemoteError, match="larger than 100 bytes"):
        await fed(data + bytes(size - len(data)), PackLimits(bytes=100))


@pytest.mark.parametrize("piece", [5, 500])
async def test_B01_the_header_is_checked_before_the_rest_is_received(piece):
    header = pack([], count=4_294_967_295)[:12]
    with pytest.raises(RemoteError, match="claims 4294967295 objects"):
        await fed(header, PackLimits(), piece=piece)
    with pytest.raises(RemoteError, match="does not begin like one"):
        await fed(b"<!DOCTYPE html>", PackLimits(), piece=piece)


async def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gitspool, "_SPILL_AT", 1000)
    before = descriptors()
    buffer = PackBuffer(PackLimits(), tmp_path / "missing")
    with pytest.raises(OSError):
        await buffer.feed(pack([Item(BLOB, os.urandom(3000))]))
    buffer.close()
    assert descriptors() == before
