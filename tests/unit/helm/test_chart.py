"""Versions, summaries and failures of charts."""

from __future__ import annotations

import pytest

from gitopsd.helm.chart import Build, ChartBuildError, Failure, build_metadata, check_name, merged_files, with_metadata

SHA = "4e5cbb7b97d08a8039b8c1d5c4a1e8a4f1d0a2b3"


@pytest.mark.parametrize(
    ("version", "metadata", "expected"),
    [
        ("6.0.3", "1", "6.0.3+1"),
        ("6.0.3", "4e5cbb7b97d0", "6.0.3+4e5cbb7b97d0"),
        ("6.0.3+old", "4e5cbb7b97d0.2", "6.0.3+4e5cbb7b97d0.2"),
        ("v6.0.3", "1", "6.0.3+1"),
        ("v6.0.3", "", "v6.0.3"),
        ("1.2", "1", "1.2.0+1"),
        ("1.2.3-rc.1", "1", "1.2.3-rc.1+1"),
    ],
)
def test_s8_3_build_metadata_replaces_what_was_there(version: str, metadata: str, expected: str) -> None:
    assert with_metadata(version, metadata) == expected


def test_s17_11_set_metadata_on_a_version_with_v_and_old_metadata() -> None:
    assert with_metadata("v6.0.3+old", "4e5cbb7b97d0.2") == "6.0.3+4e5cbb7b97d0.2"


@pytest.mark.parametrize(
    ("revision", "files", "expected"),
    [
        ("", [], ""),
        ("", ["values.yaml"], ""),
        ("", ["./values.yaml"], ""),
        ("", ["values.yaml", "prod.yaml"], "2"),
        ("", ["prod.yaml"], "2"),
        (f"main@sha1:{SHA}", [], SHA[:12]),
        (f"sha1:{SHA}", [], SHA[:12]),
        (f"main/{SHA}", [], SHA[:12]),
        ("sha256:0123456789abcdef", [], "0123456789ab"),
        (f"refs/heads/main@sha1:{SHA}", ["prod.yaml"], f"{SHA[:12]}.2"),
    ],
)
def test_s8_3_the_source_and_the_generation_show_in_the_version(revision: str, files: list[str], expected: str) -> None:
    assert build_metadata(revision, 2, files) == expected


def test_s8_5_a_version_that_takes_no_metadata_stalls() -> None:
    with pytest.raises(ChartBuildError, match="chart metadata patch error: ") as caught:
        with_metadata("1." * 200, "1")
    assert caught.value.failure is Failure.METADATA


def test_s8_3_the_charts_own_values_alone_make_no_other_chart() -> None:
    assert merged_files(["values.yaml"]) == merged_files(["./values.yaml"]) == ()
    assert merged_files(["chart/values.yaml"]) == ("chart/values.yaml",)
    assert merged_files(["values.yaml", "values.yaml"]) == ("values.yaml", "values.yaml")


@pytest.mark.parametrize(
    ("build", "summary", "reason"),
    [
        (Build("podinfo", "6.0.3"), "new 'podinfo' chart with version '6.0.3'", "ChartPullSucceeded"),
        (
            Build("podinfo", "6.0.3", is_complete=True),
            "pulled 'podinfo' chart with version '6.0.3'",
            "ChartPullSucceeded",
        ),
        (
            Build("podinfo", "6.0.3+1", ("a", "b"), is_complete=True, is_packaged=True),
            "packaged 'podinfo' chart with version '6.0.3+1' and merged values files [a b]",
            "ChartPackageSucceeded",
        ),
    ],
)
def test_s8_4_what_is_said_about_a_build(build: Build, summary: str, reason: str) -> None:
    assert (build.summary, build.reason) == (summary, reason)


def test_s4_2_the_file_is_called_after_chart_and_version() -> None:
    assert Build("podinfo", "6.0.3+1").file_name == "podinfo-6.0.3+1.tgz"
    assert Build("sub/demo", "1.0.0").file_name == "demo-1.0.0.tgz"


@pytest.mark.parametrize("name", ["podinfo", "a-b", "a/b", "a.b", "a/.b", "a/", "a.", "-", "a/b/c.d"])
def test_s8_1_names_of_charts(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "A", "a_b", "/a", ".a", "a//b", "a..b", "a./b", "a b", "../a", "a" * 251, "é"])
def test_s8_1_names_that_are_none(name: str) -> None:
    with pytest.raises(ChartBuildError, match=r"^invalid chart reference: ") as caught:
        check_name(name)
    assert caught.value.failure is Failure.REFERENCE


def test_s8_1_a_hostile_name_costs_no_time() -> None:
    with pytest.raises(ChartBuildError):
        check_name("a" * 249 + "!")


ROWS = {
    "InvalidChartReference": ("invalid chart reference", "FetchFailed", True),
    "ChartPullError": ("chart pull error", "FetchFailed", False),
    "MetadataPatchError": ("chart metadata patch error", "BuildFailed", True),
    "ValuesFilesError": ("values files merge error", "BuildFailed", True),
    "DependencyBuildError": ("dependency build error", "BuildFailed", False),
    "ChartPackageError": ("chart package error", "BuildFailed", False),
    "ChartVerificationError": ("chart verification error", "BuildFailed", False),
    "Unknown": ("unknown build error", "FetchFailed", False),
}


@pytest.mark.parametrize("reason", ROWS)
def test_s8_5_each_failure_has_its_summary_condition_and_class(reason: str) -> None:
    failure = next(one for one in Failure if one.reason == reason)
    assert (failure.summary, failure.condition, failure.stalls) == ROWS[reason]
    assert str(ChartBuildError(failure, "why")) == f"{failure.summary}: why"


def test_s8_5_there_are_no_other_failures() -> None:
    assert {one.reason for one in Failure} == set(ROWS)
