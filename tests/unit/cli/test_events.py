"""Which events are shown, and how (`spec/cli.md` 8)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gitopsd.cli.events import Query, Subject, last_seen, parse_subject, parse_types, related
from gitopsd.cli.flags import CommandError

NOW = datetime(2026, 8, 7, 12, 0, 0, tzinfo=UTC)


def event(**fields):
    return {
        "metadata": {"namespace": "ns"},
        "involvedObject": {"kind": "Kustomization", "name": "apps"},
        "type": "Normal",
        "reason": "Done",
        "message": "all is well",
        "firstTimestamp": "2026-08-07T11:59:00Z",
        "lastTimestamp": "2026-08-07T11:59:30Z",
        **fields,
    }


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "60s"),
        ({"count": 1}, "60s"),
        ({"count": 3}, "30s (x3 over 60s)"),
        ({"eventTime": "2026-08-07T11:00:00.000001Z", "firstTimestamp": None}, "59m"),
        ({"series": {"count": 5, "lastObservedTime": "2026-08-07T11:59:59Z"}}, "1s (x5 over 60s)"),
        ({"firstTimestamp": None}, "<unknown>"),
        ({"firstTimestamp": "yesterday"}, "<unknown>"),
    ],
)
def test_last_seen(fields, text):
    """spec/cli.md 8, LAST SEEN."""
    assert text == last_seen(event(**fields), NOW)


def test_a_row_has_last_seen_type_reason_object_and_message():
    """spec/cli.md 8, columns."""
    printed = Query([], frozenset(), with_namespace=False).table([event()], NOW, with_heading=True)
    assert printed == (
        "LAST SEEN\tTYPE  \tREASON\tOBJECT            \tMESSAGE     \n"
        "60s      \tNormal\tDone  \tKustomization/apps\tall is well\t\n"
    )


def test_a_namespace_comes_first():
    """spec/cli.md 8: -A, or objects elsewhere."""
    printed = Query([], frozenset(), with_namespace=True).table([event()], NOW, with_heading=False)
    assert printed.startswith("ns\t60s\t")


@pytest.mark.parametrize("kind", ["Pod", "ExternalArtifact", ""])
def test_events_of_foreign_kinds_are_left_out(kind):
    """spec/cli.md 8, kept."""
    query = Query([], frozenset(), with_namespace=False)
    assert not query.wants(event(involvedObject={"kind": kind}))
    assert query.wants(event())


def test_types_are_told_in_any_case():
    """spec/cli.md 8, --types."""
    assert parse_types(["warning", "NORMAL"]) == {"Warning", "Normal"}
    assert not Query([], parse_types(["warning"]), with_namespace=False).wants(event())
    with pytest.raises(CommandError, match=r"^type 'Odd' not supported. Supported types are Normal, Warning$"):
        parse_types(["Odd"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "")),
        ("Kustomization", ("Kustomization", "")),
        ("helmrelease/x", ("HelmRelease", "x")),
    ],
)
def test_a_selector_names_a_kind_and_perhaps_an_object(text, expected):
    """spec/cli.md 8, --for."""
    assert expected == parse_subject(text)


@pytest.mark.parametrize("text", ["/x", "Kustomization/", "a/b/c"])
def test_a_malformed_selector_is_refused(text):
    """spec/cli.md 8, bad selector."""
    with pytest.raises(CommandError, match=r"^--for selector must be of format <kind>\[/<name>\]$"):
        parse_subject(text)


def test_a_foreign_kind_is_refused():
    """spec/cli.md 8, bad selector."""
    with pytest.raises(CommandError, match=r"^'Pod' is not a recognized Flux kind$"):
        parse_subject("Pod/x")


def obj(**spec):
    return {"metadata": {"name": "x", "namespace": "ns"}, "spec": spec}


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("Kustomization", {"sourceRef": {"kind": "GitRepository", "name": "g"}}, [("GitRepository", "ns", "g")]),
        (
            "Kustomization",
            {"sourceRef": {"kind": "Bucket", "name": "b", "namespace": "other"}},
            [("Bucket", "other", "b")],
        ),
        (
            "HelmRelease",
            {"chart": {"spec": {"sourceRef": {"kind": "HelmRepository", "name": "h"}}}},
            [("HelmRepository", "ns", "h"), ("HelmChart", "ns", "ns-x")],
        ),
        ("HelmChart", {"sourceRef": {"kind": "HelmRepository", "name": "h"}}, [("HelmRepository", "ns", "h")]),
        ("Alert", {"providerRef": {"name": "p"}}, [("Provider", "ns", "p")]),
        ("ImagePolicy", {"imageRepositoryRef": {"name": "i"}}, [("ImageRepository", "ns", "i")]),
        ("GitRepository", {}, []),
    ],
)
def test_what_an_object_is_made_from_is_shown_with_it(kind, spec, expected):
    """spec/cli.md 8, with --for Kind/name."""
    assert expected == related(kind, obj(**spec))


def test_a_release_of_a_chart_reference_has_no_source_to_show():
    """spec/cli.md 8, chartRef releases."""
    with pytest.raises(CommandError, match=r"^field 'spec.chart.spec.sourceRef.kind' for 'ns/x' not found$"):
        related("HelmRelease", obj(chartRef={"kind": "OCIRepository", "name": "o"}))


def test_a_subject_is_a_path_and_field_selectors():
    """spec/cli.md 8, API."""
    assert Subject("HelmRelease", "ns", "x").path() == "/api/v1/namespaces/ns/events"
    assert Subject("HelmRelease", "ns", "x").params() == {
        "fieldSelector": "involvedObject.kind=HelmRelease,involvedObject.name=x"
    }
    assert (Subject().path(), Subject().params()) == ("/api/v1/events", {})
