"""Look-ups, and what stays in memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gitopsd import metrics
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmindex import ChartNotFoundError, Indexes
from gitopsd.fetch.helmindexbuild import Built
from gitopsd.fetch.helmindexworker import IndexReader


class CountingReader(IndexReader):
    """Counts, and waits when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.rebuilt: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def rebuild(self, path: Path) -> Built:
        self.rebuilt.append(path.name)
        await self.gate.wait()
        return await super().rebuild(path)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stored(folder: Path, name: str, *versions: str) -> Path:
    entries = [{"name": "demo", "version": text, "urls": [f"{text}.tgz"], "digest": f"d{text}"} for text in versions]
    path = folder / name
    path.write_text(json.dumps({"apiVersion": "v1", "entries": {"demo": entries, "empty": []}}, indent=2))
    return path


@pytest.fixture
def reader() -> CountingReader:
    return CountingReader()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_version_is_found_with_everything_that_the_index_says(reader: CountingReader, tmp_path: Path) -> None:
    index = await Indexes(reader=reader).open(stored(tmp_path, "a", "1.1.0", "1.0.0"), "a")
    found = await index.find("demo", "1.0.x")
    assert (found.name, found.version, found.urls, found.digest) == ("demo", "1.0.0", ("1.0.0.tgz",), "d1.0.0")
    assert found.raw["digest"] == "d1.0.0"
    assert (await index.find("demo", "")).version == "1.1.0"
    assert await index.versions("demo") == ["1.1.0", "1.0.0"]


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("other", "", "no chart 'other' found in the index"),
        ("empty", "1.x", "no 'empty' chart with version matching '1.x' found"),
        ("demo", ">=2", "no 'demo' chart with version matching '>=2' found"),
    ],
)
async def test_s8_3_what_is_not_there_is_told(
    reader: CountingReader, tmp_path: Path, name: str, wanted: str, message: str
) -> None:
    index = await Indexes(reader=reader).open(stored(tmp_path, "a", "1.0.0"), "a")
    with pytest.raises(ChartNotFoundError) as caught:
        await index.find(name, wanted)
    assert caught.value.message == message


async def test_what_is_no_range_is_told(reader: CountingReader, tmp_path: Path) -> None:
    index = await Indexes(reader=reader).open(stored(tmp_path, "a", "1.0.0"), "a")
    with pytest.raises(RemoteError) as caught:
        await index.find("demo", "one\x1b")
    assert not isinstance(caught.value, ChartNotFoundError)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("change", ["gone", "shorter", "other bytes"])
async def test_an_answer_comes_from_the_file_of_the_table_or_there_is_none(
    reader: CountingReader, tmp_path: Path, change: str
) -> None:
    path = stored(tmp_path, "a", "1.0.0")
    index = await Indexes(reader=reader).open(path, "a")
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"x" * (path.stat().st_size - (change == "shorter")))
    with pytest.raises(RemoteError, match="not in the storage any more"):
        await index.find("demo", "")


async def test_all_charts_of_a_repository_share_one_reading(reader: CountingReader, tmp_path: Path) -> None:
    indexes = Indexes(reader=reader)
    path = stored(tmp_path, "a", "1.0.0")
    reader.gate.clear()
    asked = [asyncio.ensure_future(indexes.open(path, "a")) for _ in range(50)]
    await asyncio.sleep(0)
    asked[0].cancel()
    reader.gate.set()
    found = await asyncio.gather(*asked[1:])
    assert {(await index.find("demo", "")).version for index in found} == {"1.0.0"}
    assert reader.rebuilt == ["a", "a"]  # the one that was cancelled, and its successor
    await indexes.open(path, "a")
    assert len(reader.rebuilt) == 2


async def test_s12_3_look_ups_are_counted_by_repository(reader: CountingReader, tmp_path: Path) -> None:
    indexes = Indexes(reader=reader)
    path = stored(tmp_path, "a", "1.0.0")
    for _ in range(3):
        await indexes.open(path, "a", namespace="tests", name="counted")

    def count(event: str) -> float:
        return metrics.index_cache_events.labels(event, "counted", "tests")._value.get()

    assert (count("cache_miss"), count("cache_hit")) == (1, 2)
    metrics.forget_object("HelmRepository", "tests", "counted")
    assert ("cache_hit", "counted", "tests") not in metrics.index_cache_events._metrics


async def test_a_table_that_was_just_made_needs_no_reading(reader: CountingReader, tmp_path: Path) -> None:
    indexes = Indexes(reader=reader)
    path = stored(tmp_path, "a", "1.0.0")
    indexes.adopt("a", (await IndexReader().rebuild(path)).table)
    assert (await (await indexes.open(path, "a")).find("demo", "")).version == "1.0.0"
    assert reader.rebuilt == []
    indexes.drop("a")
    assert indexes.weight == 0


async def test_the_number_of_indexes_is_bounded(reader: CountingReader, tmp_path: Path) -> None:
    indexes = Indexes(most=2, reader=reader)
    paths = {name: stored(tmp_path, name, "1.0.0") for name in "abc"}
    for name in "abacab":
        await indexes.open(paths[name], name)
    assert reader.rebuilt == ["a", "b", "c", "b"]  # what was not used for longest makes room


async def test_their_memory_is_bounded(reader: CountingReader, tmp_path: Path) -> None:
    indexes = Indexes(budget=1, reader=reader)
    paths = {name: stored(tmp_path, name, "1.0.0") for name in "ab"}
    for name in "aab":
        await indexes.open(paths[name], name)
        only = indexes.weight
    assert reader.rebuilt == ["a", "b"]  # one always stays, whatever it takes
    assert 0 < only < 2000


async def test_an_idle_index_is_forgotten(reader: CountingReader, tmp_path: Path, clock: Clock) -> None:
    indexes = Indexes(ttl=60, reader=reader, clock=clock)
    path = stored(tmp_path, "a", "1.0.0")
    for now in (0, 50, 100, 161):
        clock.now = now
        await indexes.open(path, "a")
    assert reader.rebuilt == ["a", "a"]


async def test_F02_twenty_thousand_versions_of_one_chart_are_searched_by_their_table(tmp_path: Path) -> None:
    entries = [{"name": "demo", "version": f"1.{minor}.0"} for minor in reversed(range(20_000))]
    path = tmp_path / "a"
    path.write_text(json.dumps({"apiVersion": "v1", "entries": {"demo": entries}}, indent=2))
    indexes = Indexes()
    index = await indexes.open(path, "a")
    assert (await index.find("demo", "*")).version == "1.19999.0"
    assert (await index.find("demo", "1.0.0")).version == "1.0.0"
    assert (await index.find("demo", "1.5.x")).version == "1.5.0"
    assert indexes.weight < 1 << 20
