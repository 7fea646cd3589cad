"""The blocks of a trace report (`spec/cli.md` 10)."""

from __future__ import annotations

import time

import pytest

from gitopsd.cli.kinds import EXTERNAL_ARTIFACT, GIT_REPOSITORY, HELM_REPOSITORY, OCI_REPOSITORY
from gitopsd.cli.trace import chart_block, kustomization_block, local_time, release_block, source_block

ORIGIN = {"org.opencontainers.image.revision": "main@sha1:b", "org.opencontainers.image.source": "https://git"}


def obj(spec=None, status=None):
    return {"metadata": {"name": "x", "namespace": "ns"}, "spec": spec or {}, "status": status or {}}


def ready(status="True"):
    return {"conditions": [{"type": "Ready", "status": status, "message": "m", "lastTransitionTime": "odd"}]}


def lines(block):
    return [tuple(part.strip() for part in line.split(":", 1)) for line in block.lines]


def labels(block):
    return [label for label, _ in lines(block)]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"branch": "main"}, ("Branch", "main")),
        ({"branch": "main", "tag": "v1"}, ("Tag", "v1")),
        ({"semver": "1.x", "branch": "main"}, ("Tag", "1.x")),
    ],
)
def test_a_git_repository_shows_tag_before_branch(reference, expected):
    """spec/cli.md 10, GitRepository."""
    block = source_block(GIT_REPOSITORY, obj({"url": "u", "ref": reference}), for_release=False)
    assert lines(block)[3] == expected


def test_a_git_repository_without_reference_shows_neither():
    """spec/cli.md 10, GitRepository."""
    block = source_block(GIT_REPOSITORY, obj({"url": "u"}), for_release=False)
    assert labels(block) == ["GitRepository", "Namespace", "URL", "Status"]
    assert lines(block)[-1] == ("Status", "Unknown")


def test_a_failed_source_says_so():
    """spec/cli.md 10: `Last reconciliation failed at`."""
    block = source_block(GIT_REPOSITORY, obj(status=ready("False")), for_release=False)
    assert lines(block)[-2:] == [("Status", "Last reconciliation failed at odd"), ("Message", "m")]


@pytest.mark.parametrize("for_release", [True, False])
def test_an_oci_repository_shows_its_origin_only_beside_a_kustomization(for_release):
    """spec/cli.md 10, OCIRepository; 17 wide in both reports."""
    status = {"artifact": {"revision": "r", "metadata": ORIGIN}, **ready()}
    found = obj({"url": "oci://u", "ref": {"digest": "sha256:0"}}, status)
    block = source_block(OCI_REPOSITORY, found, for_release=for_release)
    assert ("Digest", "sha256:0") in lines(block)
    assert (("Origin Revision", "main@sha1:b") in lines(block)) is not for_release
    assert (("Origin Source", "https://git") in lines(block)) is not for_release
    assert block.lines[0] == "OCIRepository:   x"


def test_widths_of_the_helm_report():
    """spec/cli.md 10: 16, GitRepository 15, ExternalArtifact 17."""
    assert source_block(GIT_REPOSITORY, obj(), for_release=True).lines[:2] == ["GitRepository: x", "Namespace:     ns"]
    assert source_block(HELM_REPOSITORY, obj(), for_release=True).lines[0] == "HelmRepository: x"
    assert source_block(EXTERNAL_ARTIFACT, obj(), for_release=True).lines[1] == "Namespace:       ns"
    assert release_block(obj()).lines[0] == "HelmRelease:    x"
    assert chart_block(obj()).lines[0] == "HelmChart:      x"


def test_an_external_artifact_shows_where_it_comes_from():
    """spec/cli.md 10, ExternalArtifact."""
    block = source_block(EXTERNAL_ARTIFACT, obj({"sourceRef": {"kind": "Maker", "name": "m"}}), for_release=False)
    assert lines(block)[2] == ("Source", "Maker/ns/m")


def test_a_kustomization_without_ready_is_unknown():
    """spec/cli.md 10: no Ready → Unknown, no message."""
    block = kustomization_block(obj({"path": "./p"}, {"lastAppliedRevision": "r"}))
    assert block.lines == [
        "Kustomization:   x",
        "Namespace:       ns",
        "Path:            ./p",
        "Revision:        r",
        "Status:          Unknown",
    ]


def test_S01_a_value_cannot_forge_a_line():
    """spec/hostile-inputs.md S01."""
    block = kustomization_block(obj({"path": "p\nStatus:          fine\x1b[2J"}))
    assert block.lines[2] == "Path:            p\\nStatus:          fine\\x1b[2J"


@pytest.mark.parametrize(
    ("zone", "expected"),
    [("UTC", "2026-08-07 12:00:00 +0000 UTC"), ("XYZ-3", "2026-08-07 15:00:00 +0300 XYZ")],
)
def test_times_are_local_and_as_go_prints_them(zone, expected, monkeypatch):
    """spec/cli.md 10, times."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", zone)
        time.tzset()
        found = local_time("2026-08-07T12:00:00Z")
    time.tzset()
    assert expected == found
