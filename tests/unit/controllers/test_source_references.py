"""Which sources a source is made of, and that no object, however wrong, is a surprise to those who look."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gitopsd.controllers.source_references import chart_source_of, has_included, has_seen_source, includes_of
from gitopsd.krm.objects import Obj

_FIELDS = ["name", "kind", "repository", "revision", "sourceRef", "include", "includedArtifacts"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.text("ab/", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=4),
    max_leaves=10,
)


def source(kind: str, spec: Any, status: Any = None) -> Obj:
    return {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": kind,
        "metadata": {"name": "app", "namespace": "ns"},
        "spec": spec,
        "status": status,
    }


def test_s8_1_a_chart_refers_to_a_source_of_its_own_namespace() -> None:
    chart = source("HelmChart", {"sourceRef": {"kind": "Bucket", "name": "b", "namespace": "other"}})
    assert [key.subject for key in chart_source_of(chart)] == ["Bucket/ns/b"]


def test_s2_1_a_chart_that_observed_a_revision_is_not_woken_by_it() -> None:
    chart = source("HelmChart", {}, {"observedSourceArtifactRevision": "sha256:1"})
    assert has_seen_source(chart, "sha256:1")
    assert not has_seen_source(chart, "sha256:2")


def test_s5_5_includes_are_of_the_same_namespace() -> None:
    spec = {"include": [{"repository": {"name": "one"}}, {"repository": {"name": "two"}, "toPath": "x"}]}
    assert [key.subject for key in includes_of(source("GitRepository", spec))] == [
        "GitRepository/ns/one",
        "GitRepository/ns/two",
    ]


def test_s5_5_only_a_single_include_tells_by_its_revision_what_was_included() -> None:
    one = {"include": [{"repository": {"name": "one"}}]}
    two = {"include": [*one["include"], {"repository": {"name": "two"}}]}
    seen = {"includedArtifacts": [{"revision": "main@sha1:1"}]}
    both = {"includedArtifacts": [{"revision": "main@sha1:1"}, {"revision": "main@sha1:1"}]}
    assert has_included(source("GitRepository", one, seen), "main@sha1:1")
    assert not has_included(source("GitRepository", one, seen), "main@sha1:2")
    assert not has_included(source("GitRepository", two, both), "main@sha1:1")


@given(_JSON, _JSON)
def test_O01_no_source_is_a_surprise(spec: Any, status: Any) -> None:
    """An error in an index would end the watch of everybody."""
    obj = source("GitRepository", spec, status)
    list(chart_source_of(obj))
    list(includes_of(obj))
    has_included(obj, "a")
    has_seen_source(obj, "a")
