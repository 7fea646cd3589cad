"""How each kind's rows read (`spec/cli.md` 2.4, 2.6, 4, 5.5)."""

from __future__ import annotations

import pytest

from gitopsd.cli import kinds
from gitopsd.cli.kinds import BY_NAME, KINDS

SHA = "0123456789abcdef0123456789abcdef01234567"


def obj(kind, *, spec=None, status=None, name="x", namespace="ns"):
    return {
        "apiVersion": BY_NAME[kind].gvk.api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec or {},
        "status": status or {},
    }


def ready(status="True", message="fine"):
    return {"conditions": [{"type": "Ready", "status": status, "message": message}]}


def row(kind, found, **how):
    options = {"all_namespaces": False, "show_source": False, **how}
    return BY_NAME[kind].row(found, **options)


def headings(kind, **how):
    return BY_NAME[kind].headings(**{"all_namespaces": False, "show_source": False, **how})


@pytest.mark.parametrize("kind", ["GitRepository", "OCIRepository", "Bucket", "HelmRepository"])
def test_sources_show_a_short_revision(kind):
    """spec/cli.md 4: NAME REVISION SUSPENDED READY MESSAGE, hashes cut in revision and message."""
    found = obj(kind, status={"artifact": {"revision": f"main@sha1:{SHA}"}, **ready(message=f"stored {SHA}")})
    assert headings(kind) == ["Name", "Revision", "Suspended", "Ready", "Message"]
    assert row(kind, found) == ["x", "main@sha1:01234567", "False", "True", "stored 01234567"]


def test_helm_charts_keep_the_whole_revision():
    """spec/cli.md 2.6: only the message is cut."""
    found = obj("HelmChart", status={"artifact": {"revision": SHA}, **ready(message=SHA)})
    assert row("HelmChart", found) == ["x", SHA, "False", "True", "01234567"]


def test_helm_releases_keep_everything():
    """spec/cli.md 2.6: neither column is cut."""
    found = obj("HelmRelease", status={"history": [{"chartVersion": SHA}], **ready(message=SHA)})
    assert row("HelmRelease", found) == ["x", SHA, "False", "True", SHA]


def test_a_release_without_history_shows_its_last_attempt():
    """spec/cli.md 4, `get helmreleases`."""
    found = obj("HelmRelease", status={"lastAttemptedRevision": "1.2.3"})
    assert row("HelmRelease", found) == ["x", "1.2.3", "False", "False", "waiting to be reconciled"]


def test_an_object_without_a_ready_condition_is_waiting():
    """spec/cli.md 2.6, READY and MESSAGE."""
    assert row("Kustomization", obj("Kustomization")) == ["x", "", "False", "False", "waiting to be reconciled"]


def test_suspension_is_shown():
    """spec/cli.md 2.6, SUSPENDED."""
    assert row("Kustomization", obj("Kustomization", spec={"suspend": True}))[2] == "True"


def test_oci_helm_repositories_are_always_ready():
    """spec/cli.md 4: whatever the status says."""
    found = obj(
        "HelmRepository",
        spec={"type": "oci"},
        status={"artifact": {"revision": "r"}, **ready("False", "stale")},
    )
    assert row("HelmRepository", found) == ["x", "", "False", "True", "Helm repository is Ready"]


@pytest.mark.parametrize(
    ("kind", "cells"),
    [("Alert", ["x", "False", "True", "Alert is Ready"]), ("Provider", ["x", "True", "Provider is Ready"])],
)
def test_static_kinds_are_always_ready(kind, cells):
    """spec/cli.md 4, alerts and alert-providers."""
    assert cells == row(kind, obj(kind, status=ready("False", "old")))


def test_a_namespace_comes_first_and_a_kind_into_the_name():
    """spec/cli.md 4: -A, and the listings over several kinds."""
    found = obj("GitRepository")
    assert headings("GitRepository", all_namespaces=True)[0] == "Namespace"
    assert row("GitRepository", found, all_namespaces=True, with_kind=True)[:2] == ["ns", "gitrepository/x"]


@pytest.mark.parametrize(
    ("kind", "spec", "source"),
    [
        ("Kustomization", {"sourceRef": {"kind": "GitRepository", "name": "g"}}, "GitRepository/ns/g"),
        (
            "Kustomization",
            {"sourceRef": {"kind": "Bucket", "name": "b", "namespace": "other"}},
            "Bucket/other/b",
        ),
        ("HelmRelease", {"chartRef": {"kind": "OCIRepository", "name": "o"}}, "OCIRepository/ns/o"),
        (
            "HelmRelease",
            {"chart": {"spec": {"sourceRef": {"kind": "HelmRepository", "name": "h"}}}},
            "HelmRepository/ns/h",
        ),
    ],
)
def test_show_source_adds_the_source_after_the_name(kind, spec, source):
    """spec/cli.md 4, --show-source."""
    assert headings(kind, show_source=True)[1] == "Source"
    assert source == row(kind, obj(kind, spec=spec), show_source=True)[1]


