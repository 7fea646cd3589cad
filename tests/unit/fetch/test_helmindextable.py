"""The table of versions, and which of them a range means."""

from __future__ import annotations

import pytest

from gitopsd.fetch.helmindextable import Place, Record, Table, TableWriter, arranged, best
from gitopsd.versions import Version, VersionError

VERSIONS = ["3.0.0-rc.1", "2.1.0", "2.0.0+b", "v2.0.0", "1.10.0", "1.9.0", "1.2", "1.2.0", "0.2.3"]


def record(text: str, created: str = "2024-01-01T00:00:00Z", offset: int = 0) -> Record:
    return Record(text, Version(text), created, Place(offset, 10))


def found(wanted: str, versions: list[str] = VERSIONS) -> str | None:
    index = best(versions, wanted)
    return None if index is None else versions[index]


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("", "2.1.0"),
        ("*", "2.1.0"),
        (">=0.0.0-0", "3.0.0-rc.1"),
        (">=3.0.0-0", "3.0.0-rc.1"),
        (">=3.0.0", None),
        ("3.0.0-rc.1", "3.0.0-rc.1"),
        ("1.x", "1.10.0"),
        ("~1.9", "1.9.0"),
        ("2.0.0", "2.0.0+b"),
        ("v2.0.0", "v2.0.0"),
        ("1.2", "1.2"),
        ("=1.2.0", "1.2.0"),
        ("^0.2", "0.2.3"),
        ("4.x", None),
    ],
)
def test_s8_3_an_exact_version_first_else_the_newest_in_the_range(wanted: str, version: str | None) -> None:
    assert found(wanted) == version


def test_F06_what_has_not_three_parts_is_in_no_range() -> None:
    assert found("1.x", ["1.9", "1", "1.2.0"]) == "1.2.0"
    assert found("*", ["latest", "v1.2"]) is None


def test_F06_a_prerelease_only_where_the_range_names_one() -> None:
    assert found("*", ["1.2.3-rc.1"]) is None
    assert found(">=1.2.3-0", ["1.2.3-rc.1"]) == "1.2.3-rc.1"


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        (">=1.0.0-0", "1.2.3-rc.1"),
        ("1.x", "1.9.0"),
        ("~1.2", "1.2.9"),
        ("1.2", "1.2.7"),
        ("1", "1.9.9"),
        (">=1.0.0 <2.0.0", "1.5.0"),
        (">=1.0.0, <2.0.0", "1.5.0"),
        ("1.2.3 - 1.4.0", "1.4.0"),
        ("1.0.0 || 2.0.0", "2.0.0"),
        ("=1.2.3", "1.2.3+build"),
    ],
)
def test_s17_9_ranges_that_match(wanted: str, version: str) -> None:
    assert found(wanted, [version]) == version


@pytest.mark.parametrize(
    ("wanted", "version"),
    [("*", "1.2.3-rc.1"), (">=1.0.0", "1.2.3-rc.1"), ("~1.2", "1.3.0"), ("^0.2.3", "0.3.0")],
)
def test_s17_10_ranges_that_do_not_match(wanted: str, version: str) -> None:
    assert found(wanted, [version]) is None


def test_what_is_no_range_is_an_error() -> None:
    with pytest.raises(VersionError):
        best(["1.0.0"], "not a range")


def test_s7_4_versions_are_sorted_the_newest_first() -> None:
    texts = ["1.9.0", "1.10.0", "2.0.0-rc.1", "2.0.0"]
    assert [one.text for one in arranged(map(record, texts))] == ["2.0.0", "2.0.0-rc.1", "1.10.0", "1.9.0"]


def test_s8_3_equal_versions_stand_by_the_time_of_their_creation() -> None:
    records = [
        record("1.0.0+a", "2024-01-01T00:00:00Z"),
        record("1.0.0+b", "2024-01-01T02:00:00.1+01:00"),
        record("1.0.0+c", "2024-01-01T01:00:00Z"),
        record("1.0.0+d", "2024-02-31T01:00:00Z"),
    ]
    assert [one.text for one in arranged(records)] == ["1.0.0+b", "1.0.0+c", "1.0.0+a", "1.0.0+d"]


def test_F05_of_doubled_versions_the_first_as_written_wins() -> None:
    records = [record("1.0.0", offset=1), record("2.0.0", offset=2), record("1.0.0", "2030-01-01T00:00:00Z", offset=3)]
    assert [one.place.offset for one in arranged(records)] == [2, 1]


def test_a_table_survives_its_way_between_processes() -> None:
    writer = TableWriter()
    writer.add("one", [record("2.0.0", offset=5), record("1.0.0", offset=1 << 33)])
    writer.add("none", [])
    writer.add("zwei-ü\n", [record("0.1.0", offset=7)])
    for table in (writer.finish(99), Table.decode(writer.finish(99).encode())):
        assert table.file_size == 99
        assert table.versions("one") == ["2.0.0", "1.0.0"]
        assert table.place("one", 1) == Place(1 << 33, 10)
        assert table.versions("none") == []
        assert table.versions("zwei-ü\n") == ["0.1.0"]
        assert table.place("zwei-ü\n", 0) == Place(7, 10)
        assert "none" in table
        assert "other" not in table
        assert table.versions("other") == []
        assert len(table) == 3


def test_F02_a_version_takes_few_bytes() -> None:
    writer = TableWriter()
    for number in range(1000):
        writer.add(f"chart-{number:05}", [record(f"1.{minor}.0") for minor in range(20)])
    assert writer.finish(0).weight < 20_000 * 40
