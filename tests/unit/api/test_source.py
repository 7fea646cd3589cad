"""Promises of the source kinds (spec/source.md)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gitopsd.api import source
from gitopsd.api.resource import DecodeError
from gitopsd.api.source import Bucket, ExternalArtifact, GitRepository, HelmChart, HelmRepository, OCIRepository
from gitopsd.krm.objects import ObjectKey


def git(**spec: Any) -> GitRepository:
    return GitRepository.from_object(
        {"metadata": {"name": "app", "namespace": "shop"}, "spec": {"url": "https://h/r", "interval": "1m30s"} | spec}
    )


def helm(**spec: Any) -> HelmRepository:
    return HelmRepository.from_object({"metadata": {"name": "r"}, "spec": {"url": "https://h/charts"} | spec})


def test_s5_1_a_repository_has_the_defaults_of_the_server() -> None:
    """spec/source.md 5.1."""
    spec = git().spec
    assert (spec.interval_seconds, spec.timeout_seconds, spec.provider) == (90.0, 60.0, "generic")
    assert not spec.suspend
    assert not spec.recurse_submodules
    assert spec.ref is None


def test_s5_2_an_empty_ignore_is_not_an_unset_one() -> None:
    """spec/source.md 5.2, 5.4: nil and "" differ."""
    assert git().spec.ignore is None
    assert git(ignore="").spec.ignore == ""
    status = source.GitRepositoryStatus(observed_ignore="")
    assert status.to_builtins() == {"observedIgnore": ""}
    assert source.GitRepositoryStatus().to_builtins() == {}


@pytest.mark.parametrize(
    ("mode", "commit", "tag"),
    [
        (None, True, False),
        ("head", True, False),
        ("HEAD", True, False),
        ("Tag", False, True),
        ("TagAndHEAD", True, True),
    ],
)
def test_a_verification_mode_says_which_signatures_count(mode: str | None, *, commit: bool, tag: bool) -> None:
    verify = git(verify={"secretRef": {"name": "keys"}} | ({"mode": mode} if mode else {})).spec.verify
    assert verify is not None
    assert (verify.verifies_commit, verify.verifies_tag) == (commit, tag)


def test_s5_1_an_include_goes_to_its_repositorys_name_by_default() -> None:
    """spec/source.md 5.1."""
    first, second = git(
        include=[{"repository": {"name": "other"}}, {"repository": {"name": "other"}, "toPath": "x"}]
    ).spec.include
    assert (first.destination, second.destination) == ("other", "x")


def test_an_include_is_observed_as_it_was_written() -> None:
    include = git(include=[{"repository": {"name": "other"}, "fromPath": "deploy"}]).spec.include
    status = source.GitRepositoryStatus(observed_include=include)
    assert status.to_builtins() == {"observedInclude": [{"repository": {"name": "other"}, "fromPath": "deploy"}]}


def test_s2_4_a_helm_repository_needs_no_interval() -> None:
    """spec/source.md 2.4, 7.1: unset or zero is one minute, the time-out is 60s in code."""
    assert (helm().spec.interval_seconds, helm().spec.timeout_seconds) == (60.0, 60.0)
    assert helm(interval="0s").spec.interval_seconds == 60.0
    assert (helm(interval="5m", timeout="2s").spec.interval_seconds, helm(timeout="2s").spec.timeout_seconds) == (
        300,
        2,
    )


def test_s7_3_only_type_oci_makes_a_helm_repository_static() -> None:
    """spec/source.md 7.3: the address does not decide."""
    assert helm(type="oci").spec.is_oci
    assert not helm(url="oci://h/charts").spec.is_oci


def test_an_oci_repository_is_read_with_everything_in_it() -> None:
    spec = OCIRepository.from_object(
        {
            "metadata": {"name": "app"},
            "spec": {
                "url": "oci://h/r",
                "interval": "1m",
                "layerSelector": {"mediaType": "application/x", "operation": "copy"},
                "verify": {
                    "matchOIDCIdentity": [{"issuer": "^i$", "subject": "^s$"}],
                    "trustedRootSecretRef": {"name": "root"},
                },
            },
        }
    ).spec
    assert spec.layer_selector is not None
    assert spec.layer_selector.copies
    assert spec.verify is not None
    assert spec.verify.provider == "cosign"
    assert spec.verify.match_oidc_identity[0].issuer == "^i$"
    assert spec.verify.trusted_root_secret_ref is not None


def test_s1_a_chart_names_its_source_in_its_own_namespace() -> None:
    """spec/source.md 1: no cross-namespace reference in this API."""
    chart = HelmChart.from_object(
        {
            "metadata": {"name": "c", "namespace": "shop"},
            "spec": {
                "chart": "podinfo",
                "interval": "1m",
                "sourceRef": {"kind": "HelmRepository", "name": "r", "namespace": "other"},
            },
        }
    )
    assert chart.source_key == ObjectKey("source.toolkit.fluxcd.io", "HelmRepository", "shop", "r")
    assert (chart.spec.version, chart.spec.reconcile_strategy) == ("*", "ChartVersion")


def test_s8_1_an_oci_repository_is_no_source_of_a_chart() -> None:
    """spec/source.md 8.1."""
    with pytest.raises(DecodeError, match=r"\$\.spec\.sourceRef\.kind"):
        HelmChart.from_object(
            {
                "metadata": {"name": "c"},
                "spec": {"chart": "c", "interval": "1m", "sourceRef": {"kind": "OCIRepository", "name": "r"}},
            }
        )


def test_s9_1_a_bucket_has_the_defaults_of_the_server() -> None:
    """spec/source.md 9.1."""
    spec = Bucket.from_object(
        {"metadata": {"name": "b"}, "spec": {"bucketName": "b", "endpoint": "h", "interval": "1m"}}
    ).spec
    assert (spec.provider, spec.timeout, spec.insecure, spec.sts) == ("generic", "60s", False, None)


def test_s10_an_external_artifact_needs_no_spec() -> None:
    """spec/source.md 10: the spec is for people only."""
    read = ExternalArtifact.from_object({"metadata": {"name": "x"}})
    assert read.status.artifact is None


SUMMARY = {
    GitRepository: "StorageOperationFailed FetchFailed IncludeUnavailable ArtifactOutdated ArtifactInStorage "
    "SourceVerified Stalled Reconciling",
    OCIRepository: "StorageOperationFailed FetchFailed ArtifactOutdated ArtifactInStorage SourceVerified Stalled "
    "Reconciling",
    HelmRepository: "StorageOperationFailed FetchFailed ArtifactOutdated ArtifactInStorage Stalled Reconciling",
    Bucket: "StorageOperationFailed FetchFailed ArtifactOutdated ArtifactInStorage Stalled Reconciling",
    HelmChart: "StorageOperationFailed FetchFailed BuildFailed ArtifactOutdated ArtifactInStorage SourceVerified "
    "Stalled Reconciling",
    ExternalArtifact: "",
}


@pytest.mark.parametrize("kind", source.KINDS)
def test_s3_3_ready_sums_up_the_conditions_of_the_kind_in_order(kind: Any) -> None:
    """spec/source.md 3.3."""
    assert " ".join(kind.SUMMARISED) == SUMMARY[kind]
    assert frozenset(kind.OWNED) == (frozenset({"Ready", *kind.SUMMARISED}) if kind.SUMMARISED else frozenset())


@pytest.mark.parametrize("kind", source.KINDS)
def test_s7_3_an_untouched_status_is_empty(kind: Any) -> None:
    """spec/source.md 7.3 needs it for static repositories."""
    fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
    assert fields["status"].to_builtins() == {}