def test_external_artifacts_show_where_they_come_from():
    """spec/cli.md 4, `get sources external`."""
    found = obj("ExternalArtifact", spec={"sourceRef": {"kind": "ArtifactGenerator", "name": "a"}}, status=ready())
    assert headings("ExternalArtifact") == ["Name", "Revision", "Source", "Ready", "Message"]
    assert row("ExternalArtifact", found) == ["x", "", "ArtifactGenerator/ns/a", "True", "fine"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ImageRepository", ["Name", "Last scan", "Suspended", "Ready", "Message"]),
        ("ImagePolicy", ["Name", "Image", "Tag", "Ready", "Message"]),
        ("ImageUpdateAutomation", ["Name", "Last run", "Suspended", "Ready", "Message"]),
        ("Receiver", ["Name", "Suspended", "Ready", "Message"]),
        ("ArtifactGenerator", ["Name", "Suspended", "Ready", "Message"]),
    ],
)
def test_columns_of_the_other_kinds(kind, expected):
    """spec/cli.md 4."""
    assert expected == headings(kind)


@pytest.mark.parametrize(
    ("kind", "status", "line"),
    [
        ("GitRepository", {"artifact": {"revision": f"main@sha1:{SHA}"}}, f"fetched revision main@sha1:{SHA}"),
        ("HelmChart", {"artifact": {"revision": "1.0.0"}}, "fetched revision 1.0.0"),
        ("Kustomization", {"lastAppliedRevision": f"main@sha1:{SHA}"}, f"applied revision main@sha1:{SHA}"),
        ("HelmRelease", {"history": [{"chartVersion": "1.0"}]}, "applied revision 1.0"),
        ("Receiver", {}, "Receiver reconciliation completed"),
        ("Alert", {}, "Alert reconciliation completed"),
        ("ImageRepository", {"lastScanResult": {"tagCount": 3}}, "scan fetched 3 tags"),
        ("ImagePolicy", {"latestRef": {"name": "a/b", "tag": "1"}}, "selected ref a/b:1"),
        ("ImageUpdateAutomation", ready(message="pushed"), "pushed"),
    ],
)
def test_success_lines_keep_full_hashes(kind, status, line):
    """spec/cli.md 5.5."""
    assert line == BY_NAME[kind].success(obj(kind, status=status))


def test_status_selectors_compare_without_regard_to_case():
    """spec/cli.md 4, --status-selector."""
    found = obj("Kustomization", status=ready("False"))
    kind = BY_NAME["Kustomization"]
    assert kind.matches(found, "READY", "false")
    assert not kind.matches(found, "ready", "true")
    assert not kind.matches(found, "Healthy", "True")


def test_static_kinds_only_know_ready_true():
    """spec/cli.md 4, last line."""
    kind = BY_NAME["Alert"]
    assert kind.matches(obj("Alert"), "ready", "TRUE")
    assert not kind.matches(obj("Alert"), "ready", "false")


def test_human_words_are_those_of_the_contract():
    """spec/cli.md 2.4."""
    assert {kind.name: kind.human for kind in KINDS} == {
        "GitRepository": "source git",
        "OCIRepository": "source oci",
        "Bucket": "source bucket",
        "HelmRepository": "source helm",
        "HelmChart": "source chart",
        "ExternalArtifact": "source external-artifact",
        "Kustomization": "kustomization",
        "HelmRelease": "helmrelease",
        "Alert": "alert",
        "Provider": "alert provider",
        "Receiver": "receiver",
        "ImageRepository": "image repository",
        "ImagePolicy": "image policy",
        "ImageUpdateAutomation": "image update automation",
        "ArtifactGenerator": "artifact generator",
    }


def test_listings_over_several_kinds_keep_their_order():
    """spec/cli.md 4 and 11."""
    assert [kind.name for kind in kinds.EVERYTHING] == [
        "OCIRepository",
        "Bucket",
        "GitRepository",
        "HelmRepository",
        "HelmChart",
        "ExternalArtifact",
        "ImageRepository",
        "ImagePolicy",
        "ImageUpdateAutomation",
        "HelmRelease",
        "Kustomization",
        "Receiver",
        "Provider",
        "Alert",
    ]
    assert [kind.name for kind in kinds.STATISTICS][:5] == [
        "GitRepository",
        "OCIRepository",
        "HelmRepository",
        "HelmChart",
        "Bucket",
    ]


def test_paths_name_group_version_namespace_and_plural():
    """The API server's addresses."""
    kind = BY_NAME["HelmRelease"]
    assert kind.path() == "/apis/helm.toolkit.fluxcd.io/v2/helmreleases"
    assert kind.path("a", "b") == "/apis/helm.toolkit.fluxcd.io/v2/namespaces/a/helmreleases/b"


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
@pytest.mark.parametrize("broken", [{}, {"status": []}, {"status": {"conditions": "x"}}, {"spec": None}])
def test_broken_objects_make_cells_not_errors(kind, broken):
    """Objects may be older or newer than their CRD: reading a row never fails."""
    found = {"metadata": {"name": "x", "namespace": "ns"}, **broken}
    assert row(kind, found, all_namespaces=True, show_source=True)[:2] == ["ns", "x"]
