"""Promises of the parts that all our kinds share."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.api import meta
from gitopsd.api.meta import Artifact, DurationError, ObjectMeta, format_duration, parse_duration
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import ObjectKey


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("1m30s", 90.0),
        ("5m", 300.0),
        ("72h0m0s", 259200.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("5µs", 5e-6),
        ("5μs", 5e-6),
        ("5us", 5e-6),
        ("12ns", 1.2e-8),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("-1m", -60.0),
        ("+1m", 60.0),
        ("1m1m", 120.0),
        ("2562047h47m16.854775807s", 9223372036.854775807),
    ],
)
def test_a_go_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "m",
        "1d",
        "1 m",
        " 1m",
        "1m\n",
        ".s",
        "--1s",
        "+-1s",
        "1e3s",
        "1.2.3s",
        "1M",
        "٣s",
        "2562047h47m16.854775808s",
        "99999999999999999999h",
        "1s" * 10_000,
    ],
)
def test_what_go_refuses_as_a_duration_is_refused(text: str) -> None:
    with pytest.raises(DurationError, match="invalid duration") as caught:
        parse_duration(text)
    assert isinstance(caught.value, GitopsdError)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0000000001, "0s"),
        (1.2e-8, "12ns"),
        (5e-6, "5µs"),
        (5.25e-6, "5.25µs"),
        (0.176163666, "176.163666ms"),
        (0.25, "250ms"),
        (0.9999999999, "1s"),
        (1, "1s"),
        (5.027, "5.027s"),
        (6.311204, "6.311204s"),
        (59.999999999, "59.999999999s"),
        (60, "1m0s"),
        (60.5, "1m0.5s"),
        (270, "4m30s"),
        (600, "10m0s"),
        (3600, "1h0m0s"),
        (259200, "72h0m0s"),
        (-90, "-1m30s"),
        (-0.5, "-500ms"),
    ],
)
def test_seconds_are_written_as_go_writes_a_duration(seconds: float, text: str) -> None:
    """spec/kustomize.md, `<dur>`."""
    assert format_duration(seconds) == text


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_a_written_duration_is_read_as_the_same_duration(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9, rel=1e-15)


@given(st.text(max_size=40))
def test_any_text_is_a_duration_or_a_duration_error(text: str) -> None:
    with suppress(DurationError):
        assert isinstance(parse_duration(text), float)


def test_a_time_is_written_in_whole_seconds_of_utc() -> None:
    berlin = datetime(2026, 8, 1, 12, 0, 7, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert meta.rfc3339(berlin) == "2026-08-01T10:00:07Z"


def test_a_time_without_zone_is_not_written() -> None:
    with pytest.raises(ValueError, match="without zone"):
        meta.rfc3339(datetime(2026, 8, 1))


def test_times_of_go_are_read_with_and_without_fraction() -> None:
    assert meta.parse_time("2026-08-01T10:00:07Z") == datetime(2026, 8, 1, 10, 0, 7, tzinfo=UTC)
    assert meta.parse_time("2026-08-01T10:00:07.123456789+02:00") == datetime(2026, 8, 1, 8, 0, 7, 123456, tzinfo=UTC)
    with pytest.raises(ValueError, match="no zone"):
        meta.parse_time("2026-08-01T10:00:07")


def test_metadata_is_read_with_fields_nobody_knows_and_left_out_when_unset() -> None:
    plain = {
        "name": "app",
        "namespace": "flux-system",
        "resourceVersion": "7",
        "generation": 2,
        "creationTimestamp": None,
        "managedFields": [{"manager": "x"}],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}],
    }
    read = msgspec.convert(plain, ObjectMeta)
    assert read.owner_references[0].controller is True
    assert not read.is_being_deleted
    assert not read.has_finalizer
    assert ObjectMeta(name="app", generation=2).to_builtins() == {"name": "app", "generation": 2}


def test_s2_1_an_empty_token_is_a_request_too() -> None:
    """spec/source.md 2.1: an empty string is a legal value."""
    assert ObjectMeta(annotations={meta.REQUESTED_AT: ""}).requested_at == ""
    assert ObjectMeta().requested_at is None


def test_an_object_that_waits_for_us_says_so() -> None:
    leaving = ObjectMeta(finalizers=("other", meta.FINALIZER), deletion_timestamp="2026-08-01T10:00:07Z")
    assert leaving.has_finalizer
    assert leaving.is_being_deleted


def test_an_artifact_of_no_bytes_keeps_its_size() -> None:
    artifact = Artifact(
        digest="sha256:00", path="p", url="http://x/p", revision="r", last_update_time="2026-08-01T10:00:07Z", size=0
    )
    assert artifact.to_builtins() == {
        "digest": "sha256:00",
        "path": "p",
        "url": "http://x/p",
        "revision": "r",
        "lastUpdateTime": "2026-08-01T10:00:07Z",
        "size": 0,
    }


def test_values_are_frozen() -> None:
    with pytest.raises(AttributeError):
        ObjectMeta().name = "other"  # type: ignore[misc]


def test_owner_labels_name_the_owner_twice() -> None:
    """spec/kustomize.md 3.8."""
    owner = ObjectKey(meta.KUSTOMIZE_GROUP, "Kustomization", "shop", "cart")
    assert meta.owner_labels(meta.KUSTOMIZE_GROUP, owner) == {
        "kustomize.toolkit.fluxcd.io/name": "cart",
        "kustomize.toolkit.fluxcd.io/namespace": "shop",
    }
